"""Ansible module: a configuration tree that is proven before it replaces the one that serves."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import shutil
import time
from pathlib import Path

from ansible.module_utils.filesystem import read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.unix_http import ask

DOCUMENTATION = r"""
---
module: nginx_config
short_description: NGINX's configuration tree, tested beside the live one and proven to serve
description:
  - Renders the tree beside the live one (<root>.next) and tests it there, so that the live one is never half new.
  - After the reload, asks a local status socket which configuration serves. A reload can succeed and leave the old
    configuration in place ("still could not bind"), which nothing but the new workers' answer tells.
  - When the new one doesn't serve, puts the old one back and fails with NGINX's error log.
  - A server that doesn't run, and refuses the tree, is started without those of O(expendable) that it refuses.
  - Files that neither this module nor a package made are reported and refused, or moved aside with O(adopt).
    Never deleted.
options:
  root:
    description: Folder of nginx.conf.
    type: path
    default: /etc/nginx
  files:
    description: Content by path below O(root).
    type: dict
    default: {}
  owned:
    description: Patterns of paths below O(root) that hold nothing but O(files). Other files of ours there disappear.
    type: list
    elements: str
    default: []
  status_socket:
    description: Unix socket on which the configuration answers /configuration with its id.
    type: path
    default: /run/nginx/status.sock
  adopt:
    description: Whether foreign files may be moved to /var/backups/flask-on-metal, once the new configuration serves.
    type: bool
    default: false
  expendable:
    description: Patterns of paths of ours that a server which doesn't run may start without. An asterisk is no slash.
    type: list
    elements: str
    default: []
  only_look:
    description: Whether to look for foreign files and do nothing else. The first thing on a host.
    type: bool
    default: false
  only_test:
    description: Whether to test what O(files) would make of the tree, and change nothing.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: One site is served
  nginx_config:
    files:
      sites/example.conf: "server { … }"
    owned: [sites/*.conf]
"""

RETURN = r"""
configuration_id:
  description: What the status socket answers.
  returned: when anything is configured
  type: str
"""

STATE = Path("/var/lib/flask-on-metal/nginx")
BACKUPS = Path("/var/backups/flask-on-metal")
ID_FILE = "configuration_id.conf"
# What dpkg puts beside a changed configuration file at an upgrade, and what an interrupted atomic write leaves.
# NGINX includes neither.
WITHOUT_EFFECT = re.compile(r".*\.(dpkg-[a-z]+|ucf-[a-z]+)|\..+\.[a-z0-9_]{8}")
# Seconds for a reload to show. New workers answer within a second; ten times that is a stall.
RELOAD_SECONDS = 15.0


def digest(text: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class Configuration:
    """The live tree, the wanted one and the server that reads them."""

    def __init__(self, module: AnsibleModule) -> None:
        """Note what is wanted, and what is known to be ours."""
        args = module.params
        self.module = module
        self.root = Path(args["root"])
        self.beside = self.root.with_name(self.root.name + ".next")
        self.wanted: dict[str, str] = args["files"]
        self.owned: list[str] = args["owned"]
        self.expendable: list[str] = args["expendable"]
        # Paths below the root that this module made.
        self.manifest: set[str] = set(json.loads(read_text(STATE / "manifest.json") or "[]"))

    # --- what is there -------------------------------------------------------------------------------------------

    def packaged(self) -> dict[str, str]:
        """MD5 by path of the configuration files below the root that packages own."""
        _, out, _ = self.module.run_command(["dpkg-query", "--show", "--showformat=${Conffiles}\n"])
        rows = (line.split() for line in out.splitlines() if f" {self.root}/" in line)
        return {row[0]: row[1] for row in rows if len(row) >= 2}

    def foreign(self) -> list[str]:
        """Paths below the root that are neither ours nor a package's in the package's own words."""
        packaged = self.packaged()

        def ours_or_packaged(path: Path) -> bool:
            if path.is_symlink():
                target = path.resolve()
                if target.is_relative_to("/usr/share/nginx") or not target.exists():
                    return True
                # Debian's link to its default site: a package's as long as that file is.
                return str(target) in packaged and ours_or_packaged(target)
            if str(path.relative_to(self.root)) in self.manifest:
                return True
            md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            return packaged.get(str(path)) == md5

        files = (path for path in sorted(self.root.rglob("*")) if path.is_symlink() or path.is_file())
        return [str(path) for path in files if not WITHOUT_EFFECT.fullmatch(path.name) and not ours_or_packaged(path)]

    def refuse_foreign(self) -> None:
        """Fail over foreign files, unless they may be set aside."""
        found = self.foreign() if self.root.is_dir() else []
        if found and not self.module.params["adopt"]:
            self.module.fail_json(
                msg=f"These files in {self.root} were made by somebody else and would no longer have an effect: "
                + ", ".join(found)
                + f". Remove them, or set nginx_adopt: true to have them moved to {BACKUPS}. Nothing was changed."
            )

    def adoptable(self) -> list[str]:
        """Foreign files that are to be set aside."""
        return self.foreign() if self.module.params["adopt"] and self.root.is_dir() else []

    def keep(self, names: list[str]) -> None:
        """Copy files to the backups, with their paths below the root."""
        aside = BACKUPS / time.strftime("nginx-%Y%m%dT%H%M%SZ", time.gmtime())
        for name in names:
            to = aside / Path(name).relative_to(self.root)
            to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copy2(name, to, follow_symlinks=False)

    def adopt(self, names: list[str]) -> None:
        """Take away what is without effect now. A package's file that somebody edited stays: ours may include it."""
        packaged = self.packaged()
        for path in map(Path, names):
            if str(path) in packaged:
                self.manifest.add(str(path.relative_to(self.root)))
            elif str(path.relative_to(self.root)) not in self.wanted:
                path.unlink()

    def changes(self) -> tuple[dict[str, str], list[str]]:
        """Files to write with their content, and files to remove."""
        write = {name: text for name, text in self.wanted.items() if read_text(self.root / name) != text}
        gone = [
            name
            for name in sorted(self.manifest)
            if name not in self.wanted and any(fnmatch.fnmatch(name, pattern) for pattern in self.owned)
        ]
        return write, gone

    # --- the server ----------------------------------------------------------------------------------------------

    def serving(self) -> str | None:
        """Id of the configuration that answers now, or None where none does."""
        answer = ask(Path(self.module.params["status_socket"]), "localhost", "/configuration", timeout=2)
        return answer.text if answer.good else None

    def serves(self, wanted: str) -> bool:
        """Whether the workers answer with this id, five times in a row, before the time is over."""
        end, row = time.monotonic() + RELOAD_SECONDS, 0
        while row < 5 and time.monotonic() < end:
            row = row + 1 if self.serving() == wanted else 0
            time.sleep(0.02)
        return row == 5

    def recorded(self) -> str:
        """Id of the configuration in the live tree."""
        return (read_text(self.root / ID_FILE) or "").partition("{ default ")[2].partition(";")[0]

    def running(self) -> bool:
        """Whether systemd runs NGINX."""
        status, _, _ = self.module.run_command(["systemctl", "is-active", "--quiet", "nginx.service"])
        return bool(status == 0)

    def load(self) -> str:
        """Have NGINX read the live tree; returns what systemctl complained of."""
        status, out, err = self.module.run_command(["systemctl", "reload-or-restart", "nginx.service"])
        return "" if status == 0 else (out + err).strip()

    def log_since(self, position: int) -> str:
        """Fetch what NGINX wrote to its error log since a position in bytes."""
        try:
            with Path("/var/log/nginx/error.log").open("rb") as log:
                log.seek(position)
                return log.read()[-4000:].decode(errors="replace").strip()
        except OSError:
            return ""

    # --- the change ----------------------------------------------------------------------------------------------

    def render(self, write: dict[str, str], gone: list[str]) -> None:
        """Render the whole tree beside the live one."""
        shutil.rmtree(self.beside, ignore_errors=True)
        shutil.copytree(self.root, self.beside, symlinks=True)
        for name, text in write.items():
            path = self.beside / name
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomically(path, text, 0o644)
        for name in gone:
            (self.beside / name).unlink(missing_ok=True)
        # The test binds what it can; before the first start systemd hasn't made the status socket's folder yet.
        Path(self.module.params["status_socket"]).parent.mkdir(mode=0o700, exist_ok=True)

    def identify(self, gone: list[str]) -> str:
        """Give the tree beside the live one its id, which is that of its files; returns it."""
        names = sorted((self.manifest | set(self.wanted)) - set(gone) - {ID_FILE})
        whole = "\n".join(f"{name} {digest(read_text(self.beside / name) or '')}" for name in names)
        configuration_id = digest(whole)[:16]
        text = (
            "# What the status socket answers: it proves which configuration serves.\n"
            f"map '' $configuration_id {{ default {configuration_id}; }}\n"
        )
        write_atomically(self.beside / ID_FILE, text, 0o644)
        return configuration_id

    def refusal(self) -> str:
        """Test the tree beside the live one; returns what NGINX has against it, by the live tree's paths."""
        status, out, err = self.module.run_command(["nginx", "-t", "-c", str(self.beside / "nginx.conf")])
        return (out + err).replace(str(self.beside), str(self.root)).strip() if status else ""

    def refused(self, said: str) -> str:
        """Tell what NGINX has against the new tree, and what it serves meanwhile."""
        shutil.rmtree(self.beside)
        still = (
            "the old one goes on serving."
            if self.serving()
            else "nothing was changed. It doesn't answer with the old one either, so this host serves nobody."
        )
        return f"NGINX refuses the new configuration; {still}\n{said}"

    def stage(self, write: dict[str, str], gone: list[str], *, running: bool) -> tuple[str, list[str]]:
        """Render the whole tree beside the live one and test it there; returns its id, and what was left out of it."""
        self.render(write, gone)
        configuration_id, left_out = self.identify(gone), []
        if said := self.refusal():
            left_out = [] if running else self.leave_out()
            if not left_out:
                self.module.fail_json(msg=self.refused(said))
            self.module.warn(
                f"NGINX did not run, and starts without {', '.join(left_out)}, which a later task writes anew. "
                f"It said:\n{said}"
            )
            configuration_id = self.identify([*gone, *left_out])
        return configuration_id, left_out

    def leave_out(self) -> list[str]:
        """Take expendable files that NGINX refuses out of the tree beside the live one; none where that doesn't do.

        Where one file keeps the server from starting, all others would be gone from the net with it.
        """
        names = [
            name
            for name in sorted(self.manifest - set(self.wanted))
            if (self.beside / name).exists()
            and any(fnmatch.fnmatch(name, one) and name.count("/") == one.count("/") for one in self.expendable)
        ]
        aside = {name: (self.beside / name).read_bytes() for name in names}
        for name in names:
            (self.beside / name).unlink()
        left_out: list[str] = []
        if self.refusal():
            return left_out
        for name, content in aside.items():
            (self.beside / name).write_bytes(content)
            if self.refusal():
                (self.beside / name).unlink()
                left_out.append(name)
        return left_out

    def test(self, write: dict[str, str], gone: list[str]) -> None:
        """Test what would come, and leave all as it is."""
        self.render(write, gone)
        self.identify(gone)
        if said := self.refusal():
            self.module.fail_json(msg=self.refused(said))
        shutil.rmtree(self.beside)

    def replace(self, write: list[str], gone: list[str]) -> dict[str, str | None]:
        """Copy the changed files from the staged tree to the live one; returns what was there."""
        before = {name: read_text(self.root / name) for name in [*write, *gone]}
        for name in write:
            path = self.root / name
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomically(path, read_text(self.beside / name) or "", 0o644)
        for name in gone:
            (self.root / name).unlink(missing_ok=True)
        return before

    def put_back(self, before: dict[str, str | None]) -> None:
        """Undo `replace`."""
        for name, text in before.items():
            if text is None:
                (self.root / name).unlink(missing_ok=True)
            else:
                write_atomically(self.root / name, text, 0o644)

    def remember(self, gone: list[str]) -> None:
        """Write down which files are ours, before they are made: an interrupted run must know its own files."""
        self.manifest = (self.manifest | {*self.wanted, ID_FILE}) - set(gone)
        STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomically(STATE / "manifest.json", json.dumps(sorted(self.manifest)) + "\n", 0o644)

    def bring_about(self, write: dict[str, str], gone: list[str], adopted: list[str]) -> str:
        """Test, replace, reload, prove; returns the id of what serves then.

        What is adopted is copied before anything is replaced, and taken away only when it is no longer needed.
        """
        log = Path("/var/log/nginx/error.log")
        position = log.stat().st_size if log.exists() else 0
        running = self.running()
        if not running:
            # Left by a server that was killed, it would keep the next one from starting.
            Path(self.module.params["status_socket"]).unlink(missing_ok=True)
        configuration_id, left_out = self.stage(write, gone, running=running)
        gone = [*gone, *left_out]
        self.keep(adopted)
        self.remember([])
        before = self.replace([*write, ID_FILE], gone)
        shutil.rmtree(self.beside)
        if not running:
            # systemd starts nothing that failed to start too often a moment ago.
            self.module.run_command(["systemctl", "reset-failed", "nginx.service"])
        complaint = self.load()
        if complaint or not self.serves(configuration_id):
            said = self.log_since(position)
            self.put_back(before)
            if running:
                self.load()
                again = self.serves(self.recorded())
                still = "It serves again." if again else "NGINX doesn't serve it: journalctl -u nginx, on the host."
            else:
                # Debian's welcome page is not what was there before.
                self.module.run_command(["systemctl", "stop", "nginx.service"])
                still = "NGINX was stopped, since it didn't run before."
            self.module.fail_json(
                msg=f"The new configuration was valid but does not serve; the old one was put back. {still}\n"
                f"systemctl: {complaint or 'no complaint'}\nThe error log says:\n{said or '(nothing)'}"
            )
        self.adopt(adopted)
        self.remember(gone)
        return configuration_id


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/etc/nginx"},
            "files": {"type": "dict", "default": {}},
            "owned": {"type": "list", "elements": "str", "default": []},
            "status_socket": {"type": "path", "default": "/run/nginx/status.sock"},
            "adopt": {"type": "bool", "default": False},
            "expendable": {"type": "list", "elements": "str", "default": []},
            "only_look": {"type": "bool", "default": False},
            "only_test": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    configuration = Configuration(module)
    if module.params["only_look"]:
        configuration.refuse_foreign()
        module.exit_json(changed=False)
    write, gone = configuration.changes()
    adopted = configuration.adoptable()
    diff = [
        {
            "before_header": str(configuration.root / name),
            "after_header": str(configuration.root / name),
            "before": read_text(configuration.root / name) or "",
            "after": write.get(name, ""),
        }
        for name in [*write, *gone]
    ]
    serving = configuration.serving()
    # A run that was interrupted between replace and reload is mended here, though no file differs.
    right = serving is not None and serving == configuration.recorded()
    if module.params["only_test"]:
        # A host in check mode may have no NGINX yet.
        if (write or gone) and not module.check_mode:
            configuration.test(write, gone)
        module.exit_json(changed=False)
    if not write and not gone and not adopted and right:
        module.exit_json(changed=False, configuration_id=serving)
    if module.check_mode:
        module.exit_json(changed=True, configuration_id="to be made", diff=diff)
    configuration_id = configuration.bring_about(write, gone, adopted)
    module.exit_json(changed=True, configuration_id=configuration_id, diff=diff)


if __name__ == "__main__":
    main()
