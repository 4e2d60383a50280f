"""Lynis, an auditor that this project did not write, finds less than on a fresh Debian; what is left has its reason."""

from __future__ import annotations

import re

import pytest
from helpers import ROOT, as_root, blocks, inventory_name
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

BEFORE = "/root/lynis-before.dat"  # molecule/security/prepare.yml
DOCUMENT = ROOT / "docs" / "hosts.md"


def known() -> set[str]:
    """List the findings that the documentation gives a reason for."""
    rows = re.findall(r"^\| (`[A-Z].*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {number for row in rows for number in re.findall(r"`([A-Z]+(?:-\d+)?)`", row)}


@pytest.fixture(scope="module")
def reports(host: Host) -> dict[str, dict[str, list[str]]]:
    """Run it again, and read both reports: values by name."""
    text = as_root(
        host,
        f"""
        lynis audit system --quick --quiet --no-colors --logfile /root/lynis-after.log \\
          --report-file /root/lynis-after.dat >/dev/null 2>&1 || true
        echo "== before"; cat {BEFORE}
        echo "== after"; cat /root/lynis-after.dat
        """,
    )
    found: dict[str, dict[str, list[str]]] = {}
    for name, report in blocks(text).items():
        found[name] = {}
        for line in report.splitlines():
            if "=" in line and not line.startswith("#"):
                key, _, value = line.partition("=")
                found[name].setdefault(key, []).append(value)
    return found


def index(report: dict[str, list[str]]) -> int:
    return int(report["hardening_index"][0])


def findings(report: dict[str, list[str]]) -> dict[str, str]:
    """List warnings and suggestions by their numbers."""
    lines = [*report.get("warning[]", []), *report.get("suggestion[]", [])]
    return {line.split("|")[0]: line.split("|")[1] for line in lines}


def test_hardening_index_is_higher_than_before(host: Host, reports: dict[str, dict[str, list[str]]]) -> None:
    before, after = index(reports["before"]), index(reports["after"])
    print(f"{inventory_name(host)}: Lynis' hardening index {before} -> {after}")
    # Many of its tests are about what is no server's business (passwords' age, partitions), and some about what a
    # throw-away host can't have (its own kernel).
    assert after >= before + 5


def test_what_is_left_is_in_the_documentation_with_a_reason(reports: dict[str, dict[str, list[str]]]) -> None:
    left = findings(reports["after"])
    assert {number: text for number, text in left.items() if number not in known()} == {}
