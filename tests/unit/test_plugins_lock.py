"""The lock on an app's releases: one run has it, dead runs lose it, and everybody learns who has it."""

from __future__ import annotations

import json
import multiprocessing
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import release, release_lock
from ansible.module_utils.option_check import RANGES
from ansible.module_utils.release_lock import Holder, Lock, LockLost

MINE, OTHER, THIRD = "0123456789ab", "ba9876543210", "aaaaaaaaaaaa"


class Clock:
    """The boot clock, as the test sets it."""

    def __init__(self) -> None:
        """Begin some time after the boot."""
        self.time = 5000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.time


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """Put the locks below tmp_path, where nobody has made the folder yet."""
    monkeypatch.setattr(release_lock, "LOCKS", tmp_path / "locks")
    return Lock("news")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the boot clock by hand."""
    clock = Clock()
    monkeypatch.setattr(release_lock, "now", clock)
    return clock


def holder(run: str, limit: float = 600) -> Holder:
    return Holder(
        run=run,
        who=f"somebody-{run[:2]}",
        origin=f"machine-{run[:2]}",
        what=f"deploy of {run[:2]}",
        phase="lock",
        since=1767225600,
        renewed=release_lock.now(),
        limit=limit,
    )


# --- taken and refused


def test_a_free_lock_is_taken_and_its_holder_is_written_down(lock: Lock) -> None:
    assert lock.holder() is None
    mine = holder(MINE)
    assert lock.take(mine) is None
    assert lock.holder() == mine
    assert json.loads(lock.path.read_text()) == asdict(mine)


def test_the_locks_of_two_apps_are_two(lock: Lock) -> None:
    mine, other = holder(MINE), holder(OTHER)
    assert lock.take(mine) is None
    assert Lock("blog").take(other) is None
    assert (lock.holder(), Lock("blog").holder()) == (mine, other)


def test_another_run_is_refused_and_told_all_about_the_holder(lock: Lock, clock: Clock) -> None:
    other = replace(holder(OTHER), phase="migrate")
    lock.take(other)
    clock.time += 7
    assert lock.take(holder(MINE)) == other
    assert lock.holder() == other
    told = other.told()
    for text in (
        "somebody-ba on machine-ba", "deploy of ba", "since:    2026-01-01T00:00:00Z", "migrate, renewed 7 s ago",
        "in 593 s", OTHER,
    ):  # fmt: skip
        assert text in told
    clock.time += 9999
    assert "in 0 s" in other.told()


def test_the_same_run_may_take_it_again(lock: Lock) -> None:
    lock.take(holder(MINE))
    again = replace(holder(MINE), what="rollback")
    assert lock.take(again) is None
    assert lock.holder() == again


def test_a_broken_lock_is_taken_from_the_named_run_and_from_no_other(lock: Lock) -> None:
    lock.take(holder(OTHER))
    # Somebody else was quicker: what the operator looked at is not what they would break.
    refused = lock.take(holder(MINE), broken=THIRD)
    assert refused and refused.run == OTHER
    assert lock.take(holder(MINE), broken=OTHER) is None
    found = lock.holder()
    assert found and found.run == MINE


def test_a_lock_that_nobody_renewed_for_its_limit_is_taken_by_the_next(lock: Lock, clock: Clock) -> None:
    lock.take(holder(OTHER, limit=60))
    clock.time += 60
    assert lock.take(holder(MINE, limit=1)), "its own limit counts, and not that of who wants it"
    clock.time += 0.1
    assert lock.take(holder(MINE)) is None
    found = lock.holder()
    assert found and found.run == MINE


def test_the_limit_is_measured_with_the_boot_clock_which_nobody_sets(
    lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock.take(holder(OTHER, limit=60))
    found = lock.holder()
    assert found and abs(found.renewed - time.clock_gettime(time.CLOCK_BOOTTIME)) < 30
    for years in (-20, 20):
        monkeypatch.setattr(time, "time", lambda years=years: 1767225600 + years * 365 * 86400)
        assert lock.take(holder(MINE))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "garbage",
        "\x00\xff",
        "null",
        "[]",
        "7",
        "{}",
        '{"run": "ba9876543210"}',
        '{"run": "ba98765',
        '{"x": 1}',
    ],
)
def test_a_file_that_cannot_be_read_as_a_lock_is_nobodys(lock: Lock, text: str) -> None:
    lock.take(holder(OTHER))
    lock.path.write_bytes(text.encode("latin-1"))
    assert lock.holder() is None
    assert lock.take(holder(MINE)) is None
    found = lock.holder()
    assert found and found.run == MINE


def test_the_file_is_for_its_owner_alone(lock: Lock) -> None:
    lock.take(holder(MINE))
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
    lock.renew(MINE, "build")
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600


# --- two at once

ROUNDS = 20


def take_each(run: str, barrier: Any, answers: Any) -> None:
    """Take one lock after the other at the same instant as another process; tell which ones it got."""
    got = []
    for number in range(ROUNDS):
        barrier.wait(30)
        got.append(Lock(f"app{number}").take(holder(run)) is None)
    answers.put(got)


@pytest.mark.parametrize("before", ["free", "expired"])
def test_of_two_processes_that_take_at_once_exactly_one_gets_the_lock(lock: Lock, before: str) -> None:
    if before == "expired":
        for number in range(ROUNDS):
            Lock(f"app{number}").take(holder(THIRD, limit=-1))
    forked = multiprocessing.get_context("fork")  # with the folder that the fixture set
    barrier, answers = forked.Barrier(2), forked.Queue()
    processes = [forked.Process(target=take_each, args=(run, barrier, answers)) for run in (MINE, OTHER)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
    assert [sum(got) for got in zip(*found, strict=True)] == [1] * ROUNDS


# --- renewed and given back


def test_a_renewal_changes_phase_and_time_and_keeps_the_rest(lock: Lock, clock: Clock) -> None:
    mine = holder(MINE)
    lock.take(mine)
    clock.time += 400
    lock.renew(MINE, "migrate")
    assert lock.holder() == replace(mine, phase="migrate", renewed=5400.0)
    clock.time += 400
    assert lock.take(holder(OTHER)), "it was renewed within its limit"


def test_a_run_whose_time_is_over_may_go_on_while_nobody_else_has_taken_the_lock(lock: Lock, clock: Clock) -> None:
    lock.take(holder(MINE))
    clock.time += 9999
    lock.renew(MINE, "build")
    assert lock.take(holder(OTHER))


def test_a_renewal_by_another_run_is_refused_and_names_the_holder(lock: Lock) -> None:
    other = holder(OTHER)
    lock.take(other)
    with pytest.raises(LockLost) as lost:
        lock.renew(MINE, "build")
    for text in ("releases of news", "is now another run's", "somebody-ba on machine-ba", "deploy of ba", OTHER):
        assert text in str(lost.value)
    assert lock.holder() == other


def test_a_renewal_of_a_lock_that_is_gone_is_refused_and_makes_none(lock: Lock) -> None:
    lock.take(holder(MINE))
    lock.path.unlink()
    with pytest.raises(LockLost, match="releases of news is gone: the host was rebooted, or it was broken"):
        lock.renew(MINE, "build")
    assert not lock.path.exists()


def test_a_run_gives_back_its_own_lock_alone(lock: Lock) -> None:
    assert lock.give_back(MINE) is False
    lock.take(holder(OTHER))
    assert lock.give_back(MINE) is False
    found = lock.holder()
    assert found and found.run == OTHER
    assert lock.give_back(OTHER) is True
    assert lock.holder() is None
    assert lock.take(holder(MINE)) is None


# --- kept


@pytest.fixture
def kept(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], threading.Thread]]:
    """Keep this run's lock, with a quick heart; returns the thread that does it."""
    monkeypatch.setattr(release_lock, "HEARTBEAT", 0.05)
    threads = []

    def keep() -> threading.Thread:
        before = set(threading.enumerate())
        lock.keep(MINE, "migrate")
        (thread,) = set(threading.enumerate()) - before
        threads.append(thread)
        return thread

    yield keep
    lock.path.unlink(missing_ok=True)
    for thread in threads:
        # While the lock is still below tmp_path.
        thread.join(10)


