"""Looks on a host for texts that must not be there. It runs there, as root, by Debian's Python.

Standard input is JSON: `texts` by the account that may know them; `keys`, patterns of files with private keys, which
are root's; `forms`, the program that writes a text in all its forms; and `innocent`, which marks lines of logs that
have one on purpose. Standard output is a JSON list of places. No text is ever an argument, or in a file.
"""

from __future__ import annotations

import grp
import gzip
import json
import os
import pwd
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES = ["/etc", "/srv", "/run", "/var", "/tmp", "/opt", "/home", "/root", "/usr/local", "/dev/shm"]
# What root alone can read is of interest where it lies around. Databases and uploads are the apps' own.
ROOTS_PLACES = [place for place in PLACES if place not in ("/srv", "/var")] + [
    *(
        "/var/tmp",
        "/var/log",
        "/var/cache",
        "/var/backups",
        "/var/spool",
        "/var/lib/flask-on-metal",
        "/var/lib/systemd",
    ),
    *map(str, Path("/srv").glob("*/releases")),
]
# Where an app's secrets have to be: root's file, which systemd reads before it lets go of its rights.
ENVIRONMENT = re.compile(r"/srv/([^/]+)/releases/[^/]+/environment")
# Where the databases' passwords have to be: Patroni runs as postgres, and reads root's file by its group.
PATRONI = re.compile(r"/etc/patroni/[^/]+\.yml")
# Where the authority's binding has to be: what renews certificates reads it.
CERTIFICATES = "/etc/flask-on-metal/certificates.json"


def output(*words: str, account: str = "", given: bytes = b"") -> bytes:
    """Run a program, with the rights of another account where one is named, and return what it said.

    What is given may be secrets of others. So the process stays root's: its real user is, and with another one than its
    effective user no process of that account may look into its memory. A shell would take the real one's rights.
    """

    def become() -> None:
        entry = pwd.getpwnam(account)
        os.setgroups(os.getgrouplist(account, entry.pw_gid))
        os.setresgid(0, entry.pw_gid, entry.pw_gid)
        os.setresuid(0, entry.pw_uid, entry.pw_uid)

    done = subprocess.run(
        words, input=given, capture_output=True, check=False, preexec_fn=become if account else None, cwd="/"
    )
    return done.stdout


def files(texts: list[str], places: list[str], account: str = "") -> list[str]:
    """List the files below some places that hold one of the texts, as far as an account can read them."""
    words = [
        "grep",
        "--fixed-strings",
        "--recursive",
        "--files-with-matches",
        "--devices=skip",
        "--no-messages",
        "--text",
    ]
    # The journal is asked by its own program, which unpacks it.
    found = output(
        *words, "--exclude-dir=journal", "--file=-", *places, account=account, given="\n".join(texts).encode()
    )
    return found.decode(errors="replace").splitlines()


def holds(content: bytes, texts: list[str]) -> bool:
    """Tell whether one of the texts is somewhere."""
    return any(text.encode() in content for text in texts)


def without(content: bytes, innocent: str) -> bytes:
    """Leave out the lines that hold a text on purpose."""
    return b"\n".join(line for line in content.splitlines() if innocent.encode() not in line)


