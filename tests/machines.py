"""What can befall a throw-away host that nothing on it could do to itself: they are machines of this one's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until something is so, and tell how long it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - begin


def running() -> dict[str, tuple[str, int]]:
    """Find the hosts that are up, by their names: each one's machine, and the process that is its first."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # One that ends in between is none.
        with contextlib.suppress(OSError, IndexError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if words[0].endswith("systemd-nspawn"):
                machine = next(word for word in words if word.startswith("--machine=")).removeprefix("--machine=")
                first = (path.parent / "task" / path.parent.name / "children").read_text().split()[0]
                found[machine.rpartition("-")[0]] = (machine, int(first))
    return found


def is_up(name: str) -> bool:
    """Tell whether a host runs."""
    return name in running()


def power_off(*names: str) -> None:
    """Take the current away: all processes are gone at once, and nothing is written any more."""
    found = running()
    for name in names:
        os.kill(found[name][1], signal.SIGKILL)
    until(lambda: not set(names) & set(running()), 20, f"{', '.join(names)} off")


@contextmanager
def cut_off(name: str) -> Iterator[None]:
    """Pull the plug of a host's network, and put it back."""
    wanted = f"vb-{running()[name][0]}"
    links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
    link = next(
        link["ifname"] for link in links if wanted in (link["ifname"].partition("@")[0], *link.get("altnames", []))
    )
    subprocess.run(["ip", "link", "set", link, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "set", link, "up"], check=True)


def cpu_seconds(names: Iterable[str]) -> dict[str, float]:
    """Tell how many seconds the processes that run on each host have worked, as this machine's kernel counts."""
    found = dict.fromkeys(names, 0.0)
    spaces = {Path(f"/proc/{first}/ns/pid").readlink(): name for name, (_, first) in running().items() if name in found}
    for path in Path("/proc").glob("[0-9]*"):
        # One that ends in between has no more to tell.
        with contextlib.suppress(OSError):
            if name := spaces.get((path / "ns" / "pid").readlink()):
                ticks = (path / "stat").read_text().rpartition(")")[2].split()[11:13]
                found[name] += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return found
