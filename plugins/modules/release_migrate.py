"""Ansible module: the database brought to a release's schema."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from ansible.module_utils.bounded import run_bounded
from ansible.module_utils.disk_space import MB, RESERVE, available
from ansible.module_utils.filesystem import account_ids
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import RUNTIME_UNITS, Release, release_module

DOCUMENTATION = r"""
---
module: release_migrate
short_description: Runs an app's migration with the new release's environment, before it starts
description:
  - The command runs in a unit of its own, with all lines of the app's unit and its drop-ins that say what a process of
    the release may do, and as which account, with which environment. It can do what the app can, and no more.
  - That unit has one name for all releases: systemd refuses a second migration while one of a killed run goes on.
  - Of each SQLite database a copy is kept from before, in the release's folder before_migration. It is made by SQLite's
    own backup, while the app goes on writing, and its integrity is checked.
  - Each copy and the command have an end, and the copies leave room on the disk.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  command: {description: What to run in the code's folder., type: str, required: true}
  sqlite: {description: Paths of SQLite databases in the folder shared., type: list, elements: str, default: []}
  seconds: {description: Time for each copy and for the command., type: int, default: 3600}
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: Database has the new release's schema
  release_migrate:
    app: news
    id: 20260101T000000Z-0123abcd
    run: 0123456789ab
    command: alembic upgrade head
    sqlite: [/srv/news/shared/news.db]
"""

RETURN = r"""
copies: {description: Paths of the copies., type: list, elements: str, returned: success}
"""

# Run by the app's account: what it may read and where it may write is no more than the app's. The copy is one plain
# file, with what was in the write-ahead log.
COPY = """
import sqlite3, sys, urllib.parse
seconds = int(sys.argv[3])
source = sqlite3.connect("file:" + urllib.parse.quote(sys.argv[1]) + "?mode=rw", uri=True, timeout=seconds)
copy = sqlite3.connect(sys.argv[2])

def look(status, remaining, total):
    # SQLite has waited by now, and Python would have it try again for ever.
    if status in (5, 6):
        sys.exit(f"it is locked: for {seconds} s somebody let nobody else read it")

source.backup(copy, progress=look)
copy.execute("PRAGMA journal_mode = DELETE")
found = [row[0] for row in copy.execute("PRAGMA integrity_check")]
if found != ["ok"]:
    sys.exit("the copy is not whole: " + "; ".join(found[:5]))
"""

# Lines of the unit that are about a server, how it is started and stopped. All others are the migration's as well.
NOT_A_MIGRATIONS = frozenset({
    "ExecReload", "ExecStart", "ExecStartPost", "ExecStartPre", "ExecStop", "ExecStopPost", "KillMode", "KillSignal",
    "NotifyAccess", "Restart", "RestartSec", "RuntimeDirectory", "RuntimeDirectoryMode", "TimeoutStartSec",
    "TimeoutStopSec", "Type", "WorkingDirectory",
})  # fmt: skip

# Seconds that a copy waits where another process keeps the database locked.
LOCKED = 30


def no_room_for_copy(folder: Path, database: Path) -> str:
    """Say what the disk lacks for a copy of a database, or nothing: apps that run write there as well."""
    # What is in the log of writes will be in the copy.
    parts = [database, database.with_name(f"{database.name}-wal")]
    large = sum(part.stat().st_size for part in parts if part.exists())
    if available(folder) >= large + RESERVE:
        return ""
    return (
        f"{database} has {large // MB} MB, and isn't migrated without a copy of it, for which there is no room: where "
        f"{folder} is, {available(folder) // MB} MB are free, {RESERVE // MB} MB of them for the apps that run. "
        "Make room there, and run again."
    )


def sandbox(units: str, app: str, release: str) -> list[str]:
    """Take the lines of a unit that say what its processes may do.

    Args:
        units: the unit and its drop-ins, one after the other, as `systemctl cat` has them.
        app: %p of the unit.
        release: %i of it.
    """
    taken, section = [], ""
    for line in re.sub(r"\\\n", " ", units).splitlines():
        if re.fullmatch(r"\[.+\]", line.strip()):
            section = line.strip()
        elif (
            section == "[Service]"
            and re.match(r"[A-Za-z]", line)
            and line.split("=")[0].strip() not in NOT_A_MIGRATIONS
        ):
            taken.append(re.sub(r"%[pi]", lambda found: app if found[0] == "%p" else release, line))
    return taken


class Migration:
    """The migration to one release."""

    def __init__(self, module: AnsibleModule, release: Release) -> None:
        """Note for what."""
        self.module, self.release = module, release
        self.kept = release.folder / "before_migration"

    @contextmanager
    def sandboxed(self) -> Iterator[str]:
        """Have the migration's unit be like the app's for the time of a command; returns its name."""
        app, unit = self.release.app.name, f"{self.release.app.name}-migrate.service"
        status, units, error = self.module.run_command(["systemctl", "cat", "--no-pager", self.release.service])
        lines = sandbox(units, app, self.release.id)
        if status != 0 or not lines:
            self.module.fail_json(msg=f"the sandbox of {self.release.service} can't be read: {error.strip()}")
        drop_in = RUNTIME_UNITS / f"{unit}.d" / "sandbox.conf"
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.write_text("\n".join(["[Service]", *lines, ""]))
        try:
            yield unit
        finally:
            drop_in.unlink()
            drop_in.parent.rmdir()

    def as_app(
        self, words: list[str], *, where: Path, writes: Path | None = None, size: int | None = None
    ) -> tuple[int | None, str]:
        """Run a command as the app's account, in the app's sandbox.

        Args:
            words: the command.
            where: the folder that it begins in.
            writes: where it may write besides the folder shared.
            size: how large a file may get that it writes.

        Returns:
            Its status, None where it did not end in time, and what it said, ready for a message.
        """
        seconds = self.module.params["seconds"]
        properties = {"WorkingDirectory": str(where), "RuntimeMaxSec": f"{seconds}s", "TimeoutStopSec": "10s"}
        if writes:
            properties["BindPaths"] = str(writes)
        if size is not None:
            properties["LimitFSIZE"] = str(size)
        begun = time.monotonic()
        with self.sandboxed() as unit:
            # systemd ends it; the longer time here is for the case that systemd-run itself hangs.
            status, said = run_bounded(
                ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}",
                 *(f"--property={key}={value}" for key, value in properties.items()),
                 f"--setenv=PYTHONPATH={self.release.folder}/code",
                 # systemd replaces ${…} and $$ in a command; these are the program's.
                 *(word.replace("$", "$$") for word in words)],
                seconds + 30,
            )  # fmt: skip
        lines = self.module.quoted(said)
        if status != 0 and time.monotonic() - begun >= seconds:
            end = f"It took longer than {seconds} s, and was stopped (option migrate_timeout)."
            return None, f"{lines}\n{end}" if lines else end
        return status, lines

    def copy(self, database: Path) -> str:
        """Keep a copy of a database that is there; returns its path, or nothing."""
        if not database.exists():
            return ""
        if problem := no_room_for_copy(self.release.folder, database):
            self.module.fail_json(msg=problem)
        self.kept.mkdir(mode=0o700, exist_ok=True)
        # A database that grows meanwhile ends the copy, and doesn't fill the disk.
        room = available(self.kept) - RESERVE
        ids = account_ids(self.release.app.name, self.release.app.name)
        assert ids is not None
        # The app's own only while the copy is made: later it could be changed by whoever takes over the app.
        os.chown(self.kept, *ids)
        target = self.kept / quote(str(database.relative_to(self.release.app.folder / "shared")), safe="")
        status, said = self.as_app(
            ["/usr/bin/python3", "-I", "-c", COPY, str(database), str(target), str(LOCKED)],
            writes=self.kept,
            where=self.kept,
            size=room,
        )
        os.chown(self.kept, 0, 0)
        if target.exists():
            os.chown(target, 0, 0, follow_symlinks=False)
        if status != 0:
            self.module.fail_json(msg=f"{database} could not be copied, and is not migrated without that:\n{said}")
        return str(target)

    def run(self) -> list[str]:
        """Copy, then migrate."""
        copies = [self.copy(Path(path)) for path in self.module.params["sqlite"]]
        command = self.module.params["command"]
        status, said = self.as_app(
            ["/bin/sh", "-c", command],
            where=self.release.folder / "code",
        )
        if status != 0:
            kept = "".join(f"\nThe database as it was before is in {path}" for path in copies if path)
            how = "did not end in time" if status is None else f"ended with status {status}"
            self.module.fail_json(msg=f"`{command}` {how}:\n{said}{kept}")
        return [path for path in copies if path]


def main() -> None:
    """Run the module."""
    module, release = release_module(
        {
            "command": {"type": "str", "required": True},
            "sqlite": {"type": "list", "elements": "str", "default": []},
            "seconds": {"type": "int", "default": 3600},
        }
    )
    if module.check_mode:
        module.exit_json(changed=True, copies=[])
    module.exit_json(changed=True, copies=Migration(module, release).run())


if __name__ == "__main__":
    main()
