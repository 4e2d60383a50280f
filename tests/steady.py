"""Posts at a steady rate to the board, by bin/simulate, and what became of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

LIMIT = 15.0
"""Seconds after which a post without an answer is a failure."""

LONGEST = 900
"""Seconds that it posts at most."""


@dataclass(frozen=True)
class Outcome:
    """What became of the posts of one run of bin/simulate."""

    sent: int
    accepted: int
    failed: dict[str, int]
    """Posts without an answer, and those with another than 200, by kind or status."""
    lost: int | None
    altered: int | None
    duplicates: int
    stall: float
    """The longest time in seconds in which posts were due, and none was answered."""
    slowest: float
    said: str
    """The whole report."""

    def assert_kept(self) -> None:
        """Make sure that all that was answered 200 is there, as it was posted, and once."""
        assert self.accepted > 0, self.said
        assert (self.lost, self.altered, self.duplicates) == (0, 0, 0), self.said

    def assert_all_answered(self) -> None:
        """Make sure that each post was answered 200, and is there."""
        assert self.failed == {}, self.said
        assert self.sent == self.accepted
        self.assert_kept()


class Steady:
    """A run of bin/simulate."""

    def __init__(self, address: str, name: str, folder: Path, rate: int) -> None:
        """Start it, and wait until posts are answered."""
        self.report = folder / f"report-{time.monotonic_ns()}.json"
        words = [
            sys.executable, "-m", "flask_on_metal.simulate", "--insecure", "--address", address,
            "--rate", str(rate), "--duration", str(LONGEST), "--timeout", str(LIMIT), "--max-late", "100",
            "--seed", str(time.monotonic_ns() % 2**31), "--json", str(self.report), f"https://{name}/",
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        self.process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._outcome: Outcome | None = None
        time.sleep(3)

    def finish(self) -> None:
        """Send no more, wait for what was sent, and read its report."""
        assert self.process.poll() is None, "the load has ended before what it was for"
        self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=LIMIT + 200)
        assert self.report.exists(), said
        text = self.report.read_text()
        whole = json.loads(text)
        posts, back = whole["posts"], whole["read_back"]
        self._outcome = Outcome(
            sent=posts["sent"],
            accepted=posts["accepted"],
            failed={**posts["refused_by_status"], **posts["failed_by_kind"]},
            lost=back["lost"],
            altered=back["altered"],
            duplicates=back["duplicates"],
            stall=whole["latency_ms"]["longest_stall"] / 1000,
            slowest=(whole["latency_ms"]["max"] or 0) / 1000,
            said=text,
        )

    @property
    def outcome(self) -> Outcome:
        """What became of the posts."""
        assert self._outcome, "the load isn't over"
        return self._outcome


@contextmanager
def steady_posts(address: str, name: str, folder: Path, rate: int) -> Iterator[Steady]:
    """Post from before until after what is done meanwhile."""
    steady = Steady(address, name, folder, rate)
    try:
        yield steady
        time.sleep(3)
    except BaseException:
        steady.process.kill()
        steady.process.wait()
        raise
    steady.finish()
