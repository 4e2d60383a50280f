"""host_preflight: a host that can't be used is refused with all reasons in one message."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Let the machine be another distribution."""

    def be(name: str, version: str) -> None:
        found = {"ID": name, "VERSION_ID": version, "PRETTY_NAME": f"{name} {version}"}
        monkeypatch.setattr(platform, "freedesktop_os_release", lambda: found)

    return be


@pytest.mark.parametrize(
    ("name", "version"),
    # One that numbers its releases as Debian does: name and version both count.
    [("ubuntu", "24.04"), ("debian", "11"), ("debian", "14"), ("alpine", "3.20"), ("raspbian", "12")],
)
def test_other_systems_are_refused_by_name(
    run_module: Run, system: Callable[[str, str], None], name: str, version: str
) -> None:
    system(name, version)
    answer = run_module("host_preflight", releases=["12", "13"])
    assert answer["failed"]
    assert f"it runs {name} {version}; supported are Debian 12 and 13" in answer["msg"]


def test_missing_packages_are_named_with_the_command_that_brings_them(
    run_module: Run, system: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    system("debian", "13")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "apt" else find(name))
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/there")
    answer = run_module("host_preflight", releases=["12", "13"])
    assert "apt-get install python3-apt" in answer["msg"]
    assert "supported are" not in answer["msg"]


def test_all_reasons_are_in_one_message(
    run_module: Run, system: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    system("debian", "13")
    find, is_dir = importlib.util.find_spec, Path.is_dir
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "apt" else find(name))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(Path, "is_dir", lambda path: str(path) != "/run/systemd/system" and is_dir(path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    answer = run_module("host_preflight", releases=["12", "13"])
    assert answer["failed"]
    for reason in ("apt-get install systemd python3-apt", "systemd is not its init", "tasks don't run as root"):
        assert reason in answer["msg"]


LISTENS = "port 22\nlistenaddress 0.0.0.0:2222\nlistenaddress [::]:2222\nlistenaddress 192.0.2.1:22\n"


@pytest.mark.parametrize(
    ("effective", "socket", "ports"),
    [
        (LISTENS, "ActiveState=inactive\nListen=[::]:922 (Stream)\n", [22, 2222]),
        # Where systemd listens for it, sshd may not run and then can't be asked.
        ("", "ActiveState=active\nListen=[::]:922 (Stream)\nListen=0.0.0.0:923 (Stream)\n", [922, 923]),
        ("", "ActiveState=inactive\nListen=[::]:922 (Stream)\n", [22]),
    ],
    ids=["sshd", "ssh.socket", "neither"],
)
def test_ports_of_ssh_are_those_where_it_listens(
    plugin: Callable[[str, str], ModuleType],
    fake_module: Any,
    monkeypatch: pytest.MonkeyPatch,
    effective: str,
    socket: str,
    ports: list[int],
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name)
    module = fake_module()
    module.answers = {"sshd": (0, effective, ""), "systemctl": (0, socket, "")}
    assert plugin("modules", "host_preflight").ssh_ports(module) == ports
