"""Fixtures of the tests that try releases, under load and on throw-away hosts alone: molecule/release has them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from accounts import Table, show
from helpers import Ansible, Promised
from stage import APP, FULL, HEADINGS, Stage
from testinfra.host import Host

TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty table."""
    config.stash[TABLE] = Table(HEADINGS)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and keep it in build/."""
    show(terminalreporter, "under load", "releases-under-load.md", config.stash[TABLE].markdown())


# All hosts at once, or, in the full matrix with its higher rate, one after the other: two cores carry no more.
@pytest.fixture(scope="session", params=["debian12", "debian13"] if FULL else ["both"])
def stage(
    ansible: Ansible,
    hosts: dict[str, Host],
    promises: dict[str, Promised],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Stage:
    """Set the stage: the hosts that have the trial app, or one of them."""
    if FULL:
        hosts = {name: host for name, host in hosts.items() if name == request.param}
        ansible = replace(ansible, limit=f"{request.param},localhost")
        assert hosts, f"there is no host {request.param}"
    for name, promised in promises.items():
        if not any(app.name == APP and app.wsgi.startswith("trial:") for app in promised.apps):
            pytest.fail(f"{name} has no trial app; these tests are for the hosts of molecule/release", pytrace=False)
    made = Stage(ansible, hosts, promises, tmp_path_factory.mktemp("sources"), request.config.stash[TABLE])
    made.begin_anew()
    return made
