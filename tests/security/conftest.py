"""Fixtures of the tests that attack throw-away hosts, and scan them: molecule/security has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from findings import Findings
from helpers import ROOT, App, Promised

FINDINGS = pytest.StashKey[Findings]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty account."""
    config.stash[FINDINGS] = Findings()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of it: nothing here is for a live host."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.disturbs)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was found, and keep it in build/."""
    text = config.stash[FINDINGS].markdown()
    if not text:
        return
    terminalreporter.section("attacks and scanners")
    terminalreporter.write(text)
    path = ROOT / "build" / "security-findings.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="session")
def findings(request: pytest.FixtureRequest) -> Findings:
    """Keep the account of what was found."""
    return request.config.stash[FINDINGS]


def app_of(promised: Promised, name: str) -> App:
    """Find an app of a host; a host without it isn't one that these tests are for."""
    for app in promised.apps:
        if app.name == name:
            return app
    raise pytest.fail.Exception(
        f"{promised.host} has no app {name}; these tests are for the hosts of molecule/security"
    )


@pytest.fixture(scope="module")
def prober(promised: Promised) -> App:
    """Find the app that shows what arrives."""
    return app_of(promised, "prober")
