"""Tests of several hosts at once: each host's own tests one after the other, and what is about all of them by itself.

Where pytest-xdist is told to use several processes, one of them has the tests of one host. As long as tests disturb
their hosts, those that are about no single host wait for all others, and all others for them.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

ALL = "all hosts"

TOGETHER = ("test_authority.py", "test_other_options.py", "test_scanners.py")
"""Files whose tests of single hosts follow from one change to all of them, or from scans of all in the background."""

LOCK = pytest.StashKey["Lock"]()


def names_of(config: pytest.Config) -> list[str]:
    """List the hosts that the tests were given; unit tests have none."""
    given = config.option.hosts
    return [name.partition("://")[2].partition("?")[0] for name in given.split(",")] if given else []


def host_in(nodeid: str, names: Iterable[str]) -> str:
    """Tell which host a test is about, by its name."""
    file, parameters = nodeid.partition("::")[0], nodeid.partition("[")[2]
    if not file.endswith(TOGETHER):
        # The longest first: another host's name may begin with a shorter one.
        for name in sorted(names, key=len, reverse=True):
            if f"ansible://{name}" in parameters:
                return name
    return ALL


class Lock:
    """Held by a process for as long as it has tests of one host; by one alone where the tests are about all of them."""

    def __init__(self, path: Path) -> None:
        """Open it, whoever of the processes is the first."""
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.held = ""

    def hold(self, name: str) -> None:
        """Wait until the tests of a host may go on."""
        if self.held != name:
            fcntl.flock(self.file, fcntl.LOCK_UN)
            fcntl.flock(self.file, fcntl.LOCK_EX if name == ALL else fcntl.LOCK_SH)
            self.held = name

    def let_go(self) -> None:
        """Let others go on."""
        fcntl.flock(self.file, fcntl.LOCK_UN)
        self.held = ""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Open the lock where this is one of several processes, and their tests disturb hosts."""
    run = getattr(session.config, "workerinput", {}).get("testrunuid")
    if run and any(item.get_closest_marker("disturbs") for item in session.items):
        session.config.stash[LOCK] = Lock(Path(tempfile.gettempdir()) / f"flask-on-metal-tests-{run}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave no file behind."""
    run = getattr(session.config, "workerinput", {}).get("testrunuid")
    if run:
        (Path(tempfile.gettempdir()) / f"flask-on-metal-tests-{run}").unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """Hold the lock from the first test of a host to its last, with what was set up for several of them."""
    lock = item.config.stash.get(LOCK, None)
    names = names_of(item.config)
    name = host_in(item.nodeid, names)
    if lock:
        lock.hold(name)
    try:
        return (yield)
    finally:
        if lock and (nextitem is None or host_in(nextitem.nodeid, names) != name):
            lock.let_go()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process the tests of one host."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    names = names_of(config)
    if not names:
        return None

    class ByHost(LoadScopeScheduling):  # type: ignore[misc]
        """Takes the tests of one host for one piece of work."""

        def _split_scope(self, nodeid: str) -> str:
            return host_in(nodeid, names)

    # In the order of the collection: what is about all hosts comes last.
    config.option.loadscopereorder = False
    return ByHost(config, log)
