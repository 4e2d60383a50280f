"""Searches for secrets where nobody should find them: on hosts, and on this machine.

What is looked for travels in the standard input of a task that logs nothing, so that the search itself shows it to
nobody; what comes back is names of places.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from helpers import LEAKED_ON_PURPOSE, ROOT, TIERS, Ansible, Promised, as_it_is, private_folder
from secret_forms import forms

ON_HOST = Path(__file__).with_name("search_on_host.py")
FORMS = Path(__file__).with_name("secret_forms.py")

Texts = dict[str, list[str]]
"""What is searched for, by the account that may know it."""


def of_inventory(promised: Promised) -> Texts:
    """Find what to search for on a host: the secrets of its apps, and what else the inventory keeps from others."""
    of_apps = {
        app.name: sorted({form for secret in app.secrets.values() for form in forms(secret.reveal())})
        for app in promised.apps
    }
    others = {
        account: sorted({form for secret in secrets for form in forms(secret.reveal())})
        for account, secrets in promised.others.items()
    }
    return {**of_apps, **others}


def key_files(promised: Promised) -> list[str]:
    """Name the private keys that are made on a host and never leave it: it searches for what is in them by itself."""
    certbot = "/var/lib/flask-on-metal/certbot/config"
    return [
        f"{promised.options['certificate_directory']}/*/pairs/*/key.pem",
        f"{certbot}/archive/*/privkey*.pem",
        f"{certbot}/keys/*",
        f"{certbot}/accounts/**/private_key.json",
        # A database's is for PostgreSQL and etcd as well.
        *([] if "database" in promised.groups else [f"{promised.options['certificate_internal_directory']}/key.pem"]),
    ]


def search_hosts(
    ansible: Ansible, texts: dict[str, Texts], keys: dict[str, list[str]] | None = None
) -> dict[str, list[str]]:
    """Name the places on each host at which something is found.

    Args:
        ansible: reaches the hosts.
        texts: what is searched for, by host.
        keys: patterns of files by host, of which each holds a private key that is searched for, too.
    """
    given = {
        name: {"texts": known, "keys": (keys or {}).get(name, []), "innocent": LEAKED_ON_PURPOSE}
        for name, known in texts.items()
    }
    with private_folder() as folder:
        play = {
            "hosts": ":".join(TIERS),
            "gather_facts": False,
            "become": True,
            "tasks": [
                {
                    "name": "Secrets are searched for",
                    "ansible.builtin.command": {
                        "argv": ["/usr/bin/python3", "-c", "{{ program }}"],
                        "stdin": "{{ given[inventory_hostname] | combine({'forms': forms}) | to_json }}",
                    },
                    "when": "inventory_hostname in given",
                    "register": "search",
                    "no_log": True,
                },
                {
                    "name": "Places are written down",
                    "ansible.builtin.copy": {
                        "content": "{{ search.stdout | default('[]') }}",
                        "dest": f"{folder}/{{{{ inventory_hostname }}}}.json",
                        "mode": "0600",
                    },
                    "delegate_to": "localhost",
                    "become": False,
                    "no_log": True,
                },
            ],
        }
        variables = {"given": given, "forms": FORMS.read_text(), "program": ON_HOST.read_text()}
        ansible.play([play], variables=as_it_is(variables))
        return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def search_here(texts: Iterable[str], *more: Path) -> list[str]:
    """Name the files on this machine, of those that Ansible and the tests leave, in which something is found."""
    home = Path.home()
    temporary = Path(os.environ.get("ANSIBLE_LOCAL_TEMP", home / ".ansible" / "tmp"))
    places = [temporary, home / ".ansible", home / ".cache" / "molecule", ROOT / "build", ROOT / ".ansible", *more]
    places += Path(tempfile.gettempdir()).glob("ansible*")
    words = [
        "grep",
        "--fixed-strings",
        "--recursive",
        "--files-with-matches",
        "--devices=skip",
        "--no-messages",
        "--text",
    ]
    # What was fetched for Ansible isn't what it left. The sources of scenarios are the inventory's own.
    words += ["--exclude-dir=collections", "--exclude-dir=galaxy_cache", "--exclude-dir=source", "--file=-"]
    existing = sorted({str(place) for place in places if place.exists()})
    if not existing:
        return []
    done = subprocess.run([*words, *existing], input="\n".join(texts), capture_output=True, text=True, check=False)
    return sorted(set(done.stdout.splitlines()))
