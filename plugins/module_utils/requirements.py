"""Requirements files: which others they include, and what in them would run a package's own code while it is built."""

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


def of_source(line: str) -> bool:
    """Whether a line asks for a source that would have to be built: a folder, an archive, a repository."""
    if line.startswith("-"):
        return False
    found = REQUIREMENT.match(line)
    place = re.sub(r"[#?].*$", "", found[1]) if found else ""
    return bool(SOURCE.search(place)) and not place.lower().endswith(".whl")


def problems(name: str, read: Callable[[str], str | None]) -> list[Problem]:
    """Find what would run code of an index or a source while an environment is built.

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
            if NO_BINARY.search(line):
                what = "--no-binary would build a package on the host, by code of its own. Take it out"
                found.append(Problem(file, number, what))
            elif EDITABLE.search(line) or of_source(line):
                # A password in an address is nobody's business who reads the message.
                shown = re.sub(r"//[^/@\s]*@", "//…@", re.split(r"\s+--", line)[0])
                what = (
                    f"{shown} would be built on the host, by code of its own. Name a version that"
                    " has a wheel. The app's own source is on Python's path without: name what it depends on"
                )
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
