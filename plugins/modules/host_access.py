"""Ansible module: what decides who reaches a host, changed so that a mistake undoes itself."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ansible.module_utils.filesystem import read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.other_firewalls import shut_by

DOCUMENTATION = r"""
---
module: host_access
short_description: Firewall and sshd, changed so that a mistake undoes itself
description:
  - Everything is proven before it is used (C(nft --check), C(sshd -t) on the whole configuration, and C(sshd -T) for
    what is in force then), so a wrong rule is one message and nothing is changed.
  - What only a try can tell (whether the operator still gets in) is tried. A timer is armed that puts everything back,
    then the change takes effect, and then the action plugin of the same name comes again by a really new SSH
    connection, through the same jump host and with the same key. Only that disarms the timer.
  - The timer is a unit on the host's disk. It goes off though the control node has died, and after a reboot as well.
  - Owns one nftables table, inet flask_on_metal. No other table is changed or flushed. One that lets no visitor in is
    told.
  - Where nothing differs, nothing of this happens. Supports check mode and diff.
options:
  firewall:
    description: Text for C(nft -f) that replaces the table by itself. Empty means no table, and no unit.
    type: str
    default: ""
  firewall_unit:
    description: The unit that loads it at boot.
    type: str
    default: ""
  ssh:
    description: Text of the drop-in for sshd. Empty means none.
    type: str
    default: ""
  ssh_allow_users:
    description: What AllowUsers of the drop-in says; the account that this run uses must be among them.
    type: list
    elements: str
    default: []
  undo_program:
    description: The script that puts everything back.
    type: str
    default: ""
  undo_seconds:
    description: After how many seconds it does, unless a new connection succeeded before.
    type: int
    default: 60
  step:
    description: What to do. The action plugin asks for confirm and look, nobody else does.
    type: str
    choices: [apply, confirm, look]
    default: apply
"""

EXAMPLES = r"""
- name: A firewall that lets SSH in
  host_access:
    firewall: "{{ lookup('ansible.builtin.template', 'firewall.nft.j2') }}"
    firewall_unit: "{{ lookup('ansible.builtin.template', 'firewall.service.j2') }}"
    undo_program: "{{ lookup('ansible.builtin.file', 'undo_access.sh') }}"
"""

RETURN = r"""
changed_paths:
  description: What was (or would be) made, replaced or removed.
  returned: step apply
  type: list
  elements: str
changes:
  description: The same in words.
  returned: step apply
  type: list
  elements: str
shut_by:
  description: Other firewalls of the host that let in neither HTTP nor HTTPS, each in a sentence.
  returned: step apply
  type: list
  elements: str
state:
  description: Whether a change waits for its confirmation (armed), was taken back (undone), or neither (quiet).
  returned: step look
  type: str
"""

TABLE = "flask_on_metal"
FIREWALL = Path("/etc/flask-on-metal/firewall.nft")
UNIT = Path("/etc/systemd/system/flask-on-metal-firewall.service")
WANTED_BY = Path("/etc/systemd/system/sysinit.target.wants/flask-on-metal-firewall.service")
SSHD_CONFIG = Path("/etc/ssh/sshd_config")
DROP_INS = Path("/etc/ssh/sshd_config.d")
# The first value wins in sshd's configuration, and drop-ins are read in the order of their names.
DROP_IN = DROP_INS / "00-flask-on-metal.conf"

RUN_SSHD = Path("/run/sshd")

STATE = Path("/var/lib/flask-on-metal/access")
UNDO_UNITS = Path("/etc/systemd/system")
UNDO = "flask-on-metal-undo"
UNDO_SERVICE = """\
[Unit]
Description=Puts back how this host was reached, since no new connection confirmed the change

[Service]
Type=oneshot
ExecStart=/bin/bash {program}
"""
# On the disk and wanted by timers.target: after a power cut it begins anew.
UNDO_TIMER = """\
[Unit]
Description=Undoes a change of firewall or sshd unless a new connection confirms it

