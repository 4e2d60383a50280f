"""A change of firewall or sshd that would lock the operator out is undone by the host itself, and the run says so."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from helpers import Ansible, Promised, Run, as_root, blocks, inventory_name
from test_reboot import until_rebooted
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

TASK = "Firewall and sshd are as wanted, and a new connection proved that the way in is open"
WRONG_RULE = {"host_firewall_rules": ["tcp dport 22 drop"], "host_access_undo_seconds": 20}

FULL = bool(os.environ.get("FLASK_ON_METAL_FULL"))

STATE = """
shopt -s nullglob
echo "== files"
sha256sum /etc/ssh/sshd_config /etc/ssh/sshd_config.d/* /etc/flask-on-metal/* /etc/systemd/system/flask-on-metal-*
echo "== links"; ls -l /etc/systemd/system/*.wants/ | grep flask-on-metal | sed 's/.* root root *//'
echo "== rules"; nft --stateless --terse list ruleset
echo "== sshd"; sshd -T | sort
echo "== waiting"; ls -d /var/lib/flask-on-metal/access/{armed,undoing} 2>/dev/null || true
"""


def look(host: Host) -> dict[str, str]:
    """Read what decides who gets in: files, rules, and what sshd makes of its configuration."""
    return blocks(as_root(host, STATE))


def greets(address: str, patience: float) -> bool:
    """Tell whether SSH answers a new connection before the time is over."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection((address, 22), timeout=3) as connection:
            if connection.recv(64).startswith(b"SSH-2.0-"):
                return True
        time.sleep(0.2)
    return False


@pytest.fixture
def before(hosts: dict[str, Host]) -> dict[str, dict[str, str]]:
    """Read the state of all hosts, which is to be the same afterwards."""
    found = {name: look(host) for name, host in hosts.items()}
    assert {state["waiting"] for state in found.values()} == {""}
    return found


def assert_all_is_back(
    hosts: dict[str, Host], promises: dict[str, Promised], before: dict[str, dict[str, str]]
) -> None:
    """Assert that new connections work on each address, and that nothing differs from before."""
    for name, host in hosts.items():
        for address in promises[name].addresses:
            assert greets(address, patience=5), f"SSH on {address} does not answer"
        assert look(host) == before[name]


def site(ansible: Ansible, variables: dict[str, object], **more: object) -> Run:
    return ansible.playbook("playbooks/site.yml", variables=variables, **more)  # type: ignore[arg-type]


def test_rule_that_shuts_ssh_out_is_undone_by_the_host_and_the_run_says_so(
    ansible: Ansible, hosts: dict[str, Host], promises: dict[str, Promised], before: dict[str, dict[str, str]]
) -> None:
    run = site(ansible, WRONG_RULE)
    assert run.status != 0
    for name in hosts:
        assert [entry["task"] for entry in run.record if entry["failed"] and entry["host"] == name] == [
            f"host : {TASK}"
        ]
    # What was tried, what is the case now, and what to do.
    assert "After this change no new SSH connection got in, so it was not kept:" in run.output
    assert "- /etc/flask-on-metal/firewall.nft changed" in run.output
    assert "Connection timed out" in run.output
    assert "The host has put everything back by itself, and a new connection works again." in run.output
    assert "look at host_firewall_rules" in run.output
    assert_all_is_back(hosts, promises, before)


def test_sshd_that_refuses_the_operator_is_undone_as_well(
    ansible: Ansible, hosts: dict[str, Host], promises: dict[str, Promised], before: dict[str, dict[str, str]]
) -> None:
    # The accounts are right, and nobody comes from there: only a try can tell.
    run = site(ansible, {"host_ssh_allow_users": ["*@192.0.2.1"], "host_access_undo_seconds": 20})
    assert run.status != 0
    assert "- /etc/ssh/sshd_config.d/00-flask-on-metal.conf changed" in run.output
    assert "Permission denied" in run.output
    assert_all_is_back(hosts, promises, before)


