"""Tests of several hosts at once: none is left out, no host has two at a time, what is about all has none beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from side_by_side import ALL, host_in

TESTS = Path(__file__).resolve().parents[1]

CONFTEST = """
from side_by_side import *
"""
NOTED = """
import os, time
import pytest

pytestmark = pytest.mark.disturbs

def note(name):
    for what in ("begins", "ends"):
        with open(os.environ["NOTED"], "a") as file:
            file.write(f"{name} {what}\\n")
        time.sleep(1 if name == "web-10" else 0.1)

@pytest.mark.parametrize("host", ["ansible://web-1", "ansible://web-10"])
@pytest.mark.parametrize("number", [1, 2])
def test_one(host, number):
    note(host.removeprefix("ansible://"))

def test_all():
    note("all")

def test_all_again():
    note("all")
"""


@pytest.mark.parametrize(
    ("nodeid", "host"),
    [
        ("tests/test_a.py::test_b[ansible://web1]", "web1"),
        ("tests/test_a.py::test_b[IPv4-ansible://web1-x]", "web1"),
        ("tests/test_a.py::test_b[ansible://web10-x]", "web10"),
        ("tests/test_a.py::test_b", ALL),
        ("tests/test_a.py::test_b[both]", ALL),
        ("tests/security/test_authority.py::test_b[ansible://web1]", ALL),
    ],
)
def test_which_host_a_test_is_about(nodeid: str, host: str) -> None:
    assert host_in(nodeid, ["web1", "web10"]) == host


def test_hosts_are_tried_at_once_and_all_of_them_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_noted.py").write_text(NOTED)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  disturbs: x\n")
    noted = tmp_path / "noted"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n2", "--hosts=ansible://web-1,ansible://web-10", tmp_path],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS), "NOTED": str(noted)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "6 passed" in done.stdout, done.stdout + done.stderr
    lines = noted.read_text().splitlines()
    for name, times in (("web-1", 2), ("web-10", 2), ("all", 2)):
        assert [line for line in lines if line.startswith(f"{name} ")] == [f"{name} begins", f"{name} ends"] * times
    # One host is through when the other has its first test; what is about all waits for that one too.
    assert lines.index("web-1 ends") < lines.index("web-10 ends")
    assert lines[-4:] == ["all begins", "all ends"] * 2
