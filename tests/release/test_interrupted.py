"""The control node dies at any phase: the site keeps serving, and the next run cleans up and succeeds."""

from __future__ import annotations

import itertools
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, as_root
from stage import APP, Stage, assert_nothing_failed
from test_reboot import until_rebooted, until_served

TASKS = ROOT / "roles" / "flask_app" / "tasks"


def phases() -> list[str]:
    """Name the phases in their order, as the role's files have them, so that none is forgotten."""
    found = {path.stem.capitalize() for path in (TASKS / "phases").glob("*.yml")}
    order = ["Preflight", "Lock", "Fetch", "Build", "Configure", "Migrate", "Start", "Probe", "Activate", "Drain"]
    order.append("Prune")
    assert found == set(order)
    return order


@pytest.fixture
def stage(stage: Stage, request: pytest.FixtureRequest) -> Stage:
    """Kill each run on one host: what is left there is the same on both."""
    return stage.either(request.node.name)


# Before these, nothing of the new release serves; from Drain on it does.
OLD_SERVES = phases()[: phases().index("Drain")]

version = itertools.count(0x100)


def cases() -> list[Any]:
    """Choose phase, moment (before its first task, or while that is under way) and whether the hosts are rebooted.

    The short form has one phase of each kind: beside the old release, at the switch, after it. A reboot comes where it
    matters what starts at boot.
    """
    short = [("Migrate", "while", False), ("Activate", "while", False), ("Drain", "before", True)]
    before = [(phase, "before", reboot) for phase in phases() for reboot in (False, True)]
    return [
        pytest.param(*case, marks=[] if case in short else pytest.mark.full_matrix)
        for case in [*before, *((phase, "while", False) for phase in phases())]
    ]


def lock_left(stage: Stage) -> str:
    """Find the run whose lock the hosts still have, if any."""
    left = {look.lock for look in stage.look().values()} - {""}
    return str(json.loads(left.pop())["run"]) if left else ""


def kill(stage: Stage, wanted: dict[str, Any], phase: str, moment: str) -> None:
    """Deploy, and have the control node die."""
    killed = stage.deploy(
        wanted,
        environment={
            "ANSIBLE_CALLBACKS_ENABLED": "record,assembled,kill",
            "FLASK_ON_METAL_KILL": phase,
            "FLASK_ON_METAL_KILL_AFTER": "0" if moment == "before" else "0.4",
        },
    )
    assert killed.status == -signal.SIGKILL, killed.output
    # What was under way on the hosts goes on without it.
    time.sleep(2)


def reboot(stage: Stage) -> None:
    """Reboot the hosts, and wait until they serve."""
    boots = {name: as_root(host, "cat /proc/sys/kernel/random/boot_id").strip() for name, host in stage.hosts.items()}
    for host in stage.hosts.values():
        as_root(host, "systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms systemctl reboot")
    for name, host in stage.hosts.items():
        until_rebooted(host, boots[name])
        until_served(stage.promises[name])


def assert_lock_is_in_the_way(stage: Stage, wanted: dict[str, Any], lock: str) -> None:
    """Make sure that a deploy is refused, changes nothing, and says how the lock of a killed run is broken."""

    def current() -> dict[str, tuple[str, str]]:
        return {name: (look.current, look.lock) for name, look in stage.look().items()}

    before = current()
    refused = stage.deploy(wanted)
    assert refused.status != 0
    assert refused.changed == []
    assert current() == before
    assert f"playbooks/deploy.yml -e app={APP} " in refused.output and f" -e break_lock={lock}\n" in refused.output


@pytest.mark.parametrize(("phase", "moment", "rebooted"), cases())
def test_killed_run(stage: Stage, phase: str, moment: str, rebooted: bool) -> None:
    before = stage.look()
    code = f"{next(version):x}"
    wanted = stage.variables(stage.source(code))
    with stage.load(f"control node killed {moment} {phase}{', then a reboot' * rebooted}") as sent:
        kill(stage, wanted, phase, moment)
        middle = stage.look()
        lock = lock_left(stage)
        if lock and not rebooted:
            assert_lock_is_in_the_way(stage, wanted, lock)
        if not rebooted:
            run = stage.deploy(wanted, **({"break_lock": lock} if lock else {}))
            assert run.status == 0, run.output
    assert_nothing_failed(sent)

    for name, look in middle.items():
        assert look.current in (before[name].current, *set(look.releases) - set(before[name].releases))
        if phase in OLD_SERVES and moment == "before":
            assert look.current == before[name].current
        assert set(look.instance) <= set(look.loaded), "what is current does not run"
        assert set(look.instance) <= set(look.enabled), "what is current would not come back after a boot"
    if moment == "before":
        assert bool(lock) == (phase not in ("Preflight", "Lock"))

    if rebooted:
        reboot(stage)
        now = stage.look()
        assert {name: look.current for name, look in now.items()} == {
            name: look.current for name, look in middle.items()
        }
        assert lock_left(stage) == "", "the lock outlived the reboot"
        run = stage.deploy(wanted)
        assert run.status == 0, run.output
    for name, look in stage.look().items():
        look.assert_settled()
        assert stage.version(name) == code
        assert all(release in look.failed or marked(stage, name, release) for release in look.releases)


def marked(stage: Stage, name: str, release: str) -> bool:
    """Tell whether a release was once activated."""
    found = as_root(stage.hosts[name], 'ls "/srv/$1/releases/$2"', APP, release)
    return "activated" in found.split()


def test_every_phase_has_a_task_that_bears_its_name() -> None:
    for path in (TASKS / "phases").glob("*.yml"):
        first = re.search(r"^- name: (.*)$", Path(path).read_text(), re.MULTILINE)
        assert first and first[1].startswith(f"{path.stem.capitalize()} | "), path
