"""The hosts of an installation of several, what can befall them, and what a steady load met with meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accounts import Table
from helpers import ROOT, Ansible, Run, as_root
from helpers_http import NoAnswerError, ask
from testinfra.host import Host

NAME = "news.example.org"
"""The board's name, which leads to the address that the balancers share."""

FULL = bool(os.environ.get("FLASK_ON_METAL_FULL"))

RATE = 40 if FULL else 20
"""Posts a second. Eight hosts share two cores with the load."""

LIMIT = 15.0
"""Seconds after which a post without an answer is a failure."""


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


HEADINGS = ["step", "requests", "failures", "longest stall, s", "slowest, s", "posts accepted", "lost"]


@dataclass
class Installation:
    """All its hosts, by name."""

    ansible: Ansible
    hosts: dict[str, Host]
    addresses: dict[str, str]
    floating: str
    folder: Path
    table: Table
    variables: dict[str, Any] = field(default_factory=dict)
    """What playbooks are run with, over what the inventory says."""

    # --- looks

    def root(self, name: str, script: str, *words: str) -> str:
        """Run a script as root on a host."""
        return as_root(self.hosts[name], script, *words)

    def active(self) -> list[str]:
        """Tell which balancers have the address."""
        names = [name for name in self.hosts if name.startswith("balancer") and self.is_up(name)]
        return [name for name in names if f" {self.floating}/" in self.root(name, "ip -4 -oneline address")]

    def leader(self) -> str:
        """Tell which host leads the databases, by what most of them say; nothing while none does."""
        said: list[str] = []
        for name in self.databases():
            if self.is_up(name):
                found = self.root(name, 'patronictl -c /etc/patroni/*-main.yml list -f json 2>/dev/null || echo "[]"')
                said += [row["Member"] for row in json.loads(found) if row["Role"] == "Leader"]
        return max(set(said), key=said.count) if said else ""

    def members(self, name: str) -> list[dict[str, Any]]:
        """List the members of the database cluster, as a host has them."""
        found: list[dict[str, Any]] = json.loads(self.root(name, "patronictl -c /etc/patroni/*-main.yml list -f json"))
        return found

    def databases(self) -> list[str]:
        """List the database hosts."""
        return sorted(name for name in self.hosts if name.startswith("db"))

    def releases(self) -> dict[str, str]:
        """Tell which release each web host serves."""
        names = sorted(name for name in self.hosts if name.startswith("web"))
        return {name: self.root(name, "basename $(readlink /srv/newsboard/current)").strip() for name in names}

    def served_by(self, requests: int = 20) -> dict[str, int]:
        """Count which web host answers requests through the balancers."""
        found: dict[str, int] = {}
        for name in sorted(self.hosts):
            if name.startswith("web"):
                found[name] = self.accesses(name)
        for _ in range(requests):
            assert ask(self.floating, NAME, "/latest").status == 200
        time.sleep(1.2)  # the log is written each second
        return {name: self.accesses(name) - before for name, before in found.items()}

    def accesses(self, name: str) -> int:
        """Count the lines of a host's log of requests for the board."""
        return int(self.root(name, f"grep -c {NAME} /var/log/nginx/access.log || true"))

    def cpu(self) -> dict[str, float]:
        """Tell how many seconds the processes that run on each host have worked, as this machine's kernel counts."""
        found = dict.fromkeys(self.hosts, 0.0)
        spaces = {}
        for name in self.hosts:
            if pid := self.nspawn(name):
                first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
                spaces[Path(f"/proc/{first}/ns/pid").readlink()] = name
        for path in Path("/proc").glob("[0-9]*"):
            # One that ends in between has no more to tell.
            with contextlib.suppress(OSError):
                if name := spaces.get((path / "ns" / "pid").readlink()):
                    ticks = (path / "stat").read_text().rpartition(")")[2].split()[11:13]
                    found[name] += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        return found

    # --- what can befall a host

    def nspawn(self, name: str) -> int | None:
        """Find the program that runs a host."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            machine = next((word for word in words if word.startswith(b"--machine=")), b"").decode()
            if words[0].endswith(b"systemd-nspawn") and machine.removeprefix("--machine=").rpartition("-")[0] == name:
                return int(path.parent.name)
        return None

    def is_up(self, name: str) -> bool:
        """Tell whether a host runs."""
        return self.nspawn(name) is not None

    def power_off(self, *names: str) -> None:
        """Take the current away: all processes are gone at once, and nothing is written any more."""
        for name in names:
            pid = self.nspawn(name)
            assert pid, f"{name} is off already"
            first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
            os.kill(int(first), signal.SIGKILL)
        for name in names:
            until(lambda name=name: not self.is_up(name), 20, f"{name} is off")

    def power_on(self) -> None:
        """Boot all hosts that are off."""
        run = self.ansible.playbook(ROOT / "playbooks" / "test_hosts.yml", timeout=300)
        assert run.status == 0, run.output

    @contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """Pull the plug of a host's network, and put it back."""
        links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
        pid = self.nspawn(name)
        assert pid
        machine = next(
            word for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0") if word.startswith("--machine=")
        ).removeprefix("--machine=")
        link = next(
            link["ifname"]
            for link in links
            if f"vb-{machine}" in (link["ifname"].partition("@")[0], *link.get("altnames", []))
        )
        subprocess.run(["ip", "link", "set", link, "down"], check=True)
        try:
            yield
        finally:
            subprocess.run(["ip", "link", "set", link, "up"], check=True)

    @contextmanager
    def hung(self, name: str) -> Iterator[None]:
        """Stop the processes of a web host's servers, as they are, and let them go on."""
        look = "pgrep --full '[n]ginx: |[u]wsgi-core|[n]ewsboard uWSGI|[p]rober uWSGI'"
        self.root(name, f"{look} | xargs kill -STOP")
        try:
            yield
        finally:
            self.root(name, f"{look} | xargs kill -CONT")

    # --- runs

    def playbook(self, name: str, *, limit: str = "", timeout: float = 600, **variables: Any) -> Run:
        """Run a playbook of this project."""
        return replace(self.ansible, limit=limit).playbook(
            ROOT / "playbooks" / name, variables={**self.variables, **variables}, timeout=timeout
        )

    @contextmanager
    def load(self, step: str, seconds: float, rate: int = RATE) -> Iterator[Steady]:
        """Post at a steady rate through the shared address for so long; what it met with is in the table."""
        steady = Steady(self, seconds, rate)
        try:
            yield steady
        except BaseException:
            steady.process.kill()
            steady.process.wait()
            raise
        steady.finish()
        met = steady.outcome
        failures = sum(met.failed.values())
        self.table.add(step, met.sent, failures, f"{met.stall:.2f}", f"{met.slowest:.2f}", met.accepted, met.lost)


class Steady:
    """A run of bin/simulate."""

    def __init__(self, installation: Installation, seconds: float, rate: int) -> None:
        """Start it, and wait until posts are answered."""
        self.report = installation.folder / f"report-{time.monotonic_ns()}.json"
        words = [
            sys.executable, "-m", "flask_on_metal.simulate", "--insecure", "--address", installation.floating,
            "--rate", str(rate), "--duration", str(seconds), "--timeout", str(LIMIT), "--max-late", "100",
            "--seed", str(time.monotonic_ns() % 2**31), "--json", str(self.report), f"https://{NAME}/",
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        self.process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.seconds = seconds
        self._outcome: Outcome | None = None
        time.sleep(3)

    def finish(self) -> None:
        """Wait for its end, and read its report."""
        said, _ = self.process.communicate(timeout=self.seconds + LIMIT + 200)
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


def until(condition: Any, seconds: float, what: str) -> float:
    """Wait until something is so, and tell how long it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - begin


def answers(address: str) -> bool:
    """Tell whether the board answers at an address."""
    try:
        return ask(address, NAME, "/latest", timeout=3).status == 200
    except (NoAnswerError, OSError):
        return False
