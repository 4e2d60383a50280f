"""The release that serves: what it consists of, what runs it, and what its account may do."""

import hashlib
import html
import json
import re

import pytest
from helpers import RELEASE_ID, App, as_root, blocks, pairs
from helpers_http import ask
from testinfra.host import Host

LOOK = """
cd "/srv/$1"
id=$(basename "$(readlink current)")
unit="$1@$id"
echo "== link"; readlink current
echo "== id"; echo "$id"
echo "== service"
systemctl show "$unit.service" -p ActiveState,UnitFileState,NRestarts,NeedDaemonReload,WorkingDirectory
echo "== socket"; systemctl show "$unit.socket" -p ActiveState,UnitFileState,NeedDaemonReload
echo "== loaded"
systemctl list-units --all --plain --no-legend "$1@*.service" "$1@*.socket" | awk '$3 != "inactive" {print $1}'
echo "== enabled"; find /etc/systemd/system -path '*.wants/*' -name "$1@*" -printf '%f\\n'
echo "== modes"
stat --format='%n %F %U:%G %a' current/release.json current/environment shared \\
  "/run/$1/$id/uwsgi.sock" "/run/$1/$id/private" 2>&1 || true
echo "== writable"; runuser -u "$1" -- find "releases/$id" -writable -not -type l
echo "== foreign"; find "releases/$id" -not -user root
echo "== compiled"; find "releases/$id/venv/lib" -name '*.pyc' -print -quit
echo "== account"; getent passwd "$1"; id --name --groups "$1"
echo "== exposure"; systemd-analyze security --no-pager "$unit.service" | tail -n 1
echo "== processes"
group=$(systemctl show "$unit.service" -p ControlGroup --value)
for one in $(cat /sys/fs/cgroup{,/unified,/systemd}"$group/cgroup.procs" 2>/dev/null | sort -u); do
  echo "$(stat --format=%U "/proc/$one") $(readlink "/proc/$one/cwd")"
done
echo "== command"; systemctl show "$unit.service" -p ExecStart --value
echo "== record"; cat current/release.json
"""


@pytest.fixture(scope="module")
def releases(host: Host, apps: list[App]) -> dict[str, dict[str, str]]:
    """Ask the host all that is asked here, by the apps' names."""
    return {app.name: blocks(as_root(host, LOOK, app.name)) for app in apps}


def test_current_is_a_relative_link_to_a_release(releases):
    for found in releases.values():
        assert re.fullmatch(f"releases/{RELEASE_ID.pattern}", found["link"])


def test_release_knows_what_it_is(releases):
    for name, found in releases.items():
        record = json.loads(found["record"])
        assert (record["app"], record["id"]) == (name, found["id"])


def test_instance_runs_and_starts_at_boot(releases):
    for found in releases.values():
        for unit in (pairs(found["service"]), pairs(found["socket"])):
            assert (unit["ActiveState"], unit["UnitFileState"], unit["NeedDaemonReload"]) == ("active", "enabled", "no")


def test_no_other_instance_runs_or_starts_at_boot(releases):
    for name, found in releases.items():
        only = {f"{name}@{found['id']}.service", f"{name}@{found['id']}.socket"}
        assert set(found["loaded"].split()) == only
        assert set(found["enabled"].split()) == only


def test_instance_never_had_to_be_started_again(releases):
    for found in releases.values():
        assert pairs(found["service"])["NRestarts"] == "0"


def test_socket_is_for_nginx_and_private_folder_for_the_app(releases):
    for name, found in releases.items():
        modes = found["modes"].splitlines()
        assert f"/run/{name}/{found['id']}/uwsgi.sock socket root:www-data 660" in modes
        assert f"/run/{name}/{found['id']}/private directory {name}:{name} 700" in modes


def test_environment_and_record_are_roots_alone(releases):
    for found in releases.values():
        modes = found["modes"].splitlines()
        assert "current/environment regular file root:root 600" in modes
        assert "current/release.json regular file root:root 600" in modes


def test_shared_folder_is_the_apps_alone(releases):
    for name, found in releases.items():
        assert f"shared directory {name}:{name} 750" in found["modes"].splitlines()


def test_app_can_change_nothing_of_its_release(releases):
    for found in releases.values():
        assert found["writable"] == ""
        assert found["foreign"] == ""


def test_environment_is_compiled_before_anybody_asks(releases):
    for found in releases.values():
        assert found["compiled"]


def test_apps_account_has_no_shell_and_shares_no_group(releases):
    for name, found in releases.items():
        account, groups = found["account"].splitlines()
        assert account.endswith(":/usr/sbin/nologin")
        assert groups == name


def test_sandbox_keeps_the_exposure_at_1_6_or_less(releases):
    for found in releases.values():
        level = re.search(r"level for \S+: ([0-9.]+)", found["exposure"])
        assert level, found["exposure"]
        assert float(level.group(1)) <= 1.6


def test_processes_are_the_apps_and_work_from_real_paths(releases):
    for name, found in releases.items():
        # A link in the path would be read once, at the start, and lead to the old release for ever.
        folder = f"/srv/{name}/releases/{found['id']}"
        assert set(found["processes"].splitlines()) == {f"{name} {folder}/code"}
        assert f"{folder}/uwsgi.ini" in found["command"]
        assert "/current" not in found["command"]
        assert pairs(found["service"])["WorkingDirectory"] == f"{folder}/code"


def test_environment_arrives_byte_for_byte(host, apps):
    # uWSGI writes its processes' names over their environment, so systemd gives the same to a process that shows
    # digests of what it got: they tell as much as the values, and show no secret.
    script = """
      systemd-run --quiet --wait --pipe --collect -p "EnvironmentFile=/srv/$1/current/environment" \\
        /usr/bin/python3 -c "$2" </dev/null
    """
    digests = """
import hashlib, os
for name, value in os.environb.items():
    print(name.decode(errors="replace"), hashlib.sha256(b"of a test" + value).hexdigest())
"""
    for app in apps:
        arrived = dict(line.split() for line in as_root(host, script, app.name, digests).splitlines())
        values = {**app.environment, **{name: secret.reveal() for name, secret in app.secrets.items()}}
        sent = {name: hashlib.sha256(b"of a test" + value.encode()).hexdigest() for name, value in values.items()}
        assert {name: arrived.get(name) for name in sent} == sent


def test_title_with_every_odd_character_is_on_the_page(newsboard, promised):
    answer = ask(promised.addresses[0], newsboard.canonical, "/")
    title = re.search(r"<title>(.*?)</title>", answer.text, re.DOTALL)
    assert title
    assert html.unescape(title.group(1)).endswith(f" · {newsboard.environment.get('NEWSBOARD_TITLE', 'newsboard')}")
