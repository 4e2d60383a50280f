"""A secret shows nowhere, whatever a run is asked to say and however it ends; and one that does show is found.

Each value here is made anew, so that what an earlier run left can't pass for a leak, nor hide one.
"""

from __future__ import annotations

import base64
import json
import random
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Ansible, Promised, Run, as_it_is, changed_apps, private_folder
from secret_forms import forms, found_in
from secret_search import key_files, of_inventory, search_here, search_hosts


def new_secret() -> str:
    """Make a value with all that has to be written otherwise somewhere: in a URL, in JSON, in a shell."""
    return f"canary {random.getrandbits(64):016x}/+=&\"'$HOME"


def loudly(
    ansible: Ansible, promises: dict[str, Promised], folder: Path, **changes: Any
) -> tuple[Run, dict[str, list[str]]]:
    """Deploy the prober, saying all that Ansible can say and keeping all that it can keep, and search for secrets then.

    Returns:
        What came of it, and by the names of hosts, and "here" for this machine, the places where a secret is.
    """
    variables = changed_apps(promises, lambda _, entry: entry | changes if entry["name"] == "prober" else entry)
    run = ansible.playbook(
        "playbooks/deploy.yml",
        variables={**variables, "app": "prober", "force": True},
        verbosity=4,
        environment={
            "ANSIBLE_DIFF_ALWAYS": "1",
            "ANSIBLE_LOG_PATH": str(folder / "ansible.log"),
            "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(folder / "facts"),
        },
    )
    assert (folder / "ansible.log").stat().st_size > 10_000, "the log was not kept"
    texts = {name: of_inventory(promised) for name, promised in promises.items()}
    for known in texts.values():
        known["prober"] += [form for value in changes.get("secrets", {}).values() for form in sorted(forms(value))]
    everything = {text for known in texts.values() for mine in known.values() for text in mine}
    said = ["what the run said"] if found_in(run.output, everything) else []
    keys = {name: key_files(promised) for name, promised in promises.items()}
    return run, {"here": said + search_here(everything, folder), **search_hosts(ansible, texts, keys)}


def nowhere(promises: dict[str, Promised]) -> dict[str, list[str]]:
    """Write down that nothing was found."""
    return {name: [] for name in ("here", *promises)}


def test_failed_run_shows_no_secret(ansible: Ansible, promises: dict[str, Promised]) -> None:
    with private_folder() as folder:
        # It is built, started, and then refused, with its journal.
        changes = {"health_path": "/-/nothing-here", "health_timeout": 3, "secrets": {"CANARY": new_secret()}}
        run, found = loudly(ansible, promises, folder, **changes)
    assert run.status != 0
    assert "/-/nothing-here" in run.output, "it did not fail as it was meant to"
    assert found == nowhere(promises)


def test_loudest_run_shows_no_secret(ansible: Ansible, promises: dict[str, Promised]) -> None:
    with private_folder() as folder:
        run, found = loudly(ansible, promises, folder)
    assert run.status == 0, "the release failed"
    assert "module_args" in run.output, "the run was not as loud as it was meant to be"
    assert found == nowhere(promises)


# --- and the other way round: what the search would have to find

