"""No secret is where anybody but root, and the app that it is for, can read it. Where is searched: secret_search.py.

Secrets are the values of `secrets`, the key of certificate_acme_eab_hmac_key, the passwords of databases, and the
private keys that a host has.
"""

from __future__ import annotations

import hashlib

import pytest
from helpers import TIERS, Ansible, App, Promised, as_root
from secret_search import key_files, of_inventory, search_here, search_hosts
from testinfra.host import Host

FOUND: dict[str, list[str]] = {}


@pytest.fixture
def leaks(
    ansible: Ansible,
    host: Host,
    promised: Promised,
    all_promises: dict[str, Promised],
    pytestconfig: pytest.Config,
) -> list[str]:
    """Find where secrets are on a host: on all of them at once, unless another process has the other ones."""
    if promised.host not in FOUND:
        several = hasattr(pytestconfig, "workerinput")
        wanted = {promised.host: promised} if several else all_promises
        texts = {name: of_inventory(one) for name, one in wanted.items()}
        keys = {name: key_files(one) for name, one in wanted.items()}
        FOUND.update(search_hosts(ansible.on(host) if several else ansible, texts, keys))
    return FOUND[promised.host]


@pytest.mark.tier(*TIERS)
def test_no_secret_is_readable_for_others(leaks: list[str]):
    assert leaks == []


def test_no_secret_is_left_on_this_machine(all_promises: dict[str, Promised]):
    texts = {text for promised in all_promises.values() for texts in of_inventory(promised).values() for text in texts}
    assert search_here(texts) == []


def test_no_release_id_is_a_plain_hash_of_a_secret(host: Host, apps: list[App]):
    for app in apps:
        names = as_root(host, 'ls "/srv/$1/releases"', app.name).split()
        plain = {hashlib.sha256(secret.reveal().encode()).hexdigest()[:8] for secret in app.secrets.values()}
        assert not plain & {name.rpartition("-")[2] for name in names}
