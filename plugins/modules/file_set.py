"""Ansible module: many small files in one round trip."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.filesystem import account_ids, link_atomically, read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule

DOCUMENTATION = r"""
---
module: file_set
short_description: Folders, files and links as given, in one round trip
description:
  - Does what M(ansible.builtin.file) and M(ansible.builtin.copy) do for one path, for a list of them.
    Each of those costs 0.2 to 0.6 seconds on a host that is already right, which is most of a run that changes nothing.
  - Supports check mode and diff. Files are replaced atomically.
options:
  directories:
    description: Folders, each with path, mode, owner and group. Parents that are missing are not made.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Where., type: path, required: true}
      mode: {description: Octal., type: str, default: "0755"}
      owner: {description: Account., type: str, default: root}
      group: {description: Group., type: str, default: root}
  files:
    description: Files, each with path, content, mode, owner and group.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Where., type: path, required: true}
      content: {description: The whole of it., type: str, required: true}
      mode: {description: Octal., type: str, default: "0644"}
      owner: {description: Account., type: str, default: root}
      group: {description: Group., type: str, default: root}
  secret_files:
    description: Content by path of files for root alone (0600). Never shown, neither as argument nor in a diff.
    type: dict
    default: {}
  links:
    description: Target by path of symbolic links.
    type: dict
    default: {}
  exclusive:
    description:
      - Folders that are to have no other files and links than those of O(files) and O(links).
    type: list
    elements: path
    default: []
  absent:
    description: Files and links that are not to be there. Folders are refused.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: The kernel's limits are written down
  file_set:
    files:
      - path: /etc/sysctl.d/60-example.conf
        content: "net.core.somaxconn = 4096\n"
"""

RETURN = r"""
changed_paths:
  description: What was (or would be) made, replaced or removed.
  returned: always
  type: list
  elements: str
"""

ITEM = {
    "path": {"type": "path", "required": True},
    "mode": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}


class FileSet:
    """One run of the module over its arguments."""

    def __init__(self, module: AnsibleModule) -> None:
        """Begin with no change."""
        self.module = module
        self.changed: list[str] = []
        self.diff: list[dict[str, str]] = []

    def note(self, path: Path, before: str = "", after: str = "") -> None:
        """Record a change, with the texts that a diff shows."""
        if str(path) not in self.changed:
            self.changed.append(str(path))
        self.diff.append({"before_header": str(path), "after_header": str(path), "before": before, "after": after})

    def ids(self, owner: str, group: str, path: Path) -> tuple[int, int] | None:
        """Numeric ids; in check mode None where an earlier task would have made the account."""
        found: tuple[int, int] | None = account_ids(owner, group)
        if found is None and not self.module.check_mode:
            self.module.fail_json(msg=f"{path}: there is no account {owner} or no group {group} on this host")
        return found

    def attributes(self, path: Path, mode: int, ids: tuple[int, int] | None) -> None:
        """Bring mode and owner of something that exists to what is wanted."""
        now = path.lstat()
        wanted = (mode, *ids) if ids else (mode, now.st_uid, now.st_gid)
        if (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid) == wanted:
            return
        self.note(
            path,
            f"mode {stat.S_IMODE(now.st_mode):04o}, owner {now.st_uid}:{now.st_gid}\n",
            f"mode {mode:04o}, owner {wanted[1]}:{wanted[2]}\n",
        )
        if not self.module.check_mode:
            self.apply(path, *wanted)

    @staticmethod
    def apply(path: Path, mode: int, uid: int, gid: int) -> None:
        """Set owner and mode."""
        os.chown(path, uid, gid, follow_symlinks=False)
        path.chmod(mode)

    def directory(self, item: dict[str, Any]) -> None:
        """Make a folder, or mend its mode and owner."""
        path, mode = Path(item["path"]), int(item["mode"] or "0755", 8)
        ids = self.ids(item["owner"], item["group"], path)
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            self.module.fail_json(msg=f"{path} is to be a folder, and is something else; move it away")
        if not path.exists():
            self.note(path, after="(folder)\n")
            if not self.module.check_mode:
                assert ids is not None
                path.mkdir(mode=0o700)
                self.apply(path, mode, *ids)
            return
        self.attributes(path, mode, ids)

    def file(self, path: Path, content: str, mode: int, owner: str, group: str, secret: bool = False) -> None:
        """Write a file, or mend its mode and owner."""
        ids = self.ids(owner, group, path)
        if path.is_dir() or path.is_symlink():
            self.module.fail_json(msg=f"{path} is to be a file, and is a folder or a link; move it away")
        before = read_text(path)
        if before != content:
            hidden = "(a secret, not shown)\n"
            self.note(path, hidden if secret else before or "", hidden if secret else content)
            if not self.module.check_mode:
                assert ids is not None
                write_atomically(path, content, mode, *ids)
        elif before is not None:
            self.attributes(path, mode, ids)

    def link(self, path: Path, target: str) -> None:
        """Point a link."""
        before = str(path.readlink()) if path.is_symlink() else None
        if before is None and path.exists():
            self.module.fail_json(msg=f"{path} is to be a link, and is something else; move it away")
        if before != target:
            self.note(path, f"-> {before}\n" if before else "", f"-> {target}\n")
            if not self.module.check_mode:
                link_atomically(path, target)

    def only(self, folder: Path, kept: set[Path]) -> None:
        """Take away what a folder has besides; folders below it are left alone."""
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path not in kept and (path.is_symlink() or not path.is_dir()):
                self.remove(path)

    def remove(self, path: Path) -> None:
        """Take away a file or a link."""
        if path.is_dir() and not path.is_symlink():
            self.module.fail_json(msg=f"{path} is a folder; this module removes files and links only")
        if path.is_symlink() or path.exists():
            self.note(path, "(there)\n")
            if not self.module.check_mode:
                path.unlink()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directories": {"type": "list", "elements": "dict", "default": [], "options": ITEM},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {**ITEM, "content": {"type": "str", "required": True}},
            },
            "secret_files": {"type": "dict", "default": {}, "no_log": True},
            "links": {"type": "dict", "default": {}},
            "exclusive": {"type": "list", "elements": "path", "default": []},
            "absent": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    args, run = module.params, FileSet(module)
    try:
        for item in args["directories"]:
            run.directory(item)
        for item in args["files"]:
            path, mode = Path(item["path"]), int(item["mode"] or "0644", 8)
            run.file(path, item["content"], mode, item["owner"], item["group"])
        for path, content in args["secret_files"].items():
            run.file(Path(path), content, 0o600, "root", "root", secret=True)
        for path, target in args["links"].items():
            run.link(Path(path), target)
        kept = {Path(path) for path in [*(item["path"] for item in args["files"]), *args["links"]]}
        for path in args["exclusive"]:
            run.only(Path(path), kept)
        for path in args["absent"]:
            run.remove(Path(path))
    except OSError as error:
        # A full disk names no file; the last change noted is the one that failed.
        where = error.filename or "".join(run.changed[-1:])
        module.fail_json(msg=f"{where}: {error.strerror}", changed_paths=run.changed)
    module.exit_json(changed=bool(run.changed), changed_paths=run.changed, diff=run.diff)


if __name__ == "__main__":
    main()
