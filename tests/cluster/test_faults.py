"""Whatever single host is lost, what was answered is there, and clients are served on."""

from __future__ import annotations

import time

from helpers_http import ask
from installation import FULL, NAME, Installation, Outcome, until

# Seconds that may pass without an answer: ten times and more what each failover is meant to take.
BALANCER_CEILING = 30.0
DATABASE_CEILING = 120.0


def assert_kept(outcome: Outcome) -> None:
    """Make sure that all that was answered 200 is there, as it was posted, and once."""
    assert (outcome.lost, outcome.altered, outcome.duplicates) == (0, 0, 0), outcome.said


def assert_all_answered(outcome: Outcome) -> None:
    """Make sure that each post was answered with 200, by whichever host."""
    assert outcome.failed == {}, outcome.said
    assert_kept(outcome)


def reads(installation: Installation, count: int) -> None:
    """Ask for so many pages, each of which is to be answered."""
    for _ in range(count):
        assert ask(installation.floating, NAME, "/newest", timeout=20).status == 200


# --- a web host


def test_a_web_host_loses_its_power(installation: Installation) -> None:
    with installation.load("web host without power", 30) as posts:
        installation.power_off("web1")
        reads(installation, 20)
        time.sleep(5)
        installation.power_on()
    assert_all_answered(posts.outcome)
    until(lambda: installation.served_by(20)["web1"] > 0, 60, "web1 gets requests again")


def test_a_web_host_hangs(installation: Installation) -> None:
    with installation.load("web host that hangs", 40) as posts:
        with installation.hung("web1"):
            time.sleep(15)
        reads(installation, 20)
    assert_all_answered(posts.outcome)


def test_a_web_host_is_cut_off(installation: Installation) -> None:
    with installation.load("web host cut off", 40) as posts, installation.cut_off("web2"):
        reads(installation, 20)
        time.sleep(10)
    assert_all_answered(posts.outcome)


# --- a balancer


def test_the_active_balancer_loses_its_power_and_comes_back(installation: Installation) -> None:
    (active,) = installation.active()
    other = next(name for name in ("balancer1", "balancer2") if name != active)
    with installation.load("active balancer without power, then back", 50) as posts:
        installation.power_off(active)
        until(lambda: installation.active() == [other], BALANCER_CEILING, f"{other} has the address")
        time.sleep(3)
        installation.power_on()
        time.sleep(5)
        # One that comes back doesn't take the address away again.
        assert installation.active() == [other]
    outcome = posts.outcome
    assert_kept(outcome)
    assert outcome.stall < BALANCER_CEILING


def test_a_balancer_whose_nginx_is_dead_gives_the_address_away(installation: Installation) -> None:
    (active,) = installation.active()
    other = next(name for name in ("balancer1", "balancer2") if name != active)
    installation.root(active, "systemctl kill --signal=STOP nginx.service")
    try:
        until(lambda: installation.active() == [other], BALANCER_CEILING, f"{other} has the address")
    finally:
        installation.root(active, "systemctl kill --signal=CONT nginx.service")


# --- the database


def test_the_leader_of_the_databases_is_killed(installation: Installation) -> None:
    leader = installation.leader()
    with installation.load("database's leader killed", 60) as posts:
        installation.root(leader, "pkill -KILL -u postgres -x postgres")
        time.sleep(2)
    outcome = posts.outcome
    assert_kept(outcome)
    assert outcome.stall < DATABASE_CEILING


def test_the_leaders_host_loses_its_power(installation: Installation) -> None:
    leader = installation.leader()
    with installation.load("database's leader without power", 75) as posts:
        installation.power_off(leader)
        until(lambda: installation.leader() not in ("", leader), DATABASE_CEILING, "another host leads")
        installation.power_on()
    outcome = posts.outcome
    assert_kept(outcome)
    assert outcome.stall < DATABASE_CEILING


def test_the_leader_is_cut_off_and_two_never_lead(installation: Installation) -> None:
    leader = installation.leader()
    others = [name for name in installation.databases() if name != leader]
    with installation.load("database's leader cut off", 90) as posts, installation.cut_off(leader):
        until(
            lambda: any(row["Role"] == "Leader" and row["Member"] != leader for row in installation.members(others[0])),
            DATABASE_CEILING,
            "another host leads",
        )
        time.sleep(5)
    outcome = posts.outcome
    assert_kept(outcome)
    until(lambda: len([row for row in installation.members(leader) if row["Role"] == "Leader"]) == 1, 60, "one leads")
    # What the old leader may have written alone is gone, since nobody was told of it.
    until(
        lambda: all(row["State"] in ("running", "streaming") for row in installation.members(leader)), 120, "all follow"
    )


def test_everything_loses_its_power(installation: Installation) -> None:
    names = [name for name in installation.hosts if name != "client"]
    with installation.load("before all hosts lose their power", 6):
        pass
    before = ask(installation.floating, NAME, "/latest").body
    installation.power_off(*names)
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
    with installation.load(f"after all hosts lost their power ({took:.0f} s until it answered)", 6) as posts:
        pass
    assert_all_answered(posts.outcome)


if not FULL:
    # Each takes a minute or more. The short form has, of each tier, the fault that is hardest to get right.
    del (
        test_a_web_host_hangs,
        test_a_web_host_is_cut_off,
        test_a_balancer_whose_nginx_is_dead_gives_the_address_away,
        test_the_leader_of_the_databases_is_killed,
        test_the_leaders_host_loses_its_power,
        test_everything_loses_its_power,
    )
