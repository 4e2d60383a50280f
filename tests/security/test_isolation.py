"""An app that somebody has taken over can't reach what it need not. Each attempt is made from inside a deployed app."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

import pytest
from findings import Findings
from helpers import Ansible, App, Promised, as_root, blocks, inventory_name
from helpers_http import ask
from prober.attempts import ATTEMPTS, NEEDS
from testinfra.host import Host

# What is there to be reached, as root sees it; and some things that are planted for it.
TARGETS = r"""
shopt -s nullglob
app=$1 certificates=$2 mark=$3
id=$(basename "$(readlink "/srv/$app/current")")
others=()
for folder in /srv/*/; do name=$(basename "$folder"); [ "$name" = "$app" ] || others+=("$name"); done
list() { printf '%s\n' "$@"; }
echo "== other_files"
for name in "${others[@]}"; do
  release=$(readlink -f "/srv/$name/current")
  list "$release"/{environment,release.json,uwsgi.ini,wsgi.py}
  find "/srv/$name/shared" "$release/code" -maxdepth 1 -type f | head -n 10
done
echo "== other_sockets"; for name in "${others[@]}"; do find "/run/$name" -type s; done
echo "== other_pipes"; for name in "${others[@]}"; do find "/run/$name" -type p; done
echo "== own_socket"; list "/run/$app/$id/uwsgi.sock"
echo "== nginx_sockets"; find /run/nginx -type s
echo "== keys"; find "$certificates/" /etc/ssl/private /etc/ssh -name '*key*' -not -name '*.pub' -type f
echo "== roots_files"
list /etc/shadow /etc/gshadow /etc/sudoers "/srv/$app/releases/$id/environment"
find /run/flask-on-metal /var/backups -type f 2>/dev/null | head -n 5
echo "== logs"; find /var/log/nginx /var/log/journal /run/log/journal -type f 2>/dev/null | head -n 20
echo "== pids"
# Its own processes are the app's business, the kernel's nobody's.
ps -e -o pid=,user:32=,ppid= | awk -v app="$app" '$2 != app && $3 != 2 && $1 != 1 && $1 != 2 {print $1}' | head -n 30
echo "== set_uid"
install --owner=root --group=root --mode=4755 /usr/bin/id "/usr/local/bin/$mark"
list "/usr/local/bin/$mark"
echo "== temporary_files"
for folder in /tmp /var/tmp /dev/shm; do
  install --mode=0644 /dev/null "$folder/$mark-planted"
  list "$folder/$mark-planted"
done
echo "== control_groups"; find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs | head -n 5
echo "== package_managers"
for name in apt apt-get apt-cache aptitude dpkg dpkg-deb dpkg-query pip pip3 /opt/flask-on-metal/uv/bin/uv; do
  command -v "$name" || true
done
"""

AFTERWARDS = r"""
rm -f "/usr/local/bin/$1" {/tmp,/var/tmp,/dev/shm}/"$1-planted"
# What the app left is in folders of its own.
ls -d {/tmp,/var/tmp,/dev/shm}/"$1"* 2>/dev/null || true
"""

MARK = "mark-of-the-prober"


@dataclass(frozen=True)
class Tried:
    """What became of all attempts on one host, and what others saw of them."""

    attempts: dict[str, dict[str, str]]
    needs: dict[str, dict[str, str]]
    seen_outside: str


TRIED: dict[str, Tried | str] = {}


@pytest.fixture(scope="module")
def tried(host: Host, promised: Promised, prober: App, findings: Findings) -> Tried:
    """Have the app try everything."""
    name = inventory_name(host)
    if name not in TRIED:
        found = blocks(as_root(host, TARGETS, prober.name, promised.options["certificate_directory"], MARK))
        targets = {what: lines.splitlines() for what, lines in found.items()}
        targets |= {"marks": [MARK], "server": [promised.addresses[0], "443"]}
        body = json.dumps(targets).encode()

        def told(path: str) -> dict[str, dict[str, str]]:
            answer = ask(
                promised.addresses[0], prober.canonical, path, method="POST", body=body, timeout=60,
                headers={"Content-Type": "application/json"},
            )  # fmt: skip
            assert answer.status == 200, answer.text
            return json.loads(answer.text)

        attempts, needs = told("/-/attempts"), told("/-/needs")
        TRIED[name] = Tried(attempts, needs, as_root(host, AFTERWARDS, MARK))
        refused = sum(one["outcome"] == "refused" for one in attempts.values())
        works = sum(one["outcome"] == "worked" for one in needs.values())
        findings.add(
            "What an app that was taken over could do", ["host", "app", "attempts", "refused", "needs", "that work"],
            [name, prober.name, len(attempts), refused, len(needs), works],
        )  # fmt: skip
    return TRIED[name]


@pytest.mark.parametrize("what", ATTEMPTS)
def test_app_cannot(what: str, tried: Tried) -> None:
    found = tried.attempts[what]
    assert found["outcome"] == "refused", f"an app can {what}: {found['detail']}"


# As the module of a release does it, with the release that serves.
MIGRATION = """
import json, attempts
found = attempts.tried(attempts.ATTEMPTS, json.load(open("/srv/prober/shared/targets.json")))
json.dump(found, open("/srv/prober/shared/tried.json", "w"))
"""


@pytest.mark.one_host
def test_migration_cannot_either(ansible: Ansible, host: Host, promised: Promised, prober: App) -> None:
    targets = blocks(as_root(host, TARGETS, prober.name, promised.options["certificate_directory"], MARK))
    release = as_root(host, 'basename "$(readlink "/srv/$1/current")"', prober.name).strip()
    wanted = {what: lines.splitlines() for what, lines in targets.items()}
    wanted |= {"marks": [MARK], "server": [promised.addresses[0], "443"]}
    as_root(host, 'printf %s "$1" >/srv/prober/shared/targets.json', json.dumps(wanted))
    lock = {"app": prober.name, "run": "0123456789ab"}
    migrate = {**lock, "id": release, "command": f"python -c {shlex.quote(MIGRATION)}", "seconds": 60}
    tasks: list[dict[str, Any]] = [
        {"name": "Lock", "release_lock": {**lock, "what": "a trial"}},
        {"name": "Migrate", "release_migrate": migrate},
        {"name": "Give back", "release_lock": {**lock, "state": "absent"}},
    ]
    try:
        ansible.play([{"hosts": inventory_name(host), "become": True, "gather_facts": False, "tasks": tasks}])
        tried = json.loads(as_root(host, "cat /srv/prober/shared/tried.json"))
    finally:
        as_root(host, "rm -f /srv/prober/shared/{targets,tried}.json")
        as_root(host, AFTERWARDS, MARK)
    assert set(tried) == set(ATTEMPTS)
    assert {what: found["detail"] for what, found in tried.items() if found["outcome"] != "refused"} == {}


@pytest.mark.parametrize("what", NEEDS)
def test_app_can(what: str, tried: Tried) -> None:
    found = tried.needs[what]
    assert found["outcome"] == "worked", f"an app can't {what}: {found['detail']}"


def test_temporary_files_of_an_app_are_its_own(tried: Tried) -> None:
    assert tried.seen_outside == ""


def test_sandbox_keeps_the_exposure_of_each_app_at_1_6_or_less(host: Host, apps: list[App], findings: Findings) -> None:
    script = """
      for app in "$@"; do
        echo "== $app"
        systemd-analyze security --no-pager "$app@$(basename "$(readlink "/srv/$app/current")").service" | tail -n 1
      done
      echo "== nginx"; systemd-analyze security --no-pager nginx.service | tail -n 1
    """
    found = blocks(as_root(host, script, *(app.name for app in apps)))
    for name, line in found.items():
        level = re.search(r"level for \S+: ([0-9.]+)", line)
        assert level, line
        findings.add(
            "systemd-analyze security", ["host", "service", "exposure"], [inventory_name(host), name, level.group(1)]
        )
        assert float(level.group(1)) <= (3.0 if name == "nginx" else 1.6), name
