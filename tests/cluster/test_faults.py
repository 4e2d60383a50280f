"""Whatever single host is lost, what was answered is there, and clients are served on."""

from __future__ import annotations

import time

import pytest
from helpers_http import ask
from installation import FULL, NAME, Installation, answers
from machines import cut_off, power_off, until

# Seconds that may pass without an answer: ten times and more what each failover is meant to take.
BALANCER_CEILING = 30.0
DATABASE_CEILING = 120.0

# Seconds without a change of leader, before one is taken away: what comes after is then of the fault.
SETTLED = 30.0 if FULL else 5.0


def reads(installation: Installation, count: int) -> None:
    """Ask for so many pages, each of which is to be answered."""
    for _ in range(count):
        assert ask(installation.floating, NAME, "/newest", timeout=20).status == 200


# --- a web host


def test_a_web_host_loses_its_power(installation: Installation) -> None:
    step = "web host without power"
    with installation.load(step) as posts, installation.other_load(step, "web1"):
        power_off("web1")
        reads(installation, 20)
        time.sleep(5)
        installation.power_on()
    posts.outcome.assert_all_answered()
    until(lambda: installation.served_by(20)["web1"] > 0, 60, "web1 gets requests again")


@pytest.mark.full_matrix
def test_a_web_host_hangs(installation: Installation) -> None:
    step = "web host that hangs"
    with installation.load(step) as posts, installation.other_load(step, "web1"):
        with installation.hung("web1"):
            time.sleep(15)
        reads(installation, 20)
    posts.outcome.assert_all_answered()


@pytest.mark.full_matrix
def test_a_web_host_is_cut_off(installation: Installation) -> None:
    step = "web host cut off"
    with installation.load(step) as posts, installation.other_load(step, "web2"), cut_off("web2"):
        reads(installation, 20)
        time.sleep(10)
    posts.outcome.assert_all_answered()


# --- a balancer


def test_the_active_balancer_loses_its_power_and_comes_back(installation: Installation) -> None:
    (active,) = installation.active()
    other = next(name for name in ("balancer1", "balancer2") if name != active)
    with installation.load("active balancer without power, then back") as posts:
        power_off(active)
        until(lambda: installation.active() == [other], BALANCER_CEILING, f"{other} has the address")
        time.sleep(3)
        installation.power_on()
        time.sleep(5)
        # One that comes back doesn't take the address away again.
        assert installation.active() == [other]
    posts.outcome.assert_kept()
    assert posts.outcome.stall < BALANCER_CEILING


@pytest.mark.full_matrix
def test_a_balancer_whose_nginx_is_dead_gives_the_address_away(installation: Installation) -> None:
    (active,) = installation.active()
    other = next(name for name in ("balancer1", "balancer2") if name != active)
    installation.root(active, "systemctl kill --signal=STOP nginx.service")
    try:
        until(lambda: installation.active() == [other], BALANCER_CEILING, f"{other} has the address")
    finally:
        installation.root(active, "systemctl kill --signal=CONT nginx.service")


# --- the database


def steady_leader(installation: Installation) -> tuple[str, str]:
    """Wait until etcd's members have agreed for a while; tell who leads the databases, and who etcd."""
    leader, etcd = installation.leader(), installation.etcd()
    since = time.monotonic()

    def settled() -> bool:
        nonlocal etcd, since
        now = installation.etcd()
        if now != etcd:
            etcd, since = now, time.monotonic()
        return time.monotonic() - since > SETTLED

    until(settled, DATABASE_CEILING, "etcd keeps its leader")
    return leader, "leads etcd too" if etcd[0] == leader else "another leads etcd"


def test_etcd_is_led_from_another_host_than_the_databases(installation: Installation) -> None:
    leader = installation.leader()
    assert installation.etcd()[0] != leader
    other = next(row["Member"] for row in installation.members(leader) if row["Role"] == "Sync Standby")
    # Until the databases' next leader leads etcd as well.
    lines = installation.etcdctl(other, "endpoint", "status", "--cluster").splitlines()
    identity = next(line.split(", ")[1] for line in lines if f"//{installation.addresses[other]}:" in line)
    installation.etcdctl(installation.etcd()[0], "move-leader", identity)
    assert installation.etcd()[0] == other
    switch = 'patronictl -c /etc/patroni/*-main.yml switchover --leader "$1" --candidate "$2" --force'
    installation.root(leader, switch, leader, other)
    assert installation.leader() == other
    until(lambda: installation.etcd()[0] not in ("", other), 30, "another host leads etcd")


