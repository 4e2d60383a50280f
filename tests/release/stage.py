"""The hosts on which releases are tried, ways to run things there, and what the traffic met with meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import traffic
from accounts import Table
from helpers import ROOT, Ansible, App, Promised, Run, as_root, blocks, changed_apps
from helpers_http import ask
from sources import make_source
from testinfra.host import Host

APP = "newsboard"

FULL = bool(os.environ.get("FLASK_ON_METAL_FULL"))

# Requests per second to each host. In the short form both hosts are tried at once, on the same cores.
RATE = 200 if FULL else 100

# Seconds that nobody may have waited without an answer. Ten times and more what a release is meant to add.
STALL_CEILING = 2.0

LOOK = """
echo "== current"; readlink "/srv/$1/current" | xargs basename
echo "== releases"; ls "/srv/$1/releases"
echo "== failed"
find "/srv/$1/releases" -mindepth 2 -maxdepth 2 -name failed -printf '%h\\n' | xargs -rn1 basename | sort
echo "== loaded"
systemctl list-units --all --plain --no-legend "$1@*.service" "$1@*.socket" | awk '$3 != "inactive" {print $1}' | sort
echo "== enabled"; find /etc/systemd/system -path '*.wants/*' -name "$1@*" -printf '%f\\n' | sort
echo "== drop-ins"; find /etc/systemd/system -maxdepth 1 -name "$1@*.service.d" -printf '%f\\n' | sort
echo "== nginx"; pgrep --parent "$(cat /run/nginx.pid)" --full 'nginx: worker' | sort
echo "== lock"; cat "/run/flask-on-metal/$1.lock" 2>/dev/null || true
"""


@dataclass(frozen=True)
class Look:
    """The app's releases on one host, seen from outside."""

    current: str
    releases: list[str]
    failed: list[str]
    loaded: list[str]  # units that aren't inactive
    enabled: list[str]
    drop_ins: list[str]
    nginx: list[str]  # pids of its workers
    lock: str

    @property
    def instance(self) -> list[str]:
        """The units of the release that is served."""
        return [f"{APP}@{self.current}.service", f"{APP}@{self.current}.socket"]

    def assert_settled(self) -> None:
        """Make sure that the current release runs and starts at boot, and that nothing besides is left of others."""
        assert self.loaded == self.instance
        assert self.enabled == self.instance
        # One that was refused early has none yet.
        assert set(self.drop_ins) <= {f"{APP}@{release}.service.d" for release in self.releases}
        assert self.lock == "", "the lock was not given back"


HEADINGS = [
    "step", "host", "sent", "failed", "closed idle", "longest stall ms", "slowest ms", "versions", "posts", "lost"
]  # fmt: skip


