"""A deploy and a rollback while the host has more to do than it can: the queue of the app is never empty."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from helpers import Run, as_root
from stage import APP, FULL, Stage

# A request may wait in the queue as long as this, in seconds; one that takes longer counts as failed.
PATIENCE = 60
DURATION = 600

QUEUE = """
while ! [ -e /run/queue-seen ]; do
  ss --unix --listening --no-header | awk -v dir="/run/$1/" 'index($5, dir) && /uwsgi.sock/ {n += $3} END {print n + 0}'
  sleep 0.2
done
rm /run/queue-seen
"""


@dataclass
class Saturation:
    """What wrk met with on one host, and how long the queue was meanwhile."""

    said: str = ""
    queue: list[int] = field(default_factory=list)

    def figure(self, pattern: str) -> int:
        """Find a number in wrk's report; 0 where it doesn't mention it, which it does only if there is something."""
        found = re.search(pattern, self.said)
        return int(found[1]) if found else 0


@contextmanager
def saturated(stage: Stage, name: str, connections: int) -> Iterator[Saturation]:
    """Ask one host over so many connections, each again as soon as it was answered."""
    seen = Saturation()
    host, address = stage.hosts[name], stage.address(name)
    wrk = subprocess.Popen(
        ["wrk", "--threads=1", f"--connections={connections}", f"--duration={DURATION}s", f"--timeout={PATIENCE}s",
         f"https://{address}/latest"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    watch = threading.Thread(target=lambda: seen.queue.extend(map(int, as_root(host, QUEUE, APP).split())))
    watch.start()
    try:
        time.sleep(2)
        yield seen
        time.sleep(1)
    finally:
        as_root(host, "touch /run/queue-seen")
        watch.join(timeout=30)
        # wrk ends at once and reports when it is interrupted.
        wrk.send_signal(2)
        seen.said, _ = wrk.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("connections", [256, pytest.param(1000, marks=pytest.mark.full_matrix)])
@pytest.mark.parametrize("what", ["deploy", pytest.param("rollback", marks=pytest.mark.full_matrix)])
def test_nothing_fails_at_saturation(stage: Stage, connections: int, what: str) -> None:
    # One after the other: each takes all that two cores have. The short form saturates one.
    for name in sorted(stage.hosts) if FULL else sorted(stage.hosts)[-1:]:
        one = stage.on(name)
        before = stage.look()[name]
        with saturated(stage, name, connections) as seen:
            run: Run = one.deploy(force=True) if what == "deploy" else one.rollback()
        assert run.status == 0, run.output
        assert stage.look()[name].current != before.current
        asked = seen.figure(r"(\d+) requests in")
        print(f"{name}, {connections} connections, {what}: {asked} requests, queue {min(seen.queue)}–{max(seen.queue)}")
        assert asked > connections, seen.said
        assert "Non-2xx" not in seen.said and "Socket errors" not in seen.said, seen.said
        # Where others work on this machine as well, wrk can't always keep the queue full: in most of the looks it is.
        assert sum(length > 0 for length in seen.queue) > len(seen.queue) * 0.5, f"not saturated: {seen.queue}"