def test_a_lock_is_renewed_for_as_long_as_a_module_is_at_work(lock: Lock, kept: Any) -> None:
    mine = holder(MINE, limit=1)
    lock.take(mine)
    thread = kept()
    assert thread.daemon, "it must not outlive its module"
    end = time.monotonic() + 2
    while time.monotonic() < end:
        refused = lock.take(holder(OTHER))
        assert refused and refused.run == MINE
        time.sleep(0.05)
    found = lock.holder()
    assert found and found.renewed > mine.renewed + 1 and (found.phase, found.since) == ("migrate", mine.since)


@pytest.mark.parametrize("lost", ["given back", "another run's"])
def test_a_lock_that_is_lost_is_not_taken_again_by_who_kept_it(lock: Lock, kept: Any, lost: str) -> None:
    lock.take(holder(MINE))
    thread = kept()
    if lost == "given back":
        lock.give_back(MINE)
    else:
        lock.take(holder(OTHER), broken=MINE)
    found = lock.holder()
    thread.join(10)
    assert not thread.is_alive()
    assert lock.holder() == found


# --- the module


ASKED: dict[str, Any] = {"who": "me", "origin": "laptop", "what": "deploy", "limit": 60}


def test_the_module_takes_the_lock_and_gives_it_back(lock: Lock, run_module: Any, clock: Clock) -> None:
    before = time.time()
    answer = run_module("release_lock", app="news", run=MINE, **ASKED)
    assert (answer.get("failed"), answer["changed"], answer["refused"], answer["held_by"]) == (None, False, "", MINE)
    found = lock.holder()
    assert found and before <= found.since <= time.time()
    assert found == Holder(run=MINE, phase="lock", since=found.since, renewed=5000.0, **ASKED)
    run_module("release_lock", app="news", run=OTHER, state="absent")
    assert lock.holder() == found
    answer = run_module("release_lock", app="news", run=MINE, state="absent")
    assert (answer["refused"], answer["held_by"]) == ("", "") and lock.holder() is None