[Timer]
OnActiveSec={seconds}
AccuracySec=100ms
"""


@dataclass(frozen=True)
class Change:
    """One path that is not as it should be: a file's text, a link's target, or None where nothing is to be."""

    path: Path
    before: str | None
    after: str | None

    @property
    def text(self) -> str:
        """Say it in words."""
        return f"{self.path} {'removed' if self.after is None else 'made' if self.before is None else 'changed'}"


# --- who is here


def ancestors(pid: int) -> Iterator[int]:
    """List the processes that a process descends from, the nearest first."""
    while pid > 1:
        found = re.search(r"^PPid:\s+(\d+)", read_text(Path(f"/proc/{pid}/status")) or "", re.MULTILINE)
        pid = int(found[1]) if found else 0
        if pid:
            yield pid


def session() -> int | None:
    """Find the process of sshd that serves this connection, or None where the host is reached by other ways."""
    for pid in ancestors(os.getpid()):
        if (read_text(Path(f"/proc/{pid}/comm")) or "").strip() in ("sshd", "sshd-session"):
            return pid
    return None


def account(pid: int) -> str:
    """Name the account of a process: for sshd's session, whoever logged in, whatever sudo made of it afterwards."""
    uid = Path(f"/proc/{pid}").stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def started(pid: int) -> float:
    """Tell when a process was started, in seconds since the boot."""
    stat = (read_text(Path(f"/proc/{pid}/stat")) or "").rpartition(")")[2].split()
    return int(stat[19]) / os.sysconf("SC_CLK_TCK")


def now() -> float:
    """Tell the time in seconds since the boot, on the clock that processes' starts are counted by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# --- sshd's configuration


def settings(text: str) -> dict[str, list[str]]:
    """Read what `sshd -T` prints: values by option, several for those that may be given several times."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), []).append(value)
    return found


def directives(text: str) -> Iterator[tuple[int, str, str]]:
    """List the directives of a configuration file, up to its first Match: line number, option in lower case, line."""
    for number, line in enumerate(text.splitlines(), 1):
        if words := re.split(r"[\s=]+", line.strip(), maxsplit=1):
            if words[0].lower() == "match":
                return
            if words[0] and not words[0].startswith("#"):
                yield number, words[0].lower(), line.strip()


def includes_drop_ins(main: str) -> bool:
    """Tell whether a main configuration includes our folder."""
    return any(name == "include" and str(DROP_INS) in line for _, name, line in directives(main))


def whose(option: str, files: Mapping[str, str]) -> list[str]:
    """List where an option is set before ours, for people who look for what overrides it.

    Args:
        option: Its name in lower case.
        files: Text by path of the drop-ins besides ours, and of the main configuration.
    """
    found, early = [], []
    for path, text in files.items():
        before = Path(path).parent == DROP_INS and path < str(DROP_IN)
        main = Path(path).parent != DROP_INS
        for number, name, line in directives(text):
            main = main and not (name == "include" and str(DROP_INS) in line)
            if name == option:
                found.append(f"{path} line {number}: {line}")
                early += found[-1:] if before or main else []
    # AllowUsers adds up, wherever it is.
    return early or found


