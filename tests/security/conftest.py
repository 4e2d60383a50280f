"""Fixtures of the tests that attack throw-away hosts, and scan them: molecule/security has them."""

from __future__ import annotations

import os
from typing import Any

import pytest
from accounts import show
from findings import Findings
from helpers import App, Promised

FULL = bool(os.environ.get("FLASK_ON_METAL_FULL"))

FINDINGS = pytest.StashKey[Findings]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty account."""
    config.stash[FINDINGS] = Findings()


# Left to the full matrix, each for the time it takes.
FULL_MATRIX_ALONE = [
    "test_lynis.py::",
    "test_lockout.py::test_sshd_that_refuses_the_operator_is_undone_as_well",
    "test_canary.py::test_loudest_run_shows_no_secret",  # test_quiet_runs.py looks at a loud run in each matrix
    # The host's own timer undoes it, as where the run waits for that: test_rule_that_shuts_ssh_out_…
    "test_lockout.py::test_host_undoes_a_change_though_the_control_node_died",
]


# They leave the hosts other than the inventory has them: the second begins with a site.yml, and nothing comes after it.
LAST = ["test_authority", "test_other_options"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for the full matrix alone, and put last what nothing can follow."""
    items.sort(key=lambda item: LAST.index(item.path.stem) if item.path.stem in LAST else -1)
    left_out = [item for item in items if any(part in item.nodeid for part in FULL_MATRIX_ALONE)]
    if left_out and not FULL:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what this process has found, where it is one of several."""
    if output := getattr(session.config, "workeroutput", None):
        output["findings"] = session.config.stash[FINDINGS].tables


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what another process has found."""
    for title, (headings, rows) in getattr(node, "workeroutput", {}).get("findings", {}).items():
        for row in rows.values():
            node.config.stash[FINDINGS].add(title, headings, row)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was found, and keep it in build/."""
    show(terminalreporter, "attacks and scanners", "security-findings.md", config.stash[FINDINGS].markdown())


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
