"""The reference of all options, docs/options.md, from the roles' meta/argument_specs.yml.

python -m flask_on_metal.reference writes it; with --check it says whether it is current, and writes nothing.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "options.md"

ORDER = ("flask_app", "nginx", "uwsgi", "certificate", "host", "test_host")
"""Roles in the order in which a reader wants them: what everybody sets comes first. Others follow by name."""

HEAD = """\
# Options

<!-- Made from roles/*/meta/argument_specs.yml by: python -m flask_on_metal.reference -->

All that can be set, in the inventory or with `-e`. The defaults are right for most; what has to be set is marked
**required**. Each run checks all of it before it touches a host, and a misspelt option stops the run with the nearest
right one.
"""

Spec = Mapping[str, Any]


def reference(roles: Path) -> str:
    """Return the reference as Markdown.

    Args:
        roles: The folder that holds the roles.
    """
    specs = {path.parts[-3]: load(path) for path in sorted(roles.glob("*/meta/argument_specs.yml"))}
    names = [name for name in ORDER if name in specs] + [name for name in specs if name not in ORDER]
    contents = "\n".join(f"- [{name}](#{name}): {specs[name]['main']['short_description']}" for name in names)
    return "\n".join([HEAD, contents, *(role_section(name, specs[name]).rstrip("\n") + "\n" for name in names)])


def load(path: Path) -> Mapping[str, Spec]:
    """Read the entry points of one argument_specs.yml.

    Raises:
        OSError: It can't be read.
        yaml.YAMLError: It isn't YAML.
    """
    entries: Mapping[str, Spec] = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
    return entries


def role_section(role: str, entries: Mapping[str, Spec]) -> str:
    """Return the section of one role, with a table for each entry point.

    Of an entry point with the options of an earlier one, those it adds are shown: a value is documented once.
    """
    parts = [f"\n## {role}\n"]
    told: dict[str, Mapping[str, Spec]] = {}
    for entry, spec in entries.items():
        if entry != "main":
            parts.append(f"### {role}: {entry}\n")
        parts.append(f"{spec['short_description']}.\n")
        parts.extend(f"{markdown(text)}\n" for text in paragraphs(spec))
        options = spec.get("options", {})
        known = next((name for name, others in told.items() if others and others.items() <= options.items()), None)
        own = {name: option for name, option in options.items() if known is None or name not in told[known]}
        if known is not None:
            parts.append(f"The options are those of `{known}`{', and' if own else '.'}\n")
        if own:
            parts.append("\n".join(tables_of(own)))
        elif known is None:
            parts.append("No options.\n")
        told[entry] = options
    return "\n".join(parts)


def tables_of(options: Mapping[str, Spec], of: str = "") -> Iterator[str]:
    """Yield the table of some options, and then those of what is nested in them."""
    if not options:
        return
    if of:
        yield f"Each entry of **{of}**:\n"
    yield "| option | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, spec in options.items():
        yield f"| `{name}` | {type_of(spec)} | {default_of(spec)} | {meaning_of(spec)} |"
    yield ""
    for name, spec in options.items():
        yield from tables_of(spec.get("options", {}), name)


def type_of(spec: Spec) -> str:
    """Return an option's type in words."""
    words = {"str": "text", "int": "number", "bool": "true or false", "dict": "mapping"}
    several = {"str": "texts", "int": "numbers", "dict": "mappings", "path": "paths"}
    kind = str(spec.get("type", "str"))
    if kind == "list":
        return f"list of {several[str(spec['elements'])]}"
    return words.get(kind, kind)


def default_of(spec: Spec) -> str:
    """Return an option's default as YAML has it, on one line."""
    if spec.get("required"):
        return "**required**"
    if "default" not in spec:
        return "–"
    if spec["default"] == "":
        return '`""`'
    text = yaml.safe_dump(spec["default"], default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    text = text.removesuffix("...\n").strip()
    return "`" + text.replace("|", "\\|") + "`"


def meaning_of(spec: Spec) -> str:
    """Return an option's description on one line, with its choices."""
    text = " ".join(markdown(paragraph) for paragraph in paragraphs(spec))
    if choices := spec.get("choices"):
        text += " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
    return text.replace("|", "\\|")


def paragraphs(spec: Spec) -> list[str]:
    """Return a description's paragraphs, each on one line."""
    description = spec.get("description", [])
    return [" ".join(str(text).split()) for text in ([description] if isinstance(description, str) else description)]


def markdown(text: str) -> str:
    """Return a text of Ansible's documentation as Markdown: C(x) as code, <name> as it is meant, URLs as they are."""
    text = re.sub(r"\b[CV]\(([^)]*)\)", r"`\1`", text)
    # Outside code a browser would take <name> for markup, and * and _ for emphasis.
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"(?<!\\)([<*])", r"\\\1", part) for part in parts)


def main(arguments: list[str] | None = None) -> int:
    """Write the reference, or compare it.

    Returns:
        1 if it is to be compared and isn't current, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m flask_on_metal.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args(arguments).check
    wanted = reference(ROOT / "roles")
    present = REFERENCE.read_text(encoding="utf-8") if REFERENCE.exists() else ""
    if wanted == present:
        return 0
    if check:
        changes = difflib.unified_diff(
            present.splitlines(), wanted.splitlines(), "docs/options.md", "roles", lineterm=""
        )
        print("\n".join(changes))
        print("docs/options.md isn't current. Run: python -m flask_on_metal.reference", file=sys.stderr)
        return 1
    REFERENCE.parent.mkdir(exist_ok=True)
    REFERENCE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
