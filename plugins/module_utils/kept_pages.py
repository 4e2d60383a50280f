"""The pages of an app that NGINX keeps, and how they are forgotten.

NGINX's own module for that is not for sale with Debian's. But a kept page is a file, and one that is gone is asked for
anew: NGINX finds that out when it opens it, and needs no reload.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDER = Path("/var/lib/nginx")
# Before the key is a header of fixed size, and at most the etag and the names of Vary, which are short.
HEAD_SIZE = 8192
KEY = re.compile(rb"\nKEY: [A-Z]+ [a-z]+://[^/]*(/[^\n]*)\n")


# The folder is NGINX's workers' own, and this runs as root: names are looked up from a folder that is open, no link is
# followed, and what is none of NGINX's files is left alone. Whoever took a worker over swaps any of them at any time.
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
OTHER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What an entry says that went, or that is a link, a FIFO or a socket."""


@contextlib.contextmanager
def opened(name: str | Path, flags: int = 0, folder: int | None = None) -> Iterator[int | None]:
    """Open an entry of a folder, or yield None where it is something else than the flags say."""
    try:
        handle = os.open(name, OPEN | flags, dir_fd=folder)
    except OSError as error:
        if error.errno not in OTHER:
            raise
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def kept(folder: int, levels: int = 2) -> Iterator[tuple[int, str]]:
    """List the kept pages below a folder, those that are being written included: the folder of each, and its name.

    NGINX puts them two levels deep (levels=1:2). Deeper ones are not its own.
    """
    for name in os.listdir(folder):
        if levels == 0:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    yield folder, name
            continue
        with opened(name, os.O_DIRECTORY, folder) as below:
            if below is not None:
                yield from kept(below, levels - 1)


def matches(folder: int, name: str, patterns: Sequence[str]) -> bool:
    """Tell whether the page in a file is one of those meant.

    Args:
        folder: The file's folder.
        name: Its name there.
        patterns: Paths as they stand in a request line, of which an asterisk at the end is anything. One without a
            query means the page with any query.
    """
    with opened(name, folder=folder) as file:
        if file is None or not stat.S_ISREG(os.fstat(file).st_mode):
            return False
        found = KEY.search(os.read(file, HEAD_SIZE))
    if not found:
        return False
    asked = found[1].decode(errors="replace")
    return any(
        form.startswith(pattern[:-1]) if pattern.endswith("*") else form == pattern
        for pattern in patterns
        for form in (asked, asked.partition("?")[0])
    )


def forget(app: str, patterns: Sequence[str] = (), *, only_look: bool = False) -> int:
    """Make NGINX forget kept pages, and return how many.

    Args:
        app: Name of the app.
        patterns: Which pages, see matches(); none means all.
        only_look: Whether to count them and leave them.
    """
    number = 0
    with opened(FOLDER / f"pages-{app}", os.O_DIRECTORY) as pages:
        for folder, name in kept(pages) if pages is not None else ():
            if patterns and not matches(folder, name, patterns):
                continue
            number += 1
            if not only_look:
                # NGINX's own manager may be faster.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
    return number