class Access:
    """The wanted state of firewall and sshd, and the way there."""

    def __init__(self, module: AnsibleModule) -> None:
        """Note what is wanted."""
        args = module.params
        self.module = module
        self.firewall: str = args["firewall"]
        self.unit: str = args["firewall_unit"] if self.firewall else ""
        self.ssh: str = args["ssh"]
        self.users: list[str] = args["ssh_allow_users"]
        self.undo_program: str = args["undo_program"]
        self.seconds: int = args["undo_seconds"]

    def run(self, *words: str) -> tuple[int, str]:
        """Run a command; returns its status and what it said."""
        status, out, err = self.module.run_command(list(words))
        return int(status), (out + err).strip()

    def must(self, *words: str) -> None:
        """Run a command that has to succeed.

        Raises:
            OSError: It failed; the text is what it said.
        """
        status, said = self.run(*words)
        if status:
            raise OSError(f"{' '.join(words)}: {said}")

    # --- what differs

    def wanted(self) -> dict[Path, str | None]:
        """List what should be where; a link is its target with an arrow before it."""
        # Without an sshd there is nothing to harden.
        ssh = self.ssh if SSHD_CONFIG.exists() else ""
        return {
            DROP_IN: ssh or None,
            FIREWALL: self.firewall or None,
            UNIT: self.unit or None,
            WANTED_BY: f"-> {UNIT}" if self.unit else None,
        }

    def changes(self) -> list[Change]:
        """Compare with what is there."""
        there = {path: f"-> {path.readlink()}" if path.is_symlink() else read_text(path) for path in self.wanted()}
        return [Change(path, there[path], after) for path, after in self.wanted().items() if there[path] != after]

    def listing(self) -> str | None:
        """Read our table as the kernel has it, without what counts or changes by itself; None where there is none."""
        if shutil.which("nft") is None:
            return None
        status, out, _ = self.module.run_command(["nft", "--stateless", "--terse", "list", "table", "inet", TABLE])
        return str(out) if status == 0 else None

    def stamp(self) -> str | None:
        """Digest of the file and of the table that came of it: either may be changed by hand."""
        listing = self.listing()
        return None if listing is None else hashlib.sha256(f"{self.firewall}\0{listing}".encode()).hexdigest()

    def loaded(self) -> bool:
        """Tell whether the kernel has the table that is wanted, or none if none is."""
        if not self.firewall:
            return self.listing() is None
        stamp = self.stamp()
        return stamp is not None and stamp == read_text(STATE / "loaded")

    # --- is it right?

    def prove_firewall(self) -> None:
        """Fail where nft would not take the rules."""
        # On a clean host, in check mode, the package isn't there yet.
        if not self.firewall or shutil.which("nft") is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            staged = Path(folder, "firewall.nft")
            staged.write_text(self.firewall)
            status, said = self.run("nft", "--check", "--file", str(staged))
            if status:
                self.module.fail_json(
                    msg="nft refuses the firewall's rules; nothing was changed. Those of your own are in "
                    "host_firewall_rules (in the chain input, after 'Yours').\n"
                    + said.replace(str(staged), str(FIREWALL))
                )

    def prove_ssh(self) -> None:
        """Fail where sshd would not take the drop-in, where it would be without effect, or close the account in use."""
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        if not self.ssh or sshd is None or not SSHD_CONFIG.exists():
            return
        self.prove_account()
        main = read_text(SSHD_CONFIG) or ""
        if not includes_drop_ins(main):
            self.module.fail_json(
                msg=f"{SSHD_CONFIG} doesn't include {DROP_INS}/*.conf, so hardening would be without effect. "
                f"Write this line at its top, as Debian has it:\nInclude {DROP_INS}/*.conf\n"
                "or leave sshd alone with host_ssh_hardening: false. Nothing was changed."
            )
        # sshd looks for it even to test; systemd makes it, when it starts sshd.
        RUN_SSHD.mkdir(mode=0o755, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            staged, drop_ins = Path(folder, "sshd_config"), Path(folder, "sshd_config.d")
            drop_ins.mkdir()
            others = {str(path): read_text(path) or "" for path in sorted(DROP_INS.glob("*.conf")) if path != DROP_IN}
            for path, text in {**others, str(DROP_IN): self.ssh}.items():
                (drop_ins / Path(path).name).write_text(text)
            staged.write_text(main.replace(str(DROP_INS), str(drop_ins)))
            status, said = self.run(sshd, "-t", "-f", str(staged))
            if status:
                said = said.replace(str(drop_ins), str(DROP_INS)).replace(str(staged), str(SSHD_CONFIG))
                self.module.fail_json(msg=f"sshd refuses its configuration; nothing was changed.\n{said}")
            whole = settings(self.run(sshd, "-T", "-f", str(staged))[1])
            alone = settings(self.run(sshd, "-T", "-f", str(drop_ins / DROP_IN.name))[1])
        ours = {name for _, name, _ in directives(self.ssh)}
        lost = sorted(name for name in ours if sorted(whole.get(name, [])) != sorted(alone.get(name, [])))
        if lost:
            places = [place for name in lost for place in whose(name, {**others, str(SSHD_CONFIG): main})]
            self.module.fail_json(
                msg=f"{DROP_IN} would not be in force: {', '.join(lost)} is decided elsewhere, since the first value "
                "wins. Take these lines out, or leave sshd alone with host_ssh_hardening: false. Nothing was changed.\n"
                + "\n".join(f"- {place}" for place in places or ["a file that one of them includes"])
            )

    def prove_account(self) -> None:
        """Fail where AllowUsers lacks the account that this run came by."""
        here = session()
        if not self.users or here is None:
            return
        name = account(here)
        if not any(fnmatchcase(name, pattern.partition("@")[0]) for pattern in self.users):
            self.module.fail_json(
                msg=f"host_ssh_allow_users would close the account that this run uses: {name} is not in "
                f"{', '.join(self.users)}. Add it. Nothing was changed."
            )

    # --- the change

    def arm(self, changes: list[Change]) -> None:
        """Keep what is there now, and have the host put it back in a while."""
        armed = STATE / "armed"
        shutil.rmtree(STATE / "next", ignore_errors=True)
        beside = STATE / "next"
        (beside / "before").mkdir(mode=0o700, parents=True)
        absent = []
        for change in changes:
            if change.before is None:
                absent.append(str(change.path))
                continue
            kept = beside / "before" / change.path.relative_to("/")
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(change.path, kept, follow_symlinks=False)
        write_atomically(beside / "absent", "".join(f"{path}\n" for path in absent), 0o600)
        if self.listing() is not None:
            write_atomically(beside / "table_was_loaded", "", 0o600)
        if (loaded := read_text(STATE / "loaded")) is not None:
            write_atomically(beside / "loaded", loaded, 0o600)
        write_atomically(beside / "at", str(now()), 0o600)
        program = STATE / "undo.sh"
        write_atomically(program, self.undo_program, 0o700)
        shutil.rmtree(STATE / "undone", ignore_errors=True)
        beside.replace(armed)
        write_atomically(UNDO_UNITS / f"{UNDO}.service", UNDO_SERVICE.format(program=program), 0o644)
        write_atomically(UNDO_UNITS / f"{UNDO}.timer", UNDO_TIMER.format(seconds=self.seconds), 0o644)
        wants = UNDO_UNITS / "timers.target.wants" / f"{UNDO}.timer"
        wants.parent.mkdir(exist_ok=True)
        wants.unlink(missing_ok=True)
        wants.symlink_to(UNDO_UNITS / f"{UNDO}.timer")
        self.must("systemctl", "daemon-reload")
        self.must("systemctl", "restart", f"{UNDO}.timer")

    def apply(self, changes: list[Change]) -> None:
        """Have it take effect.

        Raises:
            OSError: Something did not work; what was done so far has to be undone.
        """
        for change in changes:
            path, after = change.path, change.after
            if after is None:
                path.unlink(missing_ok=True)
            elif after.startswith("-> "):
                path.parent.mkdir(exist_ok=True)
                path.unlink(missing_ok=True)
                path.symlink_to(after.removeprefix("-> "))
            else:
                path.parent.mkdir(mode=0o755, exist_ok=True)
                write_atomically(path, after, 0o600 if path in (FIREWALL, DROP_IN) else 0o644)
        self.must("systemctl", "daemon-reload")
        if self.firewall:
            if not self.loaded():
                # The file replaces the table in one transaction: there is no moment without rules.
                self.must("nft", "--file", str(FIREWALL))
            # What loads it at boot counts as having done so.
            self.must("systemctl", "start", UNIT.name)
            write_atomically(STATE / "loaded", self.stamp() or "", 0o600)
        else:
            self.run("systemctl", "stop", UNIT.name)
            if self.listing() is not None:
                self.must("nft", "delete", "table", "inet", TABLE)
        if any(change.path == DROP_IN for change in changes):
            # Where ssh.socket listens, a reload kills sshd ("Cannot bind any address"), which opens ports itself.
            # A restart takes the socket over again; connections live on. One that nobody started needs nothing.
            socket = self.run("systemctl", "is-active", "--quiet", "ssh.socket")[0] == 0
            self.must("systemctl", "try-restart" if socket else "try-reload-or-restart", "ssh.service")
        if not (STATE / "armed").exists():
            # The timer went off in the middle, and what was written since then is to be undone as well.
            (STATE / "undone").replace(STATE / "armed")
            raise OSError(f"it took longer than host_access_undo_seconds ({self.seconds})")

    def undo(self) -> str:
        """Put everything back now; returns what the script said, if it failed."""
        status, said = self.run("bash", str(STATE / "undo.sh"))
        return said if status else ""

    def confirm(self) -> None:
        """Disarm, if this is a connection that was made after the change."""
        armed = STATE / "armed"
        since = float(read_text(armed / "at") or 0)
        here = session()
        if here is not None and started(here) < since:
            self.module.fail_json(msg="this connection is older than the change, so it proves nothing")
        # Whoever renames it first has decided.
        shutil.rmtree(STATE / "confirmed", ignore_errors=True)
        try:
            armed.replace(STATE / "confirmed")
        except FileNotFoundError:
            self.module.fail_json(msg="no change waits for its confirmation: the timer was faster")
        self.run("systemctl", "stop", f"{UNDO}.timer")
        for path in (
            UNDO_UNITS / "timers.target.wants" / f"{UNDO}.timer",
            UNDO_UNITS / f"{UNDO}.timer",
            UNDO_UNITS / f"{UNDO}.service",
        ):
            path.unlink(missing_ok=True)
        shutil.rmtree(STATE / "confirmed", ignore_errors=True)
        self.run("systemctl", "daemon-reload")


def words(changes: list[Change], loads: bool, firewall: bool) -> list[str]:
    """Say what is to change."""
    table = f"nftables table inet {TABLE} {'loaded' if firewall else 'removed'}"
    return [change.text for change in changes] + ([table] if loads else [])


def bring_about(module: AnsibleModule, access: Access) -> dict[str, Any]:
    """Compare, prove, arm and apply."""
    if (STATE / "armed").exists() and not module.check_mode:
        # Of a run that died. Its timer would go off in the middle of ours.
        access.undo()
    changes = access.changes()
    loads = not access.loaded()
    # Also where nothing differs: another file may have come that overrides ours.
    access.prove_ssh()
    if not changes and not loads:
        return {"changed": False, "changed_paths": [], "changes": []}
    access.prove_firewall()
    result = {
        "changed": True,
        "changed_paths": [str(change.path) for change in changes],
        "changes": words(changes, loads, bool(access.firewall)),
        "diff": [
            {
                "before_header": str(change.path),
                "after_header": str(change.path),
                "before": change.before or "",
                "after": change.after or "",
            }
            for change in changes
        ],
    }
    if module.check_mode:
        return result
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    access.arm(changes)
    try:
        access.apply(changes)
    except OSError as error:
        said = access.undo()
        and_back = f"\nThe way back said: {said}" if said else ""
        module.fail_json(msg=f"The change could not be made, and was taken back.\n{error}{and_back}")
    return result


def state() -> str:
    """Tell whether a change waits, was taken back, or neither."""
    return next((name for name in ("armed", "undoing", "undone") if (STATE / name).exists()), "quiet")


def others(module: AnsibleModule) -> list[str]:
    """Say which other firewalls of the host let no visitor in."""
    status, said, _ = module.run_command(["nft", "--json", "list", "ruleset"]) if shutil.which("nft") else (1, "", "")
    return shut_by(json.loads(said), TABLE, (80, 443)) if status == 0 else []


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "firewall": {"type": "str", "default": ""},
            "firewall_unit": {"type": "str", "default": ""},
            "ssh": {"type": "str", "default": ""},
            "ssh_allow_users": {"type": "list", "elements": "str", "default": []},
            "undo_program": {"type": "str", "default": ""},
            "undo_seconds": {"type": "int", "default": 60},
            "step": {"type": "str", "choices": ["apply", "confirm", "look"], "default": "apply"},
        },
        supports_check_mode=True,
    )
    access = Access(module)
    if module.params["step"] == "look":
        module.exit_json(changed=False, state=state())
    if module.params["step"] == "confirm":
        access.confirm()
        module.exit_json(changed=True)
    try:
        result = bring_about(module, access)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or ''}: {error.strerror or error}. Nothing was changed.")
    module.exit_json(**result, shut_by=others(module))


if __name__ == "__main__":
    main()
