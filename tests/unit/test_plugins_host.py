"""host_preflight: a host that can't be used is refused with all reasons in one message."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
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


LISTENING = """\
LISTEN 0 511 0.0.0.0:80     0.0.0.0:* users:(("nginx",pid=612,fd=6),("nginx",pid=611,fd=6))
LISTEN 0 511    [::]:443       [::]:* users:(("nginx",pid=612,fd=9))
"""


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ("", []),
        (LISTENING, []),
        (
            'LISTEN 0 511 *:80 *:* users:(("apache2",pid=9,fd=4),("apache2",pid=8,fd=4))\n' + LISTENING,
            ["apache2 listens on port 80"],
        ),
        (
            'LISTEN 0 4096 127.0.0.1:443 0.0.0.0:* users:(("docker-proxy",pid=9,fd=4))\n'
            'LISTEN 0 4096 *:80 *:* users:(("caddy",pid=7,fd=4))\n',
            ["docker-proxy listens on port 443", "caddy listens on port 80"],
        ),
    ],
)
def test_another_server_on_nginxs_ports_is_named(
    plugin: Callable[[str, str], ModuleType], listed: str, named: list[str]
) -> None:
    found = plugin("modules", "host_preflight").other_servers(listed)
    assert len(found) == len(named)
    for words in named:
        assert any(problem.startswith(words) for problem in found)


def test_a_real_listener_is_found_as_ss_lists_it(plugin: Callable[[str, str], ModuleType], fake_module: Any) -> None:
    if not shutil.which("ss") or not shutil.which("unshare") or os.geteuid():
        pytest.skip("only root, with iproute2, makes a namespace with a listener")
    server = "import socket, subprocess; s = socket.create_server(('127.0.0.1', 80)); subprocess.run(WORDS)"
    words = ["ss", "--tcp", "--listening", "--numeric", "--processes", "--no-header", "sport = :80 or sport = :443"]
    program = (
        f"import subprocess; subprocess.run(['ip', 'link', 'set', 'lo', 'up']); {server.replace('WORDS', repr(words))}"
    )
    _, listed, said = fake_module().run_command(["unshare", "--net", sys.executable, "-c", program])
    (problem,) = plugin("modules", "host_preflight").other_servers(listed)
    assert " listens on port 80" in problem, said


def test_a_kernel_without_ipv6_is_refused_where_nginx_is_to_listen(
    run_module: Run, system: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    system("debian", "13")
    real = socket.socket

    def without(family: int = socket.AF_INET, *more: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *more)

    monkeypatch.setattr(socket, "socket", without)
    answer = run_module("host_preflight", releases=["12", "13"], web=True)
    assert "take ipv6.disable=1 out of the kernel's command line" in answer["msg"]
    assert "IPv6" not in run_module("host_preflight", releases=["12", "13"]).get("msg", "")
