"""Two balancers share an address, and each gets certificates of an authority for the names that lead there."""

from __future__ import annotations

import pytest
from helpers import ROOT
from helpers_http import ask
from installation import NAME, Installation


@pytest.mark.full_matrix
def test_both_balancers_get_certificates_of_an_authority(installation: Installation) -> None:
    with installation.inventory_of("with_acme"):
        for playbook in (ROOT / "molecule" / "cluster" / "acme_server.yml", "site.yml"):
            run = installation.playbook(playbook)
            assert run.status == 0, run.output
    for name in ("balancer1", "balancer2"):
        said = installation.root(name, "certificates status")
        states = [line.split(": ", 1)[1] for line in said.splitlines() if ": " in line]
        assert len(states) == 3
        assert all(state.startswith("authority until ") for state in states), f"{name}: {said}"
    # Browsers may trust it, so they are told to come by HTTPS alone.
    assert "strict-transport-security" in ask(installation.floating, NAME, "/").headers
    # Other tests want the certificates that a host makes by itself.
    for name in ("balancer1", "balancer2"):
        forget = """
          cd /var/lib/flask-on-metal
          rm -r certbot certificates.json /etc/ssl/flask-on-metal/*/pairs/*
        """
        installation.root(name, forget)
    run = installation.playbook("site.yml")
    assert run.status == 0, run.output