def test_a_lock_that_another_run_has_is_the_modules_answer_and_no_failure(lock: Lock, run_module: Any) -> None:
    lock.take(holder(OTHER))
    answer = run_module("release_lock", app="news", run=MINE, **ASKED)
    assert answer.get("failed") is None and answer["changed"] is False
    assert answer["held_by"] == OTHER
    for text in ("somebody-ba on machine-ba", "deploy of ba", OTHER):
        assert text in answer["refused"]
    answer = run_module("release_lock", app="news", run=MINE, **ASKED, broken=OTHER)
    assert (answer["refused"], answer["held_by"]) == ("", MINE)


def test_releases_that_changed_since_the_run_looked_at_them_are_refused(
    lock: Lock, run_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "SERVED", tmp_path)
    seen, now = "20260101T000000Z-0123abcd", "20260102T000000Z-0123abcd"
    assert run_module("release_lock", app="news", run=MINE, current="", **ASKED)["refused"] == ""
    (tmp_path / "news").mkdir()
    (tmp_path / "news" / "current").symlink_to(f"releases/{now}")
    answer = run_module("release_lock", app="news", run=MINE, current=seen, **ASKED)
    assert f"have changed since this run looked at them: {now} is current now" in answer["refused"]
    assert answer["held_by"] == "" and lock.holder() is None
    assert run_module("release_lock", app="news", run=MINE, current=now, **ASKED)["held_by"] == MINE


def test_check_mode_neither_takes_the_lock_nor_gives_it_back(lock: Lock, run_module: Any) -> None:
    answer = run_module("release_lock", check=True, app="news", run=MINE, **ASKED)
    assert (answer["refused"], lock.holder()) == ("", None)
    lock.take(holder(OTHER))
    # A look at what would be done waits for nobody.
    assert run_module("release_lock", check=True, app="news", run=MINE, **ASKED)["refused"] == ""
    run_module("release_lock", check=True, app="news", run=OTHER, state="absent")
    assert lock.holder() is not None


def test_the_shortest_limit_that_can_be_set_is_no_shorter_than_two_heartbeats() -> None:
    assert RANGES["flask_app_lock_limit"][0] >= 2 * release_lock.HEARTBEAT
