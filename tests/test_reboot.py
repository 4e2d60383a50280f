"""A host that was rebooted serves again, without anybody's help."""

import contextlib
import time

import pytest
from helpers import Promised, as_root, blocks
from helpers_http import NoAnswerError, ask
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

PATIENCE = 180

STATE = """
echo "== boot"; cat /proc/sys/kernel/random/boot_id
echo "== current"; readlink /srv/*/current
echo "== instances"
systemctl list-units --plain --no-legend --state=running --type=service |
  grep -oE '^[a-z0-9-]+@[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}'
echo "== state"; systemctl is-system-running --wait || true
echo "== failed"; systemctl list-units --failed --plain --no-legend
"""


def until_served(promised: Promised) -> None:
    """Wait for every app of a host."""
    end = time.monotonic() + PATIENCE
    for app in promised.apps:
        while True:
            with contextlib.suppress(NoAnswerError, OSError):
                if ask(promised.addresses[0], app.canonical, app.health_path, timeout=3).status == 200:
                    break
            assert time.monotonic() < end, f"{app.name} on {promised.host} was not back after {PATIENCE} s"
            time.sleep(0.2)


def state_of(host: Host) -> dict[str, str]:
    """Ask for the host's state, once it can be reached again."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return blocks(as_root(host, STATE))
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def test_apps_serve_the_same_release_after_a_reboot(hosts: dict[str, Host], promises: dict[str, Promised]):
    before = {name: state_of(host) for name, host in hosts.items()}
    for host in hosts.values():
        # From a timer, so that the connection can end in peace.
        as_root(host, "systemd-run --quiet --on-active=1 systemctl reboot")
    time.sleep(2)
    for name in hosts:
        until_served(promises[name])
    for name, host in hosts.items():
        after = state_of(host)
        assert after["boot"] != before[name]["boot"], f"{name} did not reboot"
        assert after["current"] == before[name]["current"]
        assert after["instances"] == before[name]["instances"]
        assert (after["state"], after["failed"]) == ("running", "")
