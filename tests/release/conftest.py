"""Fixtures of the tests that try releases, under load and on throw-away hosts alone: molecule/release has them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, Ansible, Promised
from stage import APP, Stage, Table
from testinfra.host import Host

TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty table."""
    config.stash[TABLE] = Table()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of it: nothing here is for a live host."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.disturbs)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and keep it in build/."""
    table = config.stash[TABLE]
    if not table.rows:
        return
    text = table.markdown()
    terminalreporter.section("under load")
    terminalreporter.write(text)
    path = ROOT / "build" / "releases-under-load.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


# All hosts at once, or, in the full matrix with its higher rate, one after the other: two cores carry no more.
ONE_BY_ONE = bool(os.environ.get("FLASK_ON_METAL_FULL"))


@pytest.fixture(scope="session", params=["debian12", "debian13"] if ONE_BY_ONE else ["both"])
def stage(
    ansible: Ansible,
    hosts: dict[str, Host],
    promises: dict[str, Promised],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Stage:
    """Set the stage: the hosts that have the trial app, or one of them."""
    if ONE_BY_ONE:
        hosts = {name: host for name, host in hosts.items() if name == request.param}
        ansible = replace(ansible, limit=f"{request.param},localhost")
        assert hosts, f"there is no host {request.param}"
    for name, promised in promises.items():
        if not any(app.name == APP and app.wsgi.startswith("trial:") for app in promised.apps):
            pytest.fail(f"{name} has no trial app; these tests are for the hosts of molecule/release", pytrace=False)
    made = Stage(ansible, hosts, promises, tmp_path_factory.mktemp("sources"), request.config.stash[TABLE])
    made.begin_anew()
    return made
