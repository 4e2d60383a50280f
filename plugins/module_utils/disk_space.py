"""Room on the disk: what a release will want, what can give way to it, and what stays free for the apps that run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.filesystem import read_text
from ansible.module_utils.release import App, Release

MB = 2**20

RESERVE = 200 * MB
"""Bytes that stay free for the apps that run: for what people upload, for databases and logs."""

FIRST = 500 * MB
"""Bytes that an app's first release is taken to want: there is none yet to judge by."""

UV_CACHE = Path("/var/cache/uv")
UV_CACHE_LIMIT = 1024 * MB
"""Bytes of uv's cache that no environment shares. Above that it begins anew: uv itself never forgets a package."""


def available(folder: Path) -> int:
    """Bytes that can still be written where a folder is, or will be.

    By accounts other than root: the blocks that a file system keeps for root are of no use to an app.
    """
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def size(folder: Path, *, alone: bool = False) -> int:
    """Bytes that a folder takes on its disk; `alone`: without files that are somewhere else as well, by a hard link."""
    files: dict[int, int] = {}
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = Path(path, name).lstat()
                if not (alone and found.st_nlink > 1):
                    files[found.st_ino] = found.st_blocks * 512
    return sum(files.values())


def size_of(release: Release) -> int:
    """Bytes that a release takes, as its build measured them."""
    noted = read_text(release.folder / "size")
    return int(noted) if noted and noted.strip().isdigit() else size(release.folder)


def wanted(app: App) -> int:
    """Bytes that the next release of an app will take: as many as the current one, as far as one can know."""
    current = app.current()
    return size_of(current) if current else FIRST


def shortage(app: App, spare: int = 0) -> str:
    """Say what is missing for the next release of an app, or nothing.

    Args:
        app: the app.
        spare: bytes that would give way.
    """
    folder = app.folder / "releases"
    have, want = available(folder) + spare, wanted(app)
    if have >= want + RESERVE:
        return ""
    like = "as the current one takes" if app.current() else "which a first release is taken to want"
    return (
        f"{app.name} has no room for a release: where {folder} is, {have // MB} MB are free. {want // MB} MB for the "
        f"release, {like}, and {RESERVE // MB} MB that stay free for the apps that run, make {(want + RESERVE) // MB}. "
        "Make room there, or keep fewer releases (flask_app_keep), and run again."
    )


def empty_cache(folder: Path, limit: int = 0) -> None:
    """Empty uv's cache if it has more than so many bytes for itself, unless a uv is at work with it."""
    with contextlib.suppress(OSError), (folder / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if size(folder, alone=True) <= limit:
            return
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def shed(release: Release) -> None:
    """Free what a failed release took. Its small files stay for a look, and the copies of databases."""
    shutil.rmtree(release.folder / "venv", ignore_errors=True)
    for path, _, names in os.walk(release.folder / "code"):
        for name in names:
            file = Path(path, name)
            with contextlib.suppress(OSError):
                if file.lstat().st_size > MB:
                    file.unlink()


# --- while a build is at work


def descendants(pid: int) -> set[int]:
    """List the processes that a process has started, and those that they have."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        found = re.search(r"^PPid:\s+(\d+)", read_text(path / "status") or "", re.MULTILINE)
        if found:
            parents[int(path.name)] = int(found[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family - {pid}


class Watch:
    """What a watch over the disk has seen."""

    low = False


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Watch]:
    """Kill what this process has started once less than the reserve is free: apps write there as well."""
    watch, over = Watch(), threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            if available(folder) < RESERVE:
                watch.low = True
                for pid in descendants(os.getpid()):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield watch
    finally:
        over.set()
        watcher.join()
