"""The host under everything."""

import pytest
import yaml
from helpers import ROOT, TIERS, Promised, as_root, blocks, pairs
from testinfra.host import Host

pytestmark = pytest.mark.tier(*TIERS)

SPEED = yaml.safe_load((ROOT / "roles" / "host" / "vars" / "main.yml").read_text())["_host_sysctl_speed"]

NEEDED = {
    "web": ["ca-certificates", "nginx", "openssl", "uwsgi-core", "uwsgi-plugin-python3"],
    "balancer": ["ca-certificates", "nginx", "openssl"],
    "database": ["ca-certificates", "openssl"],
}


def needed(promised: Promised) -> list[str]:
    """List the packages that a host needs."""
    of_tiers = {name for tier, names in NEEDED.items() if tier in promised.groups for name in names}
    return [*sorted(of_tiers), *promised.options["host_packages"]]


@pytest.fixture(scope="module")
def found(host: Host, promised: Promised) -> dict[str, str]:
    """Ask the host all that is asked here, in one go."""
    script = """
      names=$1 kernel=$2; shift 2
      echo "== release"; cat /etc/os-release
      echo "== installed"; dpkg-query --show --showformat='${Package} ${db:Status-Status}\\n' "$@" 2>&1 || true
      echo "== zone"; realpath --relative-to=/usr/share/zoneinfo /etc/localtime
      echo "== sysctl"; for name in $names; do echo "$name=$(sysctl --values "$name" | tr '\\t' ' ')"; done
      echo "== kernel"
      # A container has another's kernel, which it does not set.
      for path in $kernel; do
        file=/proc/sys/$path
        if [ -e "$file" ] && { : >>"$file"; } 2>/dev/null; then echo "$path=$(cat "$file")"; fi
      done
      echo "== state"; systemctl is-system-running || true
      echo "== failed"; systemctl list-units --failed --plain --no-legend
      echo "== backlogs"; ss --no-header --unix --listening | awk '$5 ~ /uwsgi.sock$/ && $5 !~ /private/ {print $4}'
    """
    names = " ".join(promised.options["host_sysctl"])
    kernel = " ".join(name.replace(".", "/") for name in SPEED)
    return blocks(as_root(host, script, names, kernel, *needed(promised)))


def test_release_is_a_supported_debian(found):
    release = pairs(found["release"])
    assert release["ID"] == "debian"
    assert release["VERSION_ID"].strip('"') in ("12", "13")


def test_packages_are_installed(found, promised):
    for name in needed(promised):
        assert f"{name} installed" in found["installed"].splitlines()


def test_time_zone_is_the_inventorys(found, promised):
    assert found["zone"] == promised.options["host_timezone"]


def test_kernel_network_limits_are_in_force(found, promised):
    loaded = {name: value.split() for name, value in pairs(found["sysctl"]).items()}
    assert loaded == {name: str(value).split() for name, value in promised.options["host_sysctl"].items()}


def test_kernel_settings_for_speed_are_in_force_where_the_host_has_a_kernel_of_its_own(found, promised):
    wanted = {name: str(value) for name, value in SPEED.items() if name not in promised.options["host_sysctl"]}
    mine = {name.replace("/", "."): value for name, value in pairs(found["kernel"]).items()}
    assert mine == {name: value for name, value in wanted.items() if name in mine}


@pytest.mark.tier("web")
def test_listen_queue_of_apps_is_as_long_as_promised(found, promised):
    # The kernel cuts it to net.core.somaxconn, without a word.
    assert set(found["backlogs"].split()) == {str(promised.options["uwsgi_backlog"])}


def test_system_runs_and_no_unit_has_failed(found):
    assert found["failed"] == ""
    assert found["state"] == "running"
