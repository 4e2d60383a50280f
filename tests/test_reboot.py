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
  grep -oE '^[a-z0-9-]+@[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}' || true
echo "== firewall"; nft --stateless --terse list table inet flask_on_metal 2>&1 || true
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


def until_rebooted(host: Host, boot: str) -> None:
    """Wait for a boot that is another one."""
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(RuntimeError):
            if as_root(host, "cat /proc/sys/kernel/random/boot_id").strip() != boot:
                return
        assert time.monotonic() < end, f"{host.backend.get_pytest_id()} was not back after {PATIENCE} s"
        time.sleep(0.5)


def test_apps_serve_the_same_release_after_a_reboot(hosts: dict[str, Host], promises: dict[str, Promised]):
    before = {name: blocks(as_root(host, STATE)) for name, host in hosts.items()}
    for host in hosts.values():
        # From a timer, so that the connection can end in peace.
        as_root(host, "systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms systemctl reboot")
    for name, host in hosts.items():
        until_rebooted(host, before[name]["boot"])
        until_served(promises[name])
    for name, host in hosts.items():
        after = blocks(as_root(host, STATE))
        assert after["current"] == before[name]["current"]
        assert after["instances"] == before[name]["instances"]
        # Loaded before there was a network.
        assert after["firewall"] == before[name]["firewall"]
        assert (after["state"], after["failed"]) == ("running", "")
