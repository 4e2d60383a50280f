"""Requirements files: which others they include, and what in them a build doesn't install, or would run code for."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# uv ends a line at a carriage return alone as well, takes an option that follows a hash on its line, and joins no lines
# within an option: each line is looked at by itself, and an option is found wherever it stands in one.
LINE_END = re.compile(r"\r\n|\r|\n")
COMMENT = re.compile(r"(?:^|\s)#.*$")
INCLUDE = re.compile(r"(?:^|\s)(?:-r|-c|--requirement|--constraint)[\s=]*(\S.*)$")
NO_BINARY = re.compile(r"--no-binary")
EDITABLE = re.compile(r"(?:^|\s)(?:-e|--editable)(?![\w-])")
REQUIREMENT = re.compile(r"(?:[\w.-]+\s*(?:\[[^\]]*\])?\s*@\s*)?([^\s;]+)")
FIND_LINKS = re.compile(r"""(?:^|\s)(?:-f|--find-links)[\s=]*["']?([^\s/:="'][^\s"']*)""")
SOURCE = re.compile(r"^[./~]|[/\\]|\.(?:tar(?:\.\w+)?|tgz|tbz|zip)$")


@dataclass(frozen=True)
class Problem:
    """A line that can't be had, and why."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        """Say where and what."""
        return f"{self.file}, line {self.line}: {self.text}"


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and content of each line that has any, without its comment."""
    for number, line in enumerate(LINE_END.split(text.removeprefix("\ufeff")), 1):
        if bare := COMMENT.sub("", line).strip():
            yield number, bare


def included(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each file that a requirements file includes (-r, -c)."""
    for number, line in lines(text):
        if found := INCLUDE.search(line):
            yield number, found[1].strip().strip("\"'")


def what_is_wrong(line: str, *, hashes: bool) -> str:
    """Say why a line can't be had, and what to do; nothing where it can.

    Args:
        line: Without its comment.
        hashes: Whether its file has any: that is installed as it is, where it is. Of any other the installation has
            only what was resolved.
    """
    found = None if line.startswith("-") else REQUIREMENT.match(line)
    place = re.sub(r"[#?].*$", "", found[1]) if found else ""
    wheel = place.lower().endswith(".whl")
    if NO_BINARY.search(line):
        return "--no-binary would build a package on the host, by code of its own. Take it out"
    if EDITABLE.search(line) or (SOURCE.search(place) and not wheel):
        # A password in an address is nobody's business who reads the message.
        shown = re.sub(r"//[^/@\s]*@", "//…@", re.split(r"\s+--", line)[0])
        return (
            f"{shown} would be built on the host, by code of its own. Name a version that has a wheel. The app's own"
            " source is on Python's path without: name what it depends on"
        )
    if wheel and "://" not in place and not re.match(r"(?:file:)?/", place):
        return (
            f"{place} is a path, and packages aren't taken from the source. Name it as the index has it, or by the URL"
            " of a wheel, as in name @ https://…"
        )
    if (links := FIND_LINKS.search(line)) and "://" not in links[1] and not hashes:
        return (
            f"--find-links {links[1]} is a folder of the source, which isn't looked through. Name the URL of a page of"
            " wheels, or an index by --extra-index-url"
        )
    return ""


def problems(name: str, read: Callable[[str], str | None]) -> list[Problem]:
    """Find what isn't there for a build, or would run code of an index or a source in it.

    Args:
        name: The requirements file, below the source.
        read: Gives the text of a file below the source; None where there is none.
    """
    if name.endswith(".toml"):
        return []
    found: list[Problem] = []
    waiting, seen = [name], {name}
    while waiting:
        file = waiting.pop(0)
        text = read(file) or ""
        for number, line in lines(text):
            if what := what_is_wrong(line, hashes="--hash=" in text):
                found.append(Problem(file, number, what))
        for number, place in included(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(file), place))
            if path in seen:
                continue
            seen.add(path)
            if read(path) is None:
                what = f"{place} is not in the source as it is released. Add it, or take the line out"
                found.append(Problem(file, number, what))
            else:
                waiting.append(path)
    return found