# By place as the search names it: how it gets there. $1 is plain, $2 in base64, $3 quoted for a URL, $4 in JSON.
LEAKS = {
    "readable for nobody: /srv/prober/leaked": 'leak 0644 root root /srv/prober/leaked "a $1"',
    "readable for www-data: /etc/nginx/leaked": 'leak 0640 root www-data /etc/nginx/leaked "a=$3"',
    "readable for newsboard: /srv/newsboard/shared/leaked": (
        'leak 0600 newsboard root /srv/newsboard/shared/leaked "$1"'
    ),
    "on disk: /root/.ansible/tmp/leaked": (
        'mkdir -p /root/.ansible/tmp; leak 0600 root root /root/.ansible/tmp/leaked "{$4}"'
    ),
    "on disk: /var/cache/leaked": 'leak 0600 root root /var/cache/leaked "xx$2"',
    "on disk: /srv/prober/releases/leaked/environment (mode 640, owner 0)": (
        'mkdir /srv/prober/releases/leaked; leak 0640 root root /srv/prober/releases/leaked/environment "A=$1"'
    ),
    "on disk: /var/log/leaked.log": 'leak 0600 root root /var/log/leaked.log "GET /?a=$3"',
    "on disk: /var/log/leaked.gz": '(umask 077; echo "$3" | gzip >/var/log/leaked.gz)',
    # A key that a host has: lying around, packed into one word, and open.
    "readable for nobody: /opt/leaked.pem": 'install --mode=0644 "$key" /opt/leaked.pem',
    "on disk: /opt/leaked.txt": 'install --mode=0600 /dev/null /opt/leaked.txt; base64 -w 0 "$key" >/opt/leaked.txt',
    "key: /etc/ssl/flask-on-metal/leaked/pairs/a/key.pem (mode 640, owner 0)": (
        'install -D --mode=0640 "$key" /etc/ssl/flask-on-metal/leaked/pairs/a/key.pem'
    ),
    "the journal": 'echo "a line with $1" | systemd-cat -t leaked',
    "arguments of the process sleep": ('setsid bash -c \'exec -a "sleep $0" sleep 300\' "$1" & echo $! >>/run/leaked'),
    "environment of the process sleep, of user 65534": (
        'export A="$1"; setsid setpriv --reuid=nobody --regid=nogroup --clear-groups sleep 300 & export -n A;'
        " echo $! >>/run/leaked"
    ),
    "environment of a process, readable for nobody": "true",  # the same
    "systemctl show": 'systemd-run --quiet --unit=leaked --setenv=A="$1" sleep 300',
    "environment of systemd": 'systemctl set-environment LEAKED="$2"',
}

LEAK = """
leak() { install --mode="$1" --owner="$2" --group="$3" /dev/null "$4"; echo "$5" >"$4"; }
key=$(ls /etc/ssl/flask-on-metal/prober/pairs/*/key.pem | head -n 1)
"""

CLEAN_UP = """
systemctl unset-environment LEAKED
systemctl stop leaked.service || true
while read -r process; do kill "$process" || true; done </run/leaked
rm -rf /run/leaked /srv/prober/leaked /etc/nginx/leaked /srv/newsboard/shared/leaked /root/.ansible/tmp/leaked \\
  /var/cache/leaked /srv/prober/releases/leaked /var/log/leaked.log /var/log/leaked.gz \\
  /opt/leaked.pem /opt/leaked.txt /etc/ssl/flask-on-metal/leaked
"""


def on_hosts(ansible: Ansible, script: str, *words: str) -> None:
    """Have root run a script on all hosts, by standard input: neither sudo nor a log learns what is in it."""
    task = {
        "name": "Something leaks, or no longer does",
        "ansible.builtin.command": {"argv": ["bash", "-s"], "stdin": "{{ script }}"},
        "no_log": True,
    }
    names = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    variables = as_it_is({"script": f"set -eu\nset -- {names}\nexec >/dev/null 2>&1\n{script}"})
    ansible.play([{"hosts": "web", "gather_facts": False, "become": True, "tasks": [task]}], variables=variables)


@pytest.fixture(scope="module")
def leaked(ansible: Ansible, promises: dict[str, Promised]) -> Iterator[dict[str, list[str]]]:
    """Leak a value that no app has, on purpose, in all ways, and search for it."""
    secret = new_secret()
    written = (secret, base64.b64encode(secret.encode()).decode(), urllib.parse.quote_plus(secret), json.dumps(secret))
    texts = {name: {"canary": sorted(forms(secret))} for name in promises}
    keys = {name: key_files(promised) for name, promised in promises.items()}
    try:
        on_hosts(ansible, LEAK + "\n".join(LEAKS.values()), *written)
        yield search_hosts(ansible, texts, keys)
    finally:
        on_hosts(ansible, CLEAN_UP)
    # In the journal it stays, and nowhere else.
    assert search_hosts(ansible, texts, keys) == {name: ["the journal"] for name in promises}


@pytest.mark.parametrize("place", LEAKS)
def test_leak_is_found(place: str, leaked: dict[str, list[str]]) -> None:
    for host, places in leaked.items():
        assert any(found.startswith(place) for found in places), f"{host}: found only {places}"


def test_leak_on_this_machine_is_found(tmp_path: Path) -> None:
    secret = new_secret()
    for number, text in enumerate(sorted(forms(secret))):
        (tmp_path / f"leaked-{number}").write_text(f"before {text} behind")
    assert len(search_here(forms(secret), tmp_path)) == len(forms(secret))
    assert search_here(forms(new_secret()), tmp_path) == []
    assert found_in(f"ok: {urllib.parse.quote(secret)}", forms(secret))
