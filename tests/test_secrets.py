"""No value of `secrets` is where anybody but root and the app can read it.

Searched for as it is, in base64, quoted for a URL and in JSON. The patterns travel in the standard input of a task that
logs nothing, so that the search itself shows them to nobody; what comes back is names of places.
"""

import base64
import hashlib
import json
import urllib.parse

import pytest
from helpers import LEAKED_ON_PURPOSE, Ansible, App, Promised, as_it_is, as_root, private_folder
from testinfra.host import Host

# Shorter ones would be found by chance.
SHORTEST = 8

SEARCH = r"""
set -u
cd /
patterns=$(cat)
# The patterns are never an argument, and printf is the shell's own.
# Counted, since a search that ends at the first hit makes the pipe before it fail, and that would pass for "not found".
search() { [ "$(grep --text --fixed-strings --count --file=<(printf '%s\n' "$patterns"))" -gt 0 ]; }
places=(/etc /srv /run /var/log /var/lib /var/cache /var/backups /var/tmp /tmp /opt /home /root)
# As accounts that may read what is readable for all, or for NGINX.
for account in nobody www-data; do
  printf '%s\n' "$patterns" | runuser -u "$account" -- grep --fixed-strings --recursive --files-with-matches \
    --devices=skip --no-messages --file=- "${places[@]}" | sed "s/^/readable for $account: /"
done
runuser -u nobody -- systemctl show '*' --all 2>/dev/null | search && echo 'systemctl show'
runuser -u nobody -- systemctl cat '*' 2>/dev/null | search && echo 'systemctl cat'
systemctl show-environment | search && echo 'the environment of systemd'
ps -ww -e -o args | search && echo 'the arguments of a process'
innocent() { grep --text --invert-match --fixed-strings "$LEAKED_ON_PURPOSE"; }
journalctl --quiet --no-pager --output=cat --all | innocent | search && echo 'the journal'
grep --no-messages --recursive --text --no-filename --invert-match --fixed-strings "$LEAKED_ON_PURPOSE" \
  /var/log --include='*log' --include='*.1' --exclude-dir=journal | search && echo 'a log in /var/log'
true
"""


def forms(secret: str) -> set[str]:
    """Write a secret in all forms in which it might lie around; of one with several lines, the longest line."""
    line = max(secret.splitlines() or [""], key=len)
    if len(line) < SHORTEST:
        return set()
    found = {line, urllib.parse.quote(line, safe=""), urllib.parse.quote_plus(line), json.dumps(line)[1:-1]}
    raw = line.encode()
    for offset in range(3):
        # In the middle of something longer it has three possible forms; what its neighbours change is cut off.
        text = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        inner = text[(4 if offset else 0) : len(text) - 2]
        found |= {inner, inner.replace("+", "-").replace("/", "_")} if len(inner) >= SHORTEST else set()
    return found


@pytest.fixture(scope="session")
def leaks(ansible: Ansible, promises: dict[str, Promised]) -> dict[str, list[str]]:
    """Find where secrets of the apps are, by host."""
    patterns = {
        name: "\n".join(
            sorted({form for app in one.apps for secret in app.secrets.values() for form in forms(secret.reveal())})
        )
        for name, one in promises.items()
    }
    with private_folder() as folder:
        play = {
            "hosts": "web",
            "gather_facts": False,
            "become": True,
            "tasks": [
                {
                    "name": "Secrets are searched for",
                    "ansible.builtin.shell": {
                        "cmd": SEARCH,
                        "executable": "/bin/bash",
                        "stdin": "{{ patterns[inventory_hostname] }}",
                    },
                    "environment": {"LEAKED_ON_PURPOSE": LEAKED_ON_PURPOSE},
                    "when": "patterns[inventory_hostname] | length > 0",
                    "register": "search",
                    "no_log": True,
                },
                {
                    "name": "Places are written down",
                    "ansible.builtin.copy": {
                        "content": "{{ search.stdout_lines | default([]) | to_json }}",
                        "dest": f"{folder}/{{{{ inventory_hostname }}}}.json",
                        "mode": "0600",
                    },
                    "delegate_to": "localhost",
                    "become": False,
                    "no_log": True,
                },
            ],
        }
        ansible.play([play], variables={"patterns": as_it_is(patterns)})
        return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_no_secret_is_readable_for_others(leaks, promised: Promised, apps: list[App]):
    if not any(forms(secret.reveal()) for app in apps for secret in app.secrets.values()):
        pytest.skip(f"the apps of {promised.host} have no secrets of {SHORTEST} characters or more")
    assert leaks[promised.host] == []


def test_no_release_id_is_a_plain_hash_of_a_secret(host: Host, apps: list[App]):
    for app in apps:
        names = as_root(host, 'ls "/srv/$1/releases"', app.name).split()
        plain = {hashlib.sha256(secret.reveal().encode()).hexdigest()[:8] for secret in app.secrets.values()}
        assert not plain & {name.rpartition("-")[2] for name in names}
