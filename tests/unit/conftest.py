"""Makes the modules of plugins/ importable as Ansible does, and runs them as Ansible does."""

from __future__ import annotations

# ruff: noqa: D102, D107  (stand-ins: their names say what they do)
import contextlib
import importlib.util
import io
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import ansible.module_utils
import pytest
from ansible.module_utils import basic

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))


class ModuleFailed(Exception):
    """A module called fail_json; the text is its message."""


class Module:
    """What a part of a module sees of AnsibleModule: parameters, check mode, commands, and a way out."""

    def __init__(self, *, check_mode: bool = False, **params: Any) -> None:
        self.params, self.check_mode = params, check_mode
        self.commands: list[list[str]] = []
        self.warnings: list[str] = []
        self.answers: dict[str, tuple[int, str, str]] = {}

    def fail_json(self, msg: str, **_: Any) -> NoReturn:
        raise ModuleFailed(msg)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def quoted(self, text: str, size: int = 6000) -> str:
        from ansible.module_utils.visible import quoted

        return quoted(text, size)

    def run_command(self, words: list[str], **_: Any) -> tuple[int, str, str]:
        """Answer as told for the command's name, or run it."""
        self.commands.append(words)
        if words[0] in self.answers:
            return self.answers[words[0]]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


def load(kind: str, name: str) -> ModuleType:
    """Import a file of plugins/<kind>."""
    spec = importlib.util.spec_from_file_location(f"plugin_{kind}_{name}", ROOT / "plugins" / kind / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def plugin() -> Callable[[str, str], ModuleType]:
    """Import a plugin by kind (folder) and name."""
    return load


@pytest.fixture
def fake_module() -> type[Module]:
    """Stand in for AnsibleModule."""
    return Module


@pytest.fixture
def module_failed() -> type[ModuleFailed]:
    """Name what a stand-in raises where a module would end with a message."""
    return ModuleFailed


@pytest.fixture
def run_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Run one of our modules from its arguments to its JSON, as Ansible does on a host, but in this process."""
    umask = os.umask(0o022)

    def run(name: str, /, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            runpy.run_path(str(ROOT / "plugins" / "modules" / f"{name}.py"), run_name="__main__")
        answer: dict[str, Any] = json.loads(said.getvalue())
        return answer

    yield run
    os.umask(umask)
