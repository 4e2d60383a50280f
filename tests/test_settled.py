"""What somebody stopped or disabled by hand, the next run brings back."""

from __future__ import annotations

import pytest
from helpers import Ansible, App, as_root
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

INSTANCE = 'unit="$1@$(basename "$(readlink "/srv/$1/current")")"\n'


# Each by itself: whoever looks for one of them only would find it when both are the case.
@pytest.mark.one_host
@pytest.mark.parametrize("done", ["stop", "disable --quiet"])
def test_stopped_or_disabled_release_is_brought_back(ansible: Ansible, host: Host, newsboard: App, done: str) -> None:
    as_root(host, f'{INSTANCE}systemctl {done} "$unit.service" "$unit.socket"', newsboard.name)
    run = ansible.on(host).playbook("playbooks/deploy.yml")
    assert run.status == 0, run.output
    state = as_root(host, f'{INSTANCE}systemctl is-active "$unit.service" "$unit.socket" || true', newsboard.name)
    assert state.split() == ["active", "active"]
    state = as_root(host, f'{INSTANCE}systemctl is-enabled "$unit.service" "$unit.socket" || true', newsboard.name)
    assert state.split() == ["enabled", "enabled"]
    assert not ansible.on(host).playbook("playbooks/deploy.yml").changed
