"""A deploy: no request is lost, whatever becomes of the new release."""

import itertools
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers import LEAKED_ON_PURPOSE, RELEASE_ID, ROOT, Ansible, App, Promised, Run, as_it_is, as_root, blocks
from helpers_http import NoAnswerError, ask
from test_speed_of_runs import DEPLOY_WITHOUT_A_CHANGE
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

RATE = 20  # requests per second and host, each on a connection of its own
MARK = "released-by-a-test"

LOOK = """
echo "== current"; readlink "/srv/$1/current"
echo "== releases"; ls "/srv/$1/releases"
echo "== failed"
find "/srv/$1/releases" -mindepth 2 -maxdepth 2 -name failed -printf '%h\\n' | xargs -rn1 basename
echo "== loaded"
systemctl list-units --all --plain --no-legend "$1@*.service" "$1@*.socket" | awk '$3 != "inactive" {print $1}' | sort
echo "== enabled"; find /etc/systemd/system -path '*.wants/*' -name "$1@*" -printf '%f\\n' | sort
echo "== nginx"; ps -o pid= --ppid "$(cat /run/nginx.pid)" | sort
"""


@dataclass
class Watched:
    """What a host answered during a deploy."""

    failed: list[str] = field(default_factory=list)
    # Start and end of each request that was answered, and whether the new version did.
    answered: list[tuple[float, float, bool]] = field(default_factory=list)

    def out_of_order(self) -> int:
        """Count answers of the old version to requests that began after the new one had answered."""
        first_new = min((end for _, end, new in self.answered if new), default=float("inf"))
        return sum(1 for start, _, new in self.answered if not new and start > first_new)


def written(app: App) -> dict[str, Any]:
    """Write an app's entry as an operator would write it: without what has no default."""
    return {name: value for name, value in app.entry.reveal().items() if value is not None}


@dataclass
class Stage:
    """The hosts that have newsboard, and a way to deploy to them."""

    ansible: Ansible
    hosts: dict[str, Host]
    promises: dict[str, Promised]
    folder: Path

    def app(self, name: str) -> App:
        """Find the app on a host."""
        return next(app for app in self.promises[name].apps if app.name == "newsboard")

    def look(self) -> dict[str, dict[str, str]]:
        """Ask for the state of the app's releases, by host."""
        return {name: blocks(as_root(host, LOOK, "newsboard")) for name, host in self.hosts.items()}

    def deploy(self, source: Path | None = None, **changes: Any) -> Run:
        """Deploy newsboard, as the inventory has it or with another source and other options."""
        variables: dict[str, Any] = {"app": "newsboard"}
        if source or changes:
            entries = {}
            for name in self.hosts:
                entries[name] = [written(app) for app in self.promises[name].apps]
                (entry,) = (entry for entry in entries[name] if entry["name"] == "newsboard")
                environment = {**entry["environment"], **changes.get("environment", {})}
                entry |= {**changes, "environment": environment, "source": str(source or entry["source"])}
            variables |= {"test_apps": as_it_is(entries), "flask_apps": "{{ test_apps[inventory_hostname] }}"}
        secrets = [secret for name in self.hosts for secret in self.app(name).secrets.values() if secret.reveal()]
        return self.ansible.playbook(ROOT / "playbooks" / "deploy.yml", variables=variables).without(secrets)

    def changed_source(self, name: str, file: str, change: Callable[[str], str]) -> Path:
        """Copy the app with one file changed."""
        copy = self.folder / name
        if not copy.exists():
            shutil.copytree(
                Path(self.app(next(iter(self.hosts))).source), copy, ignore=shutil.ignore_patterns("__pycache__")
            )
            path = copy / file
            before = path.read_text()
            path.write_text(change(before))
            assert path.read_text() != before
        return copy

    @contextmanager
    def watched(self) -> Iterator[dict[str, Watched]]:
        """Ask all hosts for a page at a fixed rate, whether they answer or not."""
        seen = {name: Watched() for name in self.hosts}
        over = threading.Event()

        def one(name: str) -> None:
            start = time.monotonic()
            try:
                answer = ask(self.promises[name].addresses[0], self.app(name).canonical, "/", timeout=30)
            except (NoAnswerError, OSError) as error:
                seen[name].failed.append(repr(error))
                return
            if answer.status == 200:
                seen[name].answered.append((start, time.monotonic(), MARK in answer.text))
            else:
                seen[name].failed.append(f"{answer.status}")

        with ThreadPoolExecutor(max_workers=100) as pool:

            def on_time() -> None:
                began = time.monotonic()
                for number in itertools.count():
                    if over.wait(max(0.0, began + number / RATE - time.monotonic())):
                        return
                    for name in self.hosts:
                        pool.submit(one, name)

            clock = threading.Thread(target=on_time)
            clock.start()
            try:
                yield seen
                time.sleep(1)
            finally:
                over.set()
                clock.join()


