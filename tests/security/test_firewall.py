"""What the firewall lets through, as seen from outside."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from helpers import Ansible, Promised, as_root, inventory_name
from test_lockout import role_host
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

PORT = 8099
FOREIGN = "table ip somebody_elses {\n\tchain theirs {\n\t\tip saddr 192.0.2.1 counter packets 0 bytes 0 drop\n\t}\n}\n"


def connects(address: str, port: int, patience: float = 2) -> bool:
    """Tell whether a TCP connection can be made."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=patience):
        return True
    return False


def flood(address: str, number: int) -> int:
    """Begin so many connections to SSH at once; returns how many were made within a second."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = 0
    with contextlib.ExitStack() as stack:
        begun = []
        for _ in range(number):
            one = stack.enter_context(socket.socket(family))
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect((address, 22))
            begun.append(one)
            time.sleep(0.005)  # so that sshd's own queue isn't what is full
        # Less than the second after which a client tries again.
        time.sleep(0.5)
        for one in begun:
            with contextlib.suppress(OSError):
                one.getpeername()
                made += 1
    return made


@pytest.fixture(scope="module")
def listener(host: Host) -> Iterator[None]:
    """Have something listen on the host that nobody outside is meant to reach."""
    as_root(host, f"systemd-run --quiet --unit=listener python3 -m http.server {PORT} --bind ::; sleep 1")
    yield
    as_root(host, "systemctl stop listener.service")


def families(promised: Promised) -> list[str]:
    """Take one IPv4 and one IPv6 address of a host."""
    found = {":" in address: address for address in reversed(promised.addresses)}
    assert len(found) == 2, "the host is to be reached over both"
    return list(found.values())


@pytest.mark.usefixtures("listener")
def test_other_ports_are_closed_over_ipv4_and_ipv6(host: Host, promised: Promised) -> None:
    for address in families(promised):
        assert connects(address, 443)
        # From the host itself it is there.
        as_root(host, 'exec 3<>"/dev/tcp/$1/$2"', address, str(PORT))
        assert not connects(address, PORT)


def test_hosts_answer_echo_requests_over_ipv4_and_ipv6(host: Host, promises: dict[str, Promised]) -> None:
    others = [promised for name, promised in promises.items() if name != inventory_name(host)]
    assert others
    for promised in others:
        for address in families(promised):
            # The neighbour's entry is made anew, so that its discovery is tried as well.
            as_root(host, 'ip neigh flush to "$1"; ping -c 1 -W 5 "$1"', address)


def test_ssh_takes_a_run_of_ansible_and_limits_a_flood_from_one_address(host: Host, promised: Promised) -> None:
    address = next(address for address in families(promised) if ":" in address)
    burst = 2 * promised.options["host_ssh_rate"]
    try:
        made = flood(address, burst + 80)
        # A token a second comes back meanwhile.
        assert burst - 10 <= made <= burst + 15
        assert not connects(address, 22, patience=0.4)
        # Others are not concerned: IPv4 is another address.
        assert connects(families(promised)[0] if ":" not in families(promised)[0] else families(promised)[1], 22)
        end = time.monotonic() + 20
        while not connects(address, 22, patience=0.4):
            assert time.monotonic() < end, "the limit does not end with the flood"
            time.sleep(0.5)
    finally:
        # sshd of Debian 13 keeps a list of its own of addresses that never log in.
        as_root(host, "systemctl restart ssh.service")


@pytest.mark.one_host
@pytest.mark.usefixtures("listener")
def test_operators_own_rules_and_trusted_addresses_are_let_in(ansible: Ansible, host: Host, promised: Promised) -> None:
    address = next(address for address in families(promised) if ":" in address)
    number = 2 * promised.options["host_ssh_rate"] + 40
    rules = {"host_firewall_rules": [f"tcp dport {PORT} accept"], "host_ssh_trusted": ["fd00::/8"]}
    ansible.play(role_host(host), variables=rules)
    try:
        for each in families(promised):
            assert connects(each, PORT)
        assert flood(address, number) >= number - 5
    finally:
        ansible.play(role_host(host))
        as_root(host, "systemctl restart ssh.service")
    assert not connects(address, PORT)


@pytest.mark.one_host
def test_tables_of_others_survive_each_run_and_ours_survives_their_flush(ansible: Ansible, host: Host) -> None:
    as_root(host, 'nft -f - <<<"$1"', FOREIGN)
    ours = as_root(host, "nft --stateless --terse list table inet flask_on_metal")
    try:
        # A run that replaces our table, one that takes it away, and one that makes it.
        for variables in ({"host_ssh_rate": 90}, {"host_firewall": False}, {}):
            assert ansible.play(role_host(host), variables=variables).changed
            assert as_root(host, "nft list table ip somebody_elses") == FOREIGN
            there = as_root(host, "nft list tables; systemctl is-enabled flask-on-metal-firewall.service || true")
            assert ("flask_on_metal" in there and "enabled" in there) == variables.get("host_firewall", True)
        # Debian's own service flushes everything.
        for how in ("restart", "reload"):
            as_root(host, f"systemctl {how} nftables.service")
            assert "somebody_elses" not in as_root(host, "nft list tables")
            assert as_root(host, "nft --stateless --terse list table inet flask_on_metal") == ours
    finally:
        as_root(host, "nft delete table ip somebody_elses 2>/dev/null || true; systemctl stop nftables.service")
        ansible.play(role_host(host))


@pytest.mark.one_host
def test_table_that_somebody_flushed_is_there_again_after_the_next_run(ansible: Ansible, host: Host) -> None:
    ours = as_root(host, "nft --stateless --terse list table inet flask_on_metal")
    as_root(host, "nft flush chain inet flask_on_metal input; nft add rule inet flask_on_metal input accept")
    assert len(ansible.play(role_host(host)).changed) == 1
    assert as_root(host, "nft --stateless --terse list table inet flask_on_metal") == ours
    assert not ansible.play(role_host(host)).changed
