"""The hosts of an installation of several, what can befall them, and what a steady load met with meanwhile."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accounts import Table
from helpers import ROOT, Ansible, Run, as_root
from helpers_http import NoAnswerError, ask
from machines import is_up
from other_posts import OTHER_NAME, OtherPosts, other_posts
from steady import Steady, steady_posts
from testinfra.host import Host

NAME = "news.example.org"
"""The board's name, which leads to the address that the balancers share."""

FULL = bool(os.environ.get("FLASK_ON_METAL_FULL"))

INVENTORY = ROOT / "molecule" / "cluster" / "inventory"

RATE = 40 if FULL else 20
"""Posts a second. Eight hosts share two cores with the load."""

HEADINGS = ["step", "requests", "failures", "longest stall, s", "slowest, s", "posts accepted", "lost"]


@dataclass
class Installation:
    """All its hosts, by name."""

    ansible: Ansible
    hosts: dict[str, Host]
    addresses: dict[str, str]
    floating: str
    floating6: str
    folder: Path
    table: Table
    web: list[str] = field(default_factory=lambda: ["web1", "web2"])
    """Its web hosts; one more is there, and bare."""
    inventories: list[Path] = field(default_factory=lambda: [INVENTORY])
    variables: dict[str, Any] = field(default_factory=dict)
    """What playbooks are run with, over what the inventory says."""

    # --- looks

    def root(self, name: str, script: str, *words: str) -> str:
        """Run a script as root on a host."""
        return as_root(self.hosts[name], script, *words)

    def active(self) -> list[str]:
        """Tell which balancers have the address."""
        found = []
        for name in self.hosts:
            if name.startswith("balancer") and is_up(name):
                said = self.root(name, "ip -oneline address")
                has = [f" {address}/" in said for address in (self.floating, self.floating6)]
                assert has[0] == has[1], f"the addresses are not together: {said}"
                found += [name] * has[0]
        return found

    def leader(self) -> str:
        """Tell which host leads the databases, by what most of them say; nothing while none does."""
        said: list[str] = []
        for name in self.databases():
            if is_up(name):
                found = self.root(name, 'patronictl -c /etc/patroni/*-main.yml list -f json 2>/dev/null || echo "[]"')
                said += [row["Member"] for row in json.loads(found) if row["Role"] == "Leader"]
        return max(set(said), key=said.count) if said else ""

    def members(self, name: str) -> list[dict[str, Any]]:
        """List the members of the database cluster, as a host has them."""
        found: list[dict[str, Any]] = json.loads(self.root(name, "patronictl -c /etc/patroni/*-main.yml list -f json"))
        return found

    def etcdctl(self, name: str, *words: str) -> str:
        """Ask etcd on a host; what it says besides an error."""
        script = """
          cd /etc/ssl/flask-on-metal-internal
          export ETCDCTL_API=3
          etcdctl --endpoints="https://$1:2379" --cacert=authority.pem --cert=certificate.pem --key=key.pem \\
            "${@:2}" || true
        """
        return self.root(name, script, self.addresses[name], *words)

    def etcd(self) -> tuple[str, str]:
        """Tell who leads etcd, and in which term of office."""
        for name in self.databases():
            if is_up(name):
                # URL, id, version, size, whether it leads, whether it learns, term, …
                for line in self.etcdctl(name, "endpoint", "status", "--cluster").splitlines():
                    url, _, _, _, leads, _, term, *_ = line.split(", ")
                    if leads == "true":
                        return next(one for one in self.databases() if f"//{self.addresses[one]}:" in url), term
        return "", ""

    def databases(self) -> list[str]:
        """List the database hosts."""
        return sorted(name for name in self.hosts if name.startswith("db"))

    def releases(self) -> dict[str, str]:
        """Tell which release each web host serves."""
        return {name: self.root(name, "basename $(readlink /srv/newsboard/current)").strip() for name in self.web}

    def served_by(self, requests: int = 20) -> dict[str, int]:
        """Count which web host answers requests through the balancers."""
        found = {name: self.accesses(name) for name in self.web}
        for _ in range(requests):
            assert ask(self.floating, NAME, "/latest").status == 200
        time.sleep(1.2)  # the log is written each second
        return {name: self.accesses(name) - before for name, before in found.items()}

    def accesses(self, name: str) -> int:
        """Count the lines of a host's log of requests for the board."""
        return int(self.root(name, f"grep -c {NAME} /var/log/nginx/access.log || true"))

    # --- what can befall a host

    def power_on(self) -> None:
        """Boot all hosts that are off."""
        run = self.ansible.playbook(ROOT / "playbooks" / "test_hosts.yml", timeout=300)
        assert run.status == 0, run.output

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

    def playbook(self, name: str | Path, *, limit: str = "", timeout: float = 600, **variables: Any) -> Run:
        """Run a playbook of this project, or another one by its whole path."""
        return replace(self.ansible, limit=limit).playbook(
            ROOT / "playbooks" / name, variables={**self.variables, **variables}, timeout=timeout,
            environment={"ANSIBLE_INVENTORY": ",".join(map(str, self.inventories))},
        )  # fmt: skip

    @contextmanager
    def inventory_of(self, name: str) -> Iterator[None]:
        """Run playbooks with one more folder of molecule/cluster as inventory."""
        self.inventories.append(INVENTORY.parent / name)
        try:
            yield
        finally:
            self.inventories.pop()

    @contextmanager
    def load(self, step: str) -> Iterator[Steady]:
        """Post at a steady rate through the shared address meanwhile; what it met with is in the table."""
        with steady_posts(self.floating, NAME, self.folder, RATE) as posts:
            yield posts
        met = posts.outcome
        failures = sum(met.failed.values())
        self.table.add(step, met.sent, failures, f"{met.stall:.2f}", f"{met.slowest:.2f}", met.accepted, met.lost)

    @contextmanager
    def other_load(self, step: str, lost: str) -> Iterator[OtherPosts]:
        """Send POSTs that may not be sent twice while a web host is lost: what it had taken may fail, and no other."""
        (active,) = self.active()
        # So says the balancer of a POST that a host had taken; of one that none had, it says "while connecting".
        taken = f"grep {OTHER_NAME} /var/log/nginx/error.log | grep -cE 'while (sending request|reading)' || true"
        before = int(self.root(active, taken))
        with other_posts(self.floating) as posts:
            time.sleep(3)
            look = f"ss -Htn state established dst {self.addresses[lost]} dport = :8443 | wc -l"
            connections = int(self.root(active, look))
            yield posts
        slowest = f"{max(posts.took, default=0):.2f}"
        failures = len(posts.refused) + posts.unanswered
        self.table.add(f"{step}: other POSTs", posts.sent, failures, "", slowest, len(posts.took), "")
        assert len(posts.refused) <= int(self.root(active, taken)) - before, f"nobody had taken some: {posts.refused}"
        assert posts.unanswered <= connections, f"{posts.unanswered} wait on {connections} connections"


def answers(address: str) -> bool:
    """Tell whether the board answers at an address."""
    try:
        return ask(address, NAME, "/latest", timeout=3).status == 200
    except (NoAnswerError, OSError):
        return False
