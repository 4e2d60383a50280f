"""What breaks while a release serves: the rest goes on, systemd or uWSGI brings it back, and the journal says why."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import as_root
from helpers_http import ask, handshake
from stage import APP, Stage
from testinfra.host import Host
from traffic import Traffic

INSTANCE = 'unit="$1@$(basename "$(readlink "/srv/$1/current")").service"\n'
MASTER = INSTANCE + 'systemctl show --property MainPID --value "$unit"'
SINCE = INSTANCE + 'journalctl --quiet --output=cat --unit "$unit" --since "@$2"'

# Of a worker: as many requests as it works on at a time.
THREADS = 8
# Seconds. What died is back in about two, the import of the app included; a noisy machine may take longer.
BACK = 10.0


@pytest.fixture
def since(stage: Stage) -> Iterator[dict[str, str]]:
    """Note the time on each host, and wait for all to serve again afterwards."""
    yield {name: as_root(host, "date +%s").strip() for name, host in stage.hosts.items()}
    for name in stage.hosts:
        assert ask(stage.address(name), stage.address(name), "/status", timeout=20).status == 200


def on_all(stage: Stage, script: str, *words: str) -> dict[str, str]:
    """Have root run a script on all hosts at once."""
    with ThreadPoolExecutor() as pool:
        said = pool.map(lambda host: as_root(host, script, APP, *words), stage.hosts.values())
        return dict(zip(stage.hosts, said, strict=True))


def journal(host: Host, since: str) -> str:
    """Read what the instance wrote."""
    return as_root(host, SINCE, APP, since)


def assert_only_what_was_in_flight(sent: dict[str, Traffic], most: int) -> None:
    """Make sure that no more requests failed than were being worked on, all at about that moment, and posts never."""
    for name, one in sent.items():
        failed = one.report.failed
        assert len(failed) <= most, f"{name}: {len(failed)} of {one.report.sent} failed: {failed[:5]}"
        ends = [failure.ended for failure in failed]
        assert not ends or max(ends) - min(ends) < BACK
        assert one.report.stall < BACK


def test_killed_worker_costs_what_it_worked_on(stage: Stage, since: dict[str, str]) -> None:
    with stage.load("worker killed") as sent:
        time.sleep(1)
        on_all(stage, f'kill -KILL "$(pgrep --oldest --parent "$({MASTER})")"')
        time.sleep(4)
    assert_only_what_was_in_flight(sent, THREADS)
    for name, host in stage.hosts.items():
        assert "killed by signal 9" in journal(host, since[name])


def test_killed_master_costs_what_was_in_flight(stage: Stage, since: dict[str, str]) -> None:
    before = on_all(stage, MASTER)
    with stage.load("uWSGI's master killed") as sent:
        time.sleep(1)
        on_all(stage, f'kill -KILL "$({MASTER})"')
        time.sleep(6)
    assert_only_what_was_in_flight(sent, 2 * THREADS)
    after = on_all(stage, MASTER)
    for name, host in stage.hosts.items():
        assert after[name] != before[name]
        assert "code=killed, status=9/KILL" in as_root(
            host, INSTANCE + 'journalctl --quiet --unit "$unit" --since "@$2"', APP, since[name]
        )


def test_request_that_hangs_ends_its_worker_and_no_other_request(stage: Stage, since: dict[str, str]) -> None:
    with stage.load("request that hangs") as sent, ThreadPoolExecutor() as pool:

        def hang(name: str) -> int:
            return ask(stage.address(name), stage.address(name), "/trial/hang", timeout=60).status

        assert set(pool.map(hang, stage.hosts)) <= {502, 504}
        time.sleep(3)
    for name, one in sent.items():
        assert one.report.failed == [], f"{name}: {one.report.failed[:5]}"
        assert one.report.stall < BACK
    for name, host in stage.hosts.items():
        said = journal(host, since[name])
        # With the id that is in NGINX's log too.
        assert re.search(r"HARAKIRI: GET /trial/hang \(request id [0-9a-f]{32}\) has hung for 10 s", said)
        assert "in _hang" in said, "the stack doesn't say where"


def test_leaking_worker_is_replaced_without_a_lost_request(stage: Stage, since: dict[str, str]) -> None:
    # uWSGI replaces no worker that is younger than ten seconds, and the test before has made one.
    time.sleep(10)
    with stage.load("worker that leaks") as sent:
        time.sleep(1)
        for name in stage.hosts:
            assert ask(stage.address(name), stage.address(name), "/trial/leak?mb=300", timeout=20).status == 200
        time.sleep(5)
    for name, one in sent.items():
        assert one.report.failed == [], f"{name}: {one.report.failed[:5]}"
        assert one.report.stall < BACK
    for name, host in stage.hosts.items():
        sizes = re.findall(r"has (\d+) MB of memory, and is replaced: the limit is 256 MB", journal(host, since[name]))
        assert sizes and int(sizes[0]) >= 256


def test_fifty_slow_clients_keep_nobody_waiting(stage: Stage) -> None:
    slow = {}
    with stage.load("50 slow clients") as sent:
        for name in stage.hosts:
            slow[name] = [handshake(stage.address(name), None) for _ in range(50)]
            for sock in slow[name]:
                sock.sendall(b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nthe beginning")
        time.sleep(3)
        for sock in (sock for several in slow.values() for sock in several):
            sock.close()
    for name, one in sent.items():
        assert one.report.failed == [], f"{name}: {one.report.failed[:5]}"
        assert one.report.stall < BACK
