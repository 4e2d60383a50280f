"""Files that are whole or not there: atomic writes, ownership and links, shared by this project's modules."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import tempfile
from collections.abc import Mapping
from pathlib import Path

MAX_LINKS = 40
"""Links on the way of one path, as Linux has it."""


def account_ids(owner: str, group: str) -> tuple[int, int] | None:
    """Numeric ids of an account and a group, or None where either does not exist (yet).

    Raises nothing: check mode asks for accounts that an earlier task would have made.
    """
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def read_text(path: Path) -> str | None:
    """Content of a regular file, or None where there is none."""
    try:
        # Line ends as they are: a file with CR LF is not the same as one without.
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_atomically(path: Path, content: str, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Replace a file by one with this content, so that a reader finds the old one or the new one.

    The mode is set before the content is written: a secret is never readable for others, not even for a moment.

    Raises:
        OSError: the folder is missing, the disk is full, …; the old file is untouched then.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, mode)
        os.fchown(handle, uid, gid)
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
        keep_through_power_cut(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def keep_through_power_cut(folder: Path) -> None:
    """Have the disk hold which entries a folder has now."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_atomically(path: Path, target: str) -> None:
    """Make or move a symbolic link by one rename, so that it names the old or the new target at every instant.

    Raises:
        OSError: the folder is missing or `path` is a folder.
    """
    beside = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    beside.symlink_to(target)
    beside.replace(path)
    # What is served after a boot is what the operator was told.
    keep_through_power_cut(path.parent)


def landing(path: str, links: Mapping[str, str]) -> str | None:
    """Follow a path below a folder as the kernel will, through the links on its way.

    Args:
        path: From the folder.
        links: Target of each link in the folder, by its name there.

    Returns:
        The path without links; None where it leads out of the folder, or in a circle.
    """
    ahead, found, followed = path.split("/")[::-1], list[str](), 0
    if path.startswith("/"):
        return None
    while ahead:
        part = ahead.pop()
        if part == "..":
            if not found:
                return None
            found.pop()
        elif part not in ("", "."):
            found.append(part)
            if (target := links.get("/".join(found))) is not None:
                followed += 1
                if target.startswith("/") or followed > MAX_LINKS:
                    return None
                found.pop()
                ahead += target.split("/")[::-1]
    return "/".join(found)