@dataclass
class Stage:
    """The hosts, and ways to release to them."""

    ansible: Ansible  # limited to the hosts
    hosts: dict[str, Host]
    promises: dict[str, Promised]
    folder: Path
    table: Table
    served: dict[str, Any] = field(default_factory=dict)
    """The variables of what is served, other than the inventory's."""

    def on(self, name: str) -> Stage:
        """Leave all hosts but one alone."""
        ansible = replace(self.ansible, limit=f"{name},localhost")
        return replace(self, ansible=ansible, hosts={name: self.hosts[name]}, served=dict(self.served))

    def either(self, about: str) -> Stage:
        """Leave all hosts but one alone, chosen by what is tried there: so some of it is tried on each."""
        return self.on(sorted(self.hosts)[(crc32(about.encode()) >> 8) % len(self.hosts)])

    def app(self, name: str) -> App:
        """Find the app on a host."""
        return next(app for app in self.promises[name].apps if app.name == APP)

    def address(self, name: str) -> str:
        """Tell the address of a host that its app answers to."""
        return self.app(name).canonical

    def version(self, name: str) -> str:
        """Tell the version of the code that answers on a host."""
        answer = ask(self.address(name), self.address(name), "/trial/pid")
        return answer.headers["x-trial"].split()[0]

    def begin_anew(self) -> None:
        """Have the hosts serve version 1, whatever other tests left. What was gone back from needs force."""
        if any(self.version(name) != "1" for name in self.hosts):
            run = self.deploy({}, force=True)
            assert run.status == 0, run.output

    def look(self) -> dict[str, Look]:
        """Ask all hosts for the state of the app's releases."""

        def one(host: Host) -> Look:
            found = blocks(as_root(host, LOOK, APP))
            lists = ("releases", "failed", "loaded", "enabled", "nginx")
            parts = {name: found[name].split() for name in lists}
            return Look(current=found["current"], lock=found["lock"], drop_ins=found["drop-ins"].split(), **parts)

        return {name: one(host) for name, host in self.hosts.items()}

    # --- what is released

    def source(self, version: str, **more: str) -> Path:
        """Make a source of the trial app; see sources.make_source."""
        return make_source(self.folder / "-".join([version, *more.values()]), version=version, **more)

    def variables(self, source: Path | None = None, **changes: Any) -> dict[str, Any]:
        """Say with variables that the app has another source, or other options."""
        if not source and not changes:
            return dict(self.served)

        def change(name: str, entry: dict[str, Any]) -> dict[str, Any]:
            environment = {**entry["environment"], **changes.get("environment", {})}
            return entry | changes | {"environment": environment, "source": str(source or entry["source"])}

        return changed_apps({name: self.promises[name] for name in self.hosts}, change)

    # --- runs

    def run(
        self,
        playbook: str,
        variables: dict[str, Any],
        *,
        timeout: float = 300,
        environment: dict[str, str] | None = None,
        check: bool = False,
    ) -> Run:
        """Run a playbook of this project; secrets are cut out of its output."""
        secrets = [secret for name in self.hosts for secret in self.app(name).secrets.values() if secret.reveal()]
        path = ROOT / "playbooks" / playbook
        done = self.ansible.playbook(path, variables=variables, timeout=timeout, environment=environment, check=check)
        return done.without(secrets)

    def deploy(
        self, variables: dict[str, Any] | None = None, *, environment: dict[str, str] | None = None, **more: Any
    ) -> Run:
        """Deploy what the variables say, or what is served, and remember it if it went well."""
        wanted = self.served if variables is None else variables
        run = self.run("deploy.yml", {**wanted, **more}, environment=environment)
        if run.status == 0:
            self.served = wanted
        return run

    def rollback(self, **more: Any) -> Run:
        """Go back; what is served then is not what the variables say."""
        return self.run("rollback.yml", {**self.served, "app": APP, **more})

    # --- under load

    @contextmanager
    def load(self, step: str, **options: Any) -> Iterator[dict[str, traffic.Traffic]]:
        """Send traffic to all hosts meanwhile, and put what it met with into the table.

        What is never right is an error here: a lost or altered post, an old version after a new one, old code with new
        libraries.
        """
        options = {"rate": RATE, **options}
        with ExitStack() as stack:
            sent = {
                name: stack.enter_context(traffic.Traffic(self.address(name), self.address(name), **options))
                for name in self.hosts
            }
            yield sent
        for name, one in sent.items():
            report = one.report
            self.table.add(
                step, name, report.sent, len(report.failed), report.kept_closes, round(report.stall * 1000),
                round(report.slowest * 1000), " → ".join(versions(one)), report.posts.accepted, report.posts.lost,
            )  # fmt: skip
        for name, one in sent.items():
            report = one.report
            assert report.posts.complete, f"{name}: {report.posts.reason}"
            assert (report.posts.lost, report.posts.altered) == (0, 0), f"{name}: {report.posts}"
            assert report.out_of_order == 0, f"{name}: the old version answered after the new one"
            assert report.mixed == 0, f"{name}: old code saw new libraries: {report.versions}"
            # The load itself must not have been what stopped.
            assert report.own_lag < STALL_CEILING, f"{name}: this machine was too slow to send the load"


def assert_nothing_failed(sent: dict[str, traffic.Traffic], *, reloads: int = 0) -> None:
    """Make sure that nobody noticed: no request failed, and none stalled.

    A reload of NGINX may close a kept connection that a client is just about to use again: at most each idle one, once.
    """
    for name, one in sent.items():
        report = one.report
        assert report.failed == [], f"{name}: {len(report.failed)} of {report.sent} failed: {report.failed[:5]}"
        assert report.kept_closes <= traffic.MAX_IDLE * reloads, f"{name}: {report.kept_closes} closed when idle"
        assert report.stall < STALL_CEILING, f"{name}: nobody was answered for {report.stall:.1f} s"


def versions(one: traffic.Traffic) -> list[str]:
    """Tell which versions answered, in order of appearance."""
    return list(dict.fromkeys(version.code for version in one.report.versions))