def accepted_again(installation: Installation) -> None:
    """Wait until the database takes posts again, and a little longer."""
    until(lambda: answers(installation.floating), DATABASE_CEILING, f"{NAME} answers")
    time.sleep(3)


@pytest.mark.full_matrix
def test_the_leader_of_the_databases_is_killed(installation: Installation) -> None:
    leader, etcd = steady_leader(installation)
    with installation.load(f"database's leader killed ({etcd})") as posts:
        installation.root(leader, "pkill -KILL -u postgres -x postgres")
        accepted_again(installation)
    posts.outcome.assert_kept()
    assert posts.outcome.stall < DATABASE_CEILING


@pytest.mark.full_matrix
def test_the_leaders_host_loses_its_power(installation: Installation) -> None:
    leader, etcd = steady_leader(installation)
    with installation.load(f"database's leader without power ({etcd}), and back") as posts:
        power_off(leader)
        until(lambda: installation.leader() not in ("", leader), DATABASE_CEILING, "another host leads")
        accepted_again(installation)
        installation.power_on()
    posts.outcome.assert_kept()
    assert posts.outcome.stall < DATABASE_CEILING


@pytest.mark.full_matrix
def test_a_host_that_follows_loses_its_power(installation: Installation) -> None:
    leader, _ = steady_leader(installation)

    def waited_for() -> str:
        rows = installation.members(leader)
        return next((str(row["Member"]) for row in rows if row["Role"] == "Sync Standby"), "")

    standby = waited_for()
    with installation.load("database that commits wait for without power, and back") as posts:
        power_off(standby)
        time.sleep(1)
        accepted_again(installation)
        until(lambda: waited_for() not in ("", standby), DATABASE_CEILING, "commits wait for another host")
        installation.power_on()
    posts.outcome.assert_kept()
    assert posts.outcome.stall < DATABASE_CEILING


def test_the_leader_is_cut_off_and_two_never_lead(installation: Installation) -> None:
    leader, etcd = steady_leader(installation)
    others = [name for name in installation.databases() if name != leader]
    with installation.load(f"database's leader cut off ({etcd}), and back") as posts:
        with cut_off(leader):
            until(
                lambda: any(
                    row["Role"] == "Leader" and row["Member"] != leader for row in installation.members(others[0])
                ),
                DATABASE_CEILING,
                "another host leads",
            )
            accepted_again(installation)
        time.sleep(5)
    posts.outcome.assert_kept()
    assert posts.outcome.stall < DATABASE_CEILING
    until(lambda: len([row for row in installation.members(leader) if row["Role"] == "Leader"]) == 1, 60, "one leads")
    # What the old leader may have written alone is gone, since nobody was told of it.
    until(
        lambda: all(row["State"] in ("running", "streaming") for row in installation.members(leader)), 120, "all follow"
    )


@pytest.mark.full_matrix
def test_everything_loses_its_power(installation: Installation) -> None:
    names = [name for name in installation.hosts if name != "client"]
    with installation.load("before all hosts lose their power"):
        pass
    before = ask(installation.floating, NAME, "/latest").body
    power_off(*names)
    installation.power_on()
    until(lambda: installation.active() != [], 120, "a balancer has the address")

    def latest() -> bytes:
        try:
            answer = ask(installation.floating, NAME, "/latest", timeout=5)
        except OSError:
            return b""
        return answer.body if answer.status == 200 else b""

    took = until(lambda: latest() != b"", 300, "the board answers")
    assert latest() == before
    with installation.load(f"after all hosts lost their power ({took:.0f} s until it answered)") as posts:
        pass
    posts.outcome.assert_all_answered()