@pytest.fixture(scope="module")
def stage(ansible, hosts, promises, tmp_path_factory) -> Iterator[Stage]:
    """Set the stage; the inventory's own version is deployed again at the end, if a test has not done it."""
    ready = {}
    for name, promised in promises.items():
        app = next(
            (app for app in promised.apps if app.name == "newsboard" and app.wsgi.startswith("newsboard:")), None
        )
        if app and Path(app.source).is_dir():
            ready[name] = hosts[name]
    if not ready:
        pytest.skip("no host has the sample app from a directory")
    made = Stage(ansible, ready, promises, tmp_path_factory.mktemp("sources"))
    yield made
    last = made.deploy()
    assert last.status == 0, last.output


def version_two(stage: Stage) -> Path:
    return stage.changed_source(
        "two", "newsboard/templates/base.html", lambda text: text.replace("<head>", f'<head>\n  <meta name="{MARK}">')
    )


def current(state: dict[str, str]) -> str:
    """Tell the id that the link names."""
    return state["current"].rpartition("/")[2]


def assert_none_failed(seen: dict[str, Watched], at_least: int = RATE) -> None:
    for name, one in seen.items():
        assert one.failed == [], f"{name}: {len(one.failed)} of {len(one.failed) + len(one.answered)} requests failed"
        assert len(one.answered) > at_least, f"{name} was hardly asked"


def assert_refused(stage: Stage, before: dict, run: Run, seen: dict[str, Watched]) -> None:
    """Make sure that the release was refused, and that nobody who asked the site noticed."""
    assert run.status != 0
    assert_none_failed(seen)
    after = stage.look()
    for name in stage.hosts:
        for part in ("current", "loaded", "enabled", "nginx"):
            assert after[name][part] == before[name][part], part
        (refused,) = set(after[name]["releases"].split()) - set(before[name]["releases"].split())
        assert refused in after[name]["failed"].split()
        assert len({new for _, _, new in seen[name].answered}) == 1


def test_new_version_takes_over_without_a_lost_request(stage):
    source = version_two(stage)
    before = stage.look()
    with stage.watched() as seen:
        run = stage.deploy(source)
    assert run.status == 0, run.output
    after = stage.look()
    assert_none_failed(seen)
    for name in stage.hosts:
        (new,) = set(after[name]["releases"].split()) - set(before[name]["releases"].split())
        assert RELEASE_ID.fullmatch(new)
        assert after[name]["current"] == f"releases/{new}"
        assert after[name]["nginx"] == before[name]["nginx"], "NGINX was reloaded"
        units = [f"newsboard@{new}.service", f"newsboard@{new}.socket"]
        assert after[name]["loaded"].split() == units
        assert after[name]["enabled"].split() == units
        assert {version for _, _, version in seen[name].answered} == {False, True}
        assert seen[name].out_of_order() == 0


def test_same_version_again_changes_nothing_and_asks_little(stage):
    before = stage.look()
    run = stage.deploy(version_two(stage))
    assert run.status == 0, run.output
    assert run.changed == []
    assert stage.look() == before
    for name in stage.hosts:
        assert sum(1 for entry in run.record if entry["host"] == name and entry["reached"]) <= DEPLOY_WITHOUT_A_CHANGE


def test_version_that_does_not_import_is_refused_with_its_traceback(stage):
    # It tells its secrets as well, as a traceback may.
    source = stage.changed_source(
        "broken",
        "newsboard/__init__.py",
        lambda text: (
            f"{text}\nSECRETS = {sorted(stage.app(next(iter(stage.hosts))).secrets)!r}\n"
            f'raise RuntimeError("{LEAKED_ON_PURPOSE} " + " ".join(os.environ[name] for name in SECRETS))\n'
        ),
    )
    before = stage.look()
    with stage.watched() as seen:
        run = stage.deploy(source)
    assert_refused(stage, before, run, seen)
    assert f"RuntimeError: {LEAKED_ON_PURPOSE}" in run.output
    assert "Traceback (most recent call last)" in run.output
    assert not run.leaked, "the output shows a secret"


def test_version_whose_probe_fails_is_refused(stage):
    source = stage.changed_source(
        "ill", "newsboard/api.py", lambda text: re.sub(r"200 if found is Status.ALIVE else 503", "500", text)
    )
    before = stage.look()
    with stage.watched() as seen:
        run = stage.deploy(source, health_timeout=2)
    assert_refused(stage, before, run, seen)
    assert "Alive" in run.output
    assert "500" in run.output


def test_one_changed_value_of_the_environment_is_a_new_release(stage):
    before = stage.look()
    run = stage.deploy(version_two(stage), environment={"NEWSBOARD_PAGE_SIZE": "7"})
    assert run.status == 0, run.output
    after = stage.look()
    for name in stage.hosts:
        assert len(set(after[name]["releases"].split()) - set(before[name]["releases"].split())) == 1
        assert current(after[name]) != current(before[name])


def test_way_back_is_a_new_release_without_a_lost_request(stage):
    before = stage.look()
    with stage.watched() as seen:
        run = stage.deploy()
    assert run.status == 0, run.output
    after = stage.look()
    assert_none_failed(seen)
    for name in stage.hosts:
        assert len(set(after[name]["releases"].split()) - set(before[name]["releases"].split())) == 1
        assert current(after[name]) != current(before[name])
