"""Fixtures of the tests of several hosts, all of them throw-away: molecule/cluster has them."""

from __future__ import annotations

from dataclasses import replace

import ansible.module_utils
import pytest
import testinfra
from accounts import Table, show
from helpers import ROOT, Ansible, keep_open
from installation import HEADINGS, NAME, Installation, answers
from machines import until

# Certificates are signed here as the playbooks do.
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))

TABLE = pytest.StashKey[Table]()

NAMES = ["balancer1", "balancer2", "web1", "web2", "web3", "db1", "db2", "db3", "client"]


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty table."""
    config.stash[TABLE] = Table(HEADINGS)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and keep it in build/."""
    show(terminalreporter, "of several hosts", "several-hosts.md", config.stash[TABLE].markdown())


@pytest.fixture(scope="session")
def all_hosts(
    ansible: Ansible, control_path: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Installation:
    """Reach all hosts of the installation."""
    found = testinfra.get_hosts([f"ansible://{name}" for name in NAMES], ansible_inventory=ansible.inventory or None)
    hosts = {name: keep_open(host, control_path) for name, host in zip(NAMES, found, strict=True)}
    variables = {name: host.ansible.get_variables() for name, host in hosts.items()}
    return Installation(
        replace(ansible, inventory="", limit=""),
        hosts,
        {name: str(values["ansible_host"]) for name, values in variables.items()},
        str(variables["balancer1"]["test_host_network4"]).replace("0/24", "200"),
        str(variables["balancer1"]["test_host_network6"]).replace("::/64", "::200"),
        tmp_path_factory.mktemp("load"),
        request.config.stash[TABLE],
    )


@pytest.fixture
def installation(all_hosts: Installation) -> Installation:
    """Reach an installation where all is well, as the next test wants it whatever the one before did."""
    until(lambda: len(all_hosts.active()) == 1, 30, "one balancer has the address")
    until(lambda: answers(all_hosts.floating), 60, f"{NAME} answers")
    until(lambda: sound(all_hosts), 120, "all databases follow their leader")
    return all_hosts


def sound(installation: Installation) -> bool:
    """Tell whether the databases have one leader, and the others follow it, one of them without delay."""
    members = installation.members(installation.databases()[0])
    roles = sorted(member["Role"] for member in members)
    states = {member["State"] for member in members}
    return (
        len(members) == 3
        and roles.count("Leader") == 1
        and "Sync Standby" in roles
        and states <= {"running", "streaming"}
    )