@pytest.mark.parametrize("reboot", [False, True] if FULL else [False], ids=["up", "rebooted"] if FULL else ["up"])
def test_host_undoes_a_change_though_the_control_node_died(
    ansible: Ansible,
    hosts: dict[str, Host],
    promises: dict[str, Promised],
    before: dict[str, dict[str, str]],
    reboot: bool,
) -> None:
    boots = {name: as_root(host, "cat /proc/sys/kernel/random/boot_id").strip() for name, host in hosts.items()}
    # By then the change is in force, and the run waits for a connection that doesn't come.
    dying = {
        "ANSIBLE_CALLBACKS_ENABLED": "record,assembled,kill",
        "FLASK_ON_METAL_KILL": TASK,
        "FLASK_ON_METAL_KILL_AFTER": "12",
    }
    run = site(ansible, WRONG_RULE | {"host_access_undo_seconds": 28}, environment=dying)
    assert run.status < 0, run.output
    for name, host in hosts.items():
        # Over the connection that was open before.
        assert "dport 22 drop" in look(host)["rules"], f"{name}: the change was not in force"
        assert not greets(promises[name].addresses[0], patience=1)
        if reboot:
            as_root(host, "systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms systemctl reboot")
    for name, host in hosts.items():
        assert greets(promises[name].addresses[0], patience=90), f"{name} did not undo the change"
        if reboot:
            until_rebooted(host, boots[name])
    time.sleep(3)  # the script's last steps come after the way in is open
    assert_all_is_back(hosts, promises, before)


REFUSED = {
    "a rule that nft does not take": (
        {"host_firewall_rules": ["tcp dport 9100 acept"]},
        ["nft refuses the firewall's rules; nothing was changed", "tcp dport 9100 acept"],
    ),
    "accounts without the one in use": (
        {"host_ssh_allow_users": ["somebody"]},
        ["host_ssh_allow_users would close the account that this run uses: ", " is not in somebody"],
    ),
}


@pytest.mark.parametrize(("variables", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_can_be_known_before_is_one_message_and_nothing_changes(
    ansible: Ansible,
    hosts: dict[str, Host],
    before: dict[str, dict[str, str]],
    variables: dict[str, object],
    said: list[str],
) -> None:
    run = site(ansible, variables)
    assert run.status != 0
    assert not run.changed
    for words in said:
        assert words in run.output
    assert {name: look(host) for name, host in hosts.items()} == before


@pytest.mark.one_host
def test_file_that_would_override_ours_stops_the_run_by_its_name(ansible: Ansible, host: Host) -> None:
    path = "/etc/ssh/sshd_config.d/00-before.conf"
    as_root(host, "echo 'PasswordAuthentication yes' >$1", path)
    try:
        run = site(ansible, {})
        assert run.status != 0
        assert f"- {path} line 1: PasswordAuthentication yes" in run.output
    finally:
        as_root(host, "rm $1", path)


# --- socket activation


TO_SOCKET = "systemctl stop ssh.service; systemctl start ssh.socket"
# Both at once, or sshd would hold the port that the service is to open.
TO_SERVICE = "systemctl stop ssh.socket ssh.service; systemctl start ssh.service"
UNITS = """
echo "== units"; systemctl is-active ssh.socket ssh.service
echo "== users"; sshd -T | grep ^allowusers || true
"""


def switch(host: Host, address: str, how: str) -> None:
    """Have systemd listen for sshd, or sshd for itself; from a timer, since it ends connections."""
    as_root(host, f"systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms bash -c '{how}'")
    time.sleep(5)
    assert greets(address, patience=20)


@pytest.fixture
def by_socket(host: Host, promised: Promised) -> Iterator[None]:
    """Have ssh.socket listen, and sshd be started by the first connection."""
    switch(host, promised.addresses[0], TO_SOCKET)
    yield
    switch(host, promised.addresses[0], TO_SERVICE)


@pytest.mark.one_host
def test_sshd_that_a_socket_starts_takes_a_change_and_is_not_killed_by_it(
    ansible: Ansible, host: Host, promised: Promised, by_socket: None
) -> None:
    users = {"host_ssh_allow_users": ["root", "operator"]}
    for variables in (users, {}):
        run = ansible.play(role_host(host), variables=variables)
        assert run.changed == [f"{inventory_name(host)}: host : {TASK}"]
        found = blocks(as_root(host, UNITS))
        assert found["units"].split() == ["active", "active"]
        assert found["users"].split() == (["allowusers", "root", "allowusers", "operator"] if variables else [])


def role_host(host: Host) -> list[dict[str, object]]:
    """Write a play that runs the role on one host, and nothing else of site.yml."""
    return [
        {
            "hosts": inventory_name(host),
            "become": True,
            "gather_facts": False,
            "roles": ["host"],
        }
    ]
