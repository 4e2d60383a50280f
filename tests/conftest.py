"""Fixtures of the tests against hosts.

To run them: playbooks/verify.yml, or, with those that disturb a host,

    pytest tests --ignore=tests/unit --hosts=ansible://web --ansible-inventory=inventory/production
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import testinfra
from helpers import PROGRAMS, Ansible, App, Promised, groups_of, inventory_name, keep_open, read_promises
from side_by_side import (
    ALL,
    host_in,
    names_of,
    pytest_collection_finish,
    pytest_runtest_protocol,
    pytest_sessionfinish,
    pytest_xdist_make_scheduler,
)
from testinfra.host import Host

__all__ = [
    "pytest_collection_finish",
    "pytest_runtest_protocol",
    "pytest_sessionfinish",
    "pytest_xdist_make_scheduler",
]

# testinfra asks `ansible-inventory`, and this may be a pytest that nobody activated an environment for.
os.environ["PATH"] = f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


# No tests: what mypy and the unit tests take for Ansible's packages.
collect_ignore = ["stubs"]

# Folders of tests that nobody runs against a live host: each has a scenario of Molecule.
FOR_THROW_AWAY_HOSTS = ("cluster", "database", "release", "security")


def host_of(item: pytest.Item) -> Host | None:
    """Find the host that a test is about, where it is about a single one."""
    parameters = getattr(item, "callspec", None)
    return parameters.params.get("_testinfra_host") if parameters else None


def meant(item: pytest.Item) -> bool:
    """Tell whether a test is about the tier that its host is of."""
    host = host_of(item)
    mark = item.get_closest_marker("tier")
    return host is None or not set(mark.args if mark else ["web"]).isdisjoint(groups_of(host))


def left_to_others(items: list[pytest.Item]) -> list[pytest.Item]:
    """Find the tests that one host is enough for, on the other hosts: the tests of a file take hosts in turn."""
    by_file: dict[Path, dict[str, dict[str, list[pytest.Item]]]] = {}
    for item in items:
        if item.get_closest_marker("one_host") and (host := host_of(item)):
            by_test = by_file.setdefault(item.path, {})
            by_test.setdefault(item.nodeid.partition("[")[0], {}).setdefault(inventory_name(host), []).append(item)
    found = []
    for by_test in by_file.values():
        for number, hosts in enumerate(by_test.values()):
            chosen = sorted(hosts)[number % len(hosts)]
            found += [item for host, several in hosts.items() if host != chosen for item in several]
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose, mark and order what is run: what disturbs a host after what looks at it, the reboot last of all."""
    for item in items:
        if item.path.parent.name in FOR_THROW_AWAY_HOSTS:
            item.add_marker(pytest.mark.disturbs)
    full = os.environ.get("FLASK_ON_METAL_FULL")
    left_out = [item for item in items if not meant(item) or (not full and item.get_closest_marker("full_matrix"))]
    left_out += [] if full else left_to_others([item for item in items if item not in left_out])
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    # Where several processes run them, what is about no single host waits for the tests of each.
    apart = names_of(config) if hasattr(config, "workerinput") else []
    items.sort(
        key=lambda item: (
            bool(apart) and host_in(item.nodeid, apart) == ALL,
            item.path.stem == "test_reboot",
            item.get_closest_marker("disturbs") is not None,
        )
    )


@pytest.fixture(scope="session")
def ansible(request: pytest.FixtureRequest) -> Ansible:
    """Run Ansible on this machine, with the inventory that the tests were given."""
    option = request.config.option
    if not option.hosts or "ansible://" not in option.hosts:
        pytest.fail("name the hosts: --hosts=ansible://web --ansible-inventory=inventory/production", pytrace=False)
    inventory = str(option.ansible_inventory or "")
    if inventory and Path(inventory).exists():
        inventory = str(Path(inventory).resolve())
    names = [name.partition("://")[2].partition("?")[0] for name in option.hosts.split(",")]
    return Ansible(inventory, limit=",".join([*names, "localhost"]))


@pytest.fixture(scope="session")
def all_promises(ansible: Ansible) -> dict[str, Promised]:
    """Read what the inventory says of each host."""
    return read_promises(ansible)


@pytest.fixture(scope="session")
def promises(all_promises: dict[str, Promised]) -> dict[str, Promised]:
    """Find what the inventory says of each web host."""
    return {name: promised for name, promised in all_promises.items() if "web" in promised.groups}


@pytest.fixture(scope="session")
def control_path() -> Iterator[str]:
    """Keep connections to hosts open, so that a command costs no handshake."""
    # A short one: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="fom-") as folder:
        yield f"{folder}/%C"


@pytest.fixture(scope="module")
def host(_testinfra_host: Host, control_path: str) -> Host:
    """Reach one host after the other."""
    return keep_open(_testinfra_host, control_path)


@pytest.fixture(scope="session")
def hosts(request: pytest.FixtureRequest, control_path: str) -> dict[str, Host]:
    """Reach all web hosts, by name, for tests that work on all of them at once."""
    option = request.config.option
    found = testinfra.get_hosts(
        option.hosts.split(","), ansible_inventory=option.ansible_inventory, sudo=option.sudo,
        force_ansible=option.force_ansible,
    )  # fmt: skip
    return {inventory_name(one): keep_open(one, control_path) for one in found if "web" in groups_of(one)}


@pytest.fixture(scope="module")
def promised(host: Host, all_promises: dict[str, Promised]) -> Promised:
    """Find what the inventory says of this host."""
    return all_promises[inventory_name(host)]


@pytest.fixture(scope="module")
def apps(promised: Promised) -> list[App]:
    """List the apps of this host."""
    return promised.apps


@pytest.fixture(scope="module")
def newsboard(promised: Promised) -> App:
    """Find the sample app, where a host has it."""
    for app in promised.apps:
        if app.name == "newsboard" and app.wsgi.startswith("newsboard:"):
            return app
    pytest.skip("this host has no app newsboard that is the sample app")
