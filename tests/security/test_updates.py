"""Security updates, and nothing else, come by themselves; and what they restart is no app."""

from __future__ import annotations

import re

import pytest
from helpers import Promised, as_root, blocks, pairs
from helpers_http import ask
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

INSTANCES = """
systemctl list-units --plain --no-legend --state=running --type=service |
  grep -oE '^[a-z0-9-]+@[0-9T]+Z-[0-9a-f]{8}[.]service' |
  while read -r unit; do
    master=$(systemctl show --property=MainPID --value "$unit")
    echo "$unit=$master $(pgrep --parent "$master" | xargs)"
  done
"""
# What a security update of a library or the server under an app replaces.
PACKAGES = "|".join([
    "libssl3(t64)?", "openssl", r"libpython3\.[0-9]+(t64)?(-minimal|-stdlib)?", r"python3\.[0-9]+-minimal",
    "uwsgi-core", "uwsgi-plugin-python3", "nginx(-common)?",
])  # fmt: skip


@pytest.mark.one_host
def test_unattended_upgrade_allows_security_updates_alone(host: Host) -> None:
    # Throw-away hosts are made without the source that an installer adds.
    release = as_root(host, '. /etc/os-release; echo "$VERSION_CODENAME"').strip()
    try:
        said = as_root(
            host,
            """
            mirror=$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)
            echo "deb ${mirror%/}-security $1-security main" >/etc/apt/sources.list.d/security.list
            apt-get -qq update
            unattended-upgrade --dry-run --debug 2>&1
            """,
            release,
        )
    finally:
        as_root(host, "rm /etc/apt/sources.list.d/security.list; apt-get -qq update")
    (origins,) = re.findall(r"^Allowed origins are: (.+)$", said, re.MULTILINE)
    assert re.findall(r"label=([\w-]+)", origins) == ["Debian-Security"] * 2
    refused = re.findall(r"^Marking not allowed .*?filename:'\S*?_dists_(\S+?)_main_binary", said, re.MULTILINE)
    assert f"{release}-updates" in refused and release in refused
    assert f"{release}-security" not in refused


@pytest.mark.one_host
def test_update_of_libraries_and_servers_leaves_instances_running(host: Host, promised: Promised) -> None:
    before = pairs(as_root(host, INSTANCES))
    assert before
    said = as_root(
        host,
        """
        packages=$(dpkg-query --show --showformat='${Package}\\n' | grep -xE "$1")
        echo "== packages"; echo "$packages"
        echo "== apt"; DEBIAN_FRONTEND=noninteractive apt-get -qq --reinstall install $packages 2>&1
        """,
        PACKAGES,
    )
    assert len(blocks(said)["packages"].split()) >= 6
    assert pairs(as_root(host, INSTANCES)) == before
    for app in promised.apps:
        assert ask(promised.addresses[0], app.canonical, app.health_path, timeout=5).status == 200
