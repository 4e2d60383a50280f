"""The pages of an app that NGINX keeps, and how they are forgotten.

NGINX's own module for that is not for sale with Debian's. But a kept page is a file, and one that is gone is asked for
anew: NGINX finds that out when it opens it, and needs no reload.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDER = Path("/var/lib/nginx")
# Before the key is a header of fixed size, and at most the etag and the names of Vary, which are short.
HEAD_SIZE = 8192
KEY = re.compile(rb"\nKEY: [A-Z]+ [a-z]+://[^/]*(/[^\n]*)\n")


def kept(app: str) -> Iterator[Path]:
    """List the files of an app's kept pages, those that are being written included."""
    yield from (path for path in (FOLDER / f"pages-{app}").glob("**/*") if not path.is_dir())


def matches(path: Path, patterns: Sequence[str]) -> bool:
    """Tell whether the page in a file is one of those meant.

    Args:
        path: The file.
        patterns: Paths as they stand in a request line, of which an asterisk at the end is anything. One without a
            query means the page with any query.
    """
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if found := KEY.search(file.read(HEAD_SIZE)):
            asked = found[1].decode(errors="replace")
            forms = (asked, asked.partition("?")[0])
            return any(
                form.startswith(pattern[:-1]) if pattern.endswith("*") else form == pattern
                for pattern in patterns
                for form in forms
            )
    return False


def forget(app: str, patterns: Sequence[str] = (), *, only_look: bool = False) -> int:
    """Make NGINX forget kept pages, and return how many.

    Args:
        app: Name of the app.
        patterns: Which pages, see matches(); none means all.
        only_look: Whether to count them and leave them.
    """
    number = 0
    for path in list(kept(app)):
        if patterns and not matches(path, patterns):
            continue
        number += 1
        if not only_look:
            # NGINX's own manager may be faster.
            path.unlink(missing_ok=True)
    return number