def read(path: Path) -> bytes:
    """Read a file that may be gone by now."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def accounts(owners: list[str]) -> list[str]:
    """List accounts that somebody might look with: those of everybody, of NGINX, of people and of apps."""
    entries = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    people = [name for name, number in entries.items() if 1000 <= number < 60000]
    apps = [path.name for path in Path("/srv").iterdir()]
    names = dict.fromkeys(("nobody", "www-data", *people, *apps, *owners))
    # Root can read everything; where it need not find something is another question.
    return [name for name in names if name in entries and name != "root"]


def in_keys(patterns: list[str], forms: Callable[[str], set[str]]) -> tuple[dict[str, list[str]], list[str]]:
    """Read private keys: what to search for, by file, and those that aren't root's alone."""
    known, found = {}, []
    for path in sorted({str(path) for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))}):
        status = Path(path).stat()
        if status.st_uid or status.st_mode & 0o177:
            found.append(f"key: {path} (mode {status.st_mode & 0o777:o}, owner {status.st_uid})")
        known[path] = sorted(forms(read(Path(path)).decode(errors="replace")))
    return known, found


def unpacked(path: Path) -> bytes:
    """Read a log that was packed when it was put aside."""
    try:
        return gzip.decompress(read(path))
    except (OSError, EOFError, zlib.error):
        return b""


def on_disk(texts: dict[str, list[str]], keys: list[str], innocent: str) -> list[str]:
    """List files that others can read, and those that root alone can and that should not be."""

    def is_meant(path: str, known: list[str]) -> bool:
        """Tell whether a log holds it only where it is said to be on purpose."""
        return path.startswith("/var/log/") and not holds(without(read(Path(path)), innocent), known)

    found = []
    for name in accounts(list(texts)):
        others = [text for owner, known in texts.items() if owner != name for text in known]
        found += [f"readable for {name}: {path}" for path in files(others, PLACES, name) if not is_meant(path, others)]
    everything = [text for known in texts.values() for text in known]
    for path in files(everything, ROOTS_PLACES):
        status = Path(path).lstat()
        mode, user = status.st_mode & 0o777, status.st_uid
        right = ENVIRONMENT.fullmatch(path)
        whose = "root" if path == CERTIFICATES or path in keys else right[1] if right else ""
        if PATRONI.fullmatch(path) and grp.getgrgid(Path(path).lstat().st_gid).gr_name == "postgres":
            whose, mode = "postgres", mode & ~0o040
        if whose and user == 0 and not mode & 0o177:
            others = [text for owner, known in texts.items() if owner != whose for text in known]
            if not holds(read(Path(path)), others):
                continue
        if not is_meant(path, everything):
            found.append(f"on disk: {path} (mode {mode:o}, owner {user})")
    packed = sorted(Path("/var/log").rglob("*.gz"))
    return found + [f"on disk: {path}" for path in packed if holds(without(unpacked(path), innocent), everything)]


def in_processes(texts: dict[str, list[str]]) -> list[str]:
    """List processes that show it by their arguments, or have it in their environment without being the owner's."""
    users = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    everything = [text for known in texts.values() for text in known]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, user = (folder / "comm").read_text().strip(), folder.stat().st_uid
        except OSError:
            continue
        if holds(read(folder / "cmdline"), everything):
            found.append(f"arguments of the process {name}")
        others = [text for owner, known in texts.items() if users.get(owner) != user for text in known]
        if holds(read(folder / "environ"), others):
            found.append(f"environment of the process {name}, of user {user}")
    everybodys = sorted(map(str, Path("/proc").glob("[0-9]*/environ")))
    for name in accounts(list(texts)):
        others = [text for owner, known in texts.items() if owner != name for text in known]
        if holds(output("cat", *everybodys, account=name), others):
            found.append(f"environment of a process, readable for {name}")
    return found


def in_systemd(texts: list[str]) -> list[str]:
    """List what systemd tells everybody."""
    asked = {
        "systemctl show": output("systemctl", "show", "*", "--all", account="nobody"),
        "systemctl cat": output("systemctl", "cat", "*", account="nobody"),
        "environment of systemd": output("systemctl", "show-environment"),
    }
    return [name for name, said in asked.items() if holds(said, texts)]


def main() -> None:
    """Look everywhere."""
    given: dict[str, Any] = json.load(sys.stdin)
    innocent = given["innocent"]
    texts = {owner: known for owner, known in given["texts"].items() if known}
    # It comes along, since nothing of the tests is installed here.
    program: dict[str, Any] = {}
    exec(given["forms"], program)
    keys, found = in_keys(given["keys"], program["forms"])
    texts["root"] = [*texts.get("root", []), *(text for known in keys.values() for text in known)]
    everything = [text for known in texts.values() for text in known]
    if everything:
        found += on_disk(texts, list(keys), innocent) + in_processes(texts) + in_systemd(everything)
        journal = without(output("journalctl", "--quiet", "--no-pager", "--output=cat", "--all"), innocent)
        found += ["the journal"] if holds(journal, everything) else []
    json.dump(sorted(set(found)), sys.stdout)


main()
