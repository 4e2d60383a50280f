"""No secret is in what a run says, however much it is asked to say."""

from __future__ import annotations

import pytest
from helpers import Ansible, Promised
from secret_forms import forms, found_in

pytestmark = pytest.mark.disturbs


def test_release_at_full_verbosity_shows_no_secret(ansible: Ansible, promises: dict[str, Promised]) -> None:
    secrets = [secret for host in promises.values() for app in host.apps for secret in app.secrets.values()]
    if not secrets:
        pytest.skip("no app of this inventory has a secret")
    run = ansible.playbook("playbooks/deploy.yml", variables={"force": True}, verbosity=3).without(secrets)
    assert run.status == 0, run.output
    assert "module_args:" in run.output, "the run was not as verbose as it was meant to be"
    written = {form for secret in secrets for form in forms(secret.reveal())}
    assert not run.leaked and not found_in(run.output, written), "the output shows a secret"
