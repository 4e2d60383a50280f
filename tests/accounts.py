"""What tests met with, as tables at the end of a run and in build/."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from helpers import ROOT


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay a table out."""
    return "".join(f"| {' | '.join(line)} |\n" for line in [headings, ["---"] * len(headings), *rows])


def show(reporter: pytest.TerminalReporter, title: str, file: str, text: str) -> None:
    """Print a text at the end of a run, and keep it in build/; where there is none, nothing."""
    if not text:
        return
    reporter.section(title)
    reporter.write(text)
    path = ROOT / "build" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@dataclass
class Table:
    """What each step met with, in the order of the steps."""

    headings: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """Add a row."""
        self.rows.append([str(cell) for cell in cells])

    def markdown(self) -> str:
        """Lay it out; an empty one is no text."""
        return markdown(self.headings, self.rows) if self.rows else ""
