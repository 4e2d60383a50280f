"""The certificate by which a host is known to those of the other tiers."""

from __future__ import annotations

import datetime
import re

import pytest
from cryptography import x509
from helpers import TIERS, Promised, as_root, blocks
from testinfra.host import Host

pytestmark = pytest.mark.tier(*TIERS)

LOOK = """
cd "$1" 2>/dev/null || exit 0
echo "== access"; stat --format='%n %U:%G %a' *.pem
echo "== certificate"; cat certificate.pem
echo "== verified"; openssl verify -CAfile authority.pem certificate.pem 2>&1 || true
echo "== pair"; openssl pkey -in key.pem -pubout; openssl x509 -in certificate.pem -noout -pubkey
"""


@pytest.fixture(scope="module")
def found(host: Host, promised: Promised) -> dict[str, str]:
    """Ask the host all that is asked here, in one go."""
    text = blocks(as_root(host, LOOK, promised.options["certificate_internal_directory"]))
    if not text and {"balancer", "database"}.isdisjoint(host.ansible.get_variables()["groups"]):
        pytest.skip("there are no other tiers")
    return text


def test_it_says_what_the_host_is_and_is_renewed_in_time(found, promised: Promised):
    certificate = x509.load_pem_x509_certificate(found["certificate"].encode())
    (tier,) = certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    assert tier.value in promised.groups
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    left = ends - datetime.datetime.now(datetime.UTC)
    assert left > (ends - begins) / 3 * 0.9, f"{left} left: run playbooks/site.yml"


def test_the_authority_signed_it_for_the_key_that_is_there(found):
    assert re.fullmatch(r"certificate\.pem: OK", found["verified"].strip())
    half = len(found["pair"]) // 2
    assert found["pair"][:half].strip() == found["pair"][half:].strip()


def test_key_is_for_those_that_need_it(found, promised: Promised):
    access = dict(line.split(" ", 1) for line in found["access"].splitlines())
    assert access["key.pem"] == ("root:ssl-cert 640" if "database" in promised.groups else "root:root 600")
