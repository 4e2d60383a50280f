"""No secret is in what a run says, however much it is asked to say."""

from __future__ import annotations

import pytest
from helpers import Ansible, Promised

pytestmark = pytest.mark.disturbs


def test_release_at_full_verbosity_shows_no_secret(ansible: Ansible, promises: dict[str, Promised]) -> None:
    secrets = [secret for host in promises.values() for app in host.apps for secret in app.secrets.values()]
    if not secrets:
        pytest.skip("no app of this inventory has a secret")
    run = ansible.playbook("playbooks/deploy.yml", variables={"force": True}, verbosity=3).without(secrets)
    assert run.status == 0, run.output
    assert "module_args:" in run.output, "the run was not as verbose as it was meant to be"
    assert not run.leaked, "the output shows a secret"
