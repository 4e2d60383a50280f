"""What somebody stopped or disabled by hand, the next run brings back."""

from __future__ import annotations

import pytest
from helpers import Ansible, App, as_root
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

INSTANCE = 'unit="$1@$(basename "$(readlink "/srv/$1/current")")"\n'


def test_stopped_and_disabled_release_is_brought_back(ansible: Ansible, host: Host, newsboard: App) -> None:
    as_root(host, f'{INSTANCE}systemctl disable --quiet --now "$unit.service" "$unit.socket"', newsboard.name)
    run = ansible.playbook("playbooks/deploy.yml")
    assert run.status == 0, run.output
    state = as_root(host, f'{INSTANCE}systemctl is-active "$unit.service" "$unit.socket"', newsboard.name)
    assert state.split() == ["active", "active"]
    assert as_root(host, f'{INSTANCE}systemctl is-enabled "$unit.service"', newsboard.name).strip() == "enabled"
    assert not ansible.playbook("playbooks/deploy.yml").changed
