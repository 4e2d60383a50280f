"""Room on the disk: what a release will want, what can give way to it, and what stays free for the apps that run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible.module_utils import sandbox
from ansible.module_utils.filesystem import read_text
from ansible.module_utils.release import App, Release

MB = 2**20

RESERVE = 200 * MB
"""Bytes that stay free for the apps that run: for what people upload, for databases and logs."""

FIRST = 500 * MB
"""Bytes that an app's first release is taken to want: there is none yet to judge by."""

UV_CACHE_LIMIT = 1024 * MB
"""Bytes of an app's cache of uv. Above that it begins anew: uv itself never forgets a package."""


def available(folder: Path) -> int:
    """Bytes that can still be written where a folder is, or will be.

    By accounts other than root: the blocks that a file system keeps for root are of no use to an app.
    """
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def size(folder: Path) -> int:
    """Bytes that a folder takes on its disk."""
    files: dict[int, int] = {}
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = Path(path, name).lstat()
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


def caches() -> list[Path]:
    """List uv's caches, one for each app."""
    return [path.parent for path in sandbox.CACHES.glob("*/.lock")]


def empty_cache(folder: Path, limit: int = 0) -> None:
    """Empty a cache of uv's if it has more than so many bytes, unless a uv is at work with it.

    An account without rights may write there, and this is root: no link is followed, no FIFO waited for.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        lock = os.open(folder / ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if size(folder) <= limit:
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
def watched(folder: Path, kill: Callable[[], object] = lambda: None) -> Iterator[Watch]:
    """Kill what this process has started once less than the reserve is free: apps write there as well.

    Args:
        folder: Where room is looked for.
        kill: Kills what systemd has started for this process: that is none of its descendants.
    """
    watch, over = Watch(), threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            if available(folder) < RESERVE:
                watch.low = True
                kill()
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
        if watch.low:
            kill()  # whoever asked systemd for it may have been killed before it was there
