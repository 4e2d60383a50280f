"""What comes from an app or a host, made fit to be shown: no cursor moves, no line passes for one of this run."""

from __future__ import annotations

MARK = "  | "


def visible(text: str) -> str:
    r"""Show each character that a terminal would act on, or not show at all, as Python writes it (`\x1b`).

    Lines and tabs stay. Bytes that were no UTF-8 arrive as single surrogates, and are shown as well.
    """
    text = text.replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def one_line(text: str) -> str:
    """Show a text that is to be a part of a line, which it can't end."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def quoted(text: str, size: int = 6000) -> str:
    """Mark each line of a foreign text, of which the end is kept, so that none reads as a message of this run."""
    text = text.strip()
    cut = f"(cut: the last {size} of {len(text)} characters)\n" if len(text) > size else ""
    return "\n".join(MARK + line for line in visible(cut + text[-size:]).splitlines())
