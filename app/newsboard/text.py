"""Small things about how posts read: ages, links, dates, and what XML can't hold."""

import re
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

_STEPS = (("year", 31_536_000), ("month", 2_592_000), ("day", 86_400), ("hour", 3_600), ("minute", 60))
_WEB_ADDRESS = re.compile(r"https?://[^\s/]\S*", re.IGNORECASE)
# Everything outside the `Char` production of XML 1.0.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def age(milliseconds: int, now: float | None = None) -> str:
    """How long ago that was: "3 hours ago"."""
    seconds = (time.time() if now is None else now) - milliseconds / 1000
    for unit, length in _STEPS:
        count = int(seconds // length)
        if count >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def moment(milliseconds: int) -> datetime:
    """A time as it is stored, as a date with its time zone."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def isotime(milliseconds: int) -> str:
    """ISO 8601, in UTC."""
    return moment(milliseconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def link(url: str) -> str | None:
    """The address if a browser may be sent there: http and https only, never `javascript:` and the like."""
    return url if host(url) else None


def host(url: str) -> str | None:
    """The site that a web address leads to; None if it isn't a web address."""
    if not _WEB_ADDRESS.fullmatch(url):
        return None
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return None
    return name.removeprefix("www.") if name else None


def xml_safe(value: str) -> str:
    """The text without the control characters that no XML document may contain, escaped or not."""
    return _NOT_XML.sub("", value)
