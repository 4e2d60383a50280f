"""The reference is current, and what it says of defaults is what the roles do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parts[-3] for path in ROOT.glob("roles/*/meta/argument_specs.yml"))


def spec_of(role: str) -> dict:
    entries = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]
    return {name: option for entry in entries.values() for name, option in entry.get("options", {}).items()}


def defaults_of(role: str) -> dict:
    path = ROOT / "roles" / role / "defaults/main.yml"
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def is_template(value: object) -> bool:
    return isinstance(value, str) and "{{" in value


def test_options_page_is_current() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "flask_on_metal.reference", "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("role", ROLES)
def test_each_documented_default_is_the_roles_own(role: str) -> None:
    documented = {name: option["default"] for name, option in spec_of(role).items() if "default" in option}
    present = defaults_of(role)
    missing = sorted(set(documented) - set(present))
    assert not missing, f"roles/{role}/defaults/main.yml lacks {missing}"
    # A default that depends on the control node is a template; the specification then says in words what it comes to.
    differing = {
        name: f"documented {documented[name]!r}, set {present[name]!r}"
        for name in documented
        if present[name] != documented[name] and not is_template(present[name])
    }
    assert not differing


@pytest.mark.parametrize("role", ROLES)
def test_no_default_is_undocumented(role: str) -> None:
    undocumented = {
        name: value for name, value in defaults_of(role).items() if "default" not in spec_of(role).get(name, {})
    }
    assert not undocumented


@pytest.mark.parametrize("role", ROLES)
def test_every_option_says_its_type_and_meaning(role: str) -> None:
    def walk(options: dict, where: str) -> None:
        for name, option in options.items():
            assert option.get("type"), f"{where}{name} has no type"
            assert option.get("description"), f"{where}{name} has no description"
            if option["type"] == "list":
                assert option.get("elements"), f"{where}{name} doesn't say what it is a list of"
            walk(option.get("options", {}), f"{where}{name}.")

    walk(spec_of(role), "")


@pytest.mark.parametrize("role", ROLES)
def test_every_option_begins_with_its_roles_name(role: str) -> None:
    assert [name for name in spec_of(role) if not name.startswith(role)] == []
