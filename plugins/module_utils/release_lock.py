"""The lock on an app's releases: one run at a time may make, activate or remove one on a host."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ansible.module_utils.filesystem import read_text, write_atomically
from ansible.module_utils.visible import one_line

# In /run: a lock dies with a reboot, as the run that held it does.
LOCKS = Path("/run/flask-on-metal")

# Seconds between two renewals while a module is at work. The shortest limit that can be set is twice as long.
HEARTBEAT = 30.0


class LockLost(Exception):
    """The lock isn't this run's any more; the text says what that means."""


@dataclass(frozen=True)
class Holder:
    """Who has the lock, and until when."""

    run: str  # 12 hex digits, made by the run
    who: str
    origin: str  # the machine that the run is on
    what: str
    phase: str
    since: float  # Unix time, for people
    renewed: float  # seconds since the host's boot, which no clock adjustment moves
    limit: float  # seconds

    def expired(self) -> bool:
        """Whether nobody has renewed the lock for its time limit."""
        return now() - self.renewed > self.limit

    def told(self) -> str:
        """Say all of it."""
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.since))
        left = max(self.limit - (now() - self.renewed), 0)
        return (
            f"  who:      {one_line(self.who)} on {one_line(self.origin)}\n"
            f"  what:     {one_line(self.what)}\n"
            f"  since:    {since}\n"
            f"  phase:    {one_line(self.phase)}, renewed {now() - self.renewed:.0f} s ago\n"
            f"  ends:     when that run does, in {left:.0f} s if nobody renews it, or with a reboot of the host\n"
            f"  run:      {one_line(self.run)}"
        )


def now() -> float:
    """Seconds since the boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Lock:
    """The lock of one app on this host."""

    app: str

    @property
    def path(self) -> Path:
        """Where its holder is written down."""
        return LOCKS / f"{self.app}.lock"

    def holder(self) -> Holder | None:
        """Tell who has it; nobody, where what is there can't be read."""
        try:
            found = Holder(**json.loads(read_text(self.path) or ""))
            # Numbers, as they are to be calculated with.
            return replace(found, since=float(found.since), renewed=float(found.renewed), limit=float(found.limit))
        except (ValueError, TypeError):
            return None

    def take(self, holder: Holder, broken: str = "") -> Holder | None:
        """Take the lock, unless somebody else has it: then tell who.

        Args:
            holder: who wants it.
            broken: the run whose lock the operator breaks.
        """
        with self._guarded():
            found = self.holder()
            if found and found.run not in (holder.run, broken) and not found.expired():
                return found
            self._write(holder)
            return None

    def renew(self, run: str, phase: str) -> None:
        """Say that the run is still at work, and at what.

        Raises:
            LockLost: somebody else has the lock, or nobody.
        """
        with self._guarded():
            found = self.holder()
            if found is None:
                raise LockLost(
                    f"this run's lock on the releases of {self.app} is gone: the host was rebooted, or it was broken"
                )
            if found.run != run:
                raise LockLost(f"this run's lock on the releases of {self.app} is now another run's:\n{found.told()}")
            self._write(replace(found, phase=phase, renewed=now()))

    def keep(self, run: str, phase: str) -> None:
        """Renew the lock again and again, from a thread that ends with this process."""

        def beat() -> None:
            while True:
                time.sleep(HEARTBEAT)
                try:
                    self.renew(run, phase)
                except LockLost:
                    return
                except OSError:
                    continue  # /run is full: the next beat may find room, and the limit is many beats long

        threading.Thread(target=beat, daemon=True).start()

    def give_back(self, run: str) -> bool:
        """Give the lock back, if it is this run's; tell whether it was."""
        with self._guarded():
            found = self.holder()
            if found is None or found.run != run:
                return False
            self.path.unlink()
            return True

    def _write(self, holder: Holder) -> None:
        write_atomically(self.path, json.dumps(asdict(holder)) + "\n", 0o600, os.getuid(), os.getgid())

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        # Reading and writing must be one step. The kernel drops this one when the process ends.
        # Closed to others: whoever can open a guard can hold it for ever.
        LOCKS.mkdir(mode=0o700, exist_ok=True)
        with (LOCKS / f"{self.app}.guard").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield
