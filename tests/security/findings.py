"""The account of what attacks and scanners found, as tables for the end of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from accounts import markdown


@dataclass
class Findings:
    """Tables by their titles. A row that is added again replaces what has the same first two cells."""

    tables: dict[str, tuple[list[str], dict[tuple[str, str], list[str]]]] = field(default_factory=dict)

    def add(self, title: str, headings: list[str], row: list[object]) -> None:
        """Add a row to a table, which begins with it if there was none yet."""
        cells = [" ".join(str(cell).split()).replace("|", "¦") for cell in row]
        self.tables.setdefault(title, (headings, {}))[1][(cells[0], cells[1])] = cells

    def markdown(self) -> str:
        """Lay all of it out."""
        text = []
        for title, (headings, rows) in self.tables.items():
            text.append(f"\n{title}\n\n{markdown(headings, rows.values())}")
        return "".join(text)
