"""Keys, certificates and the versions of TLS."""

import datetime
import ipaddress
import re
import ssl
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from helpers import App, Promised, as_root, blocks
from helpers_http import NoAnswerError, context, handshake, is_address
from testinfra.host import Host

pytestmark = pytest.mark.tier("web", "balancer")


@dataclass(frozen=True)
class Served:
    """What a domain is served: the certificate that the server shows, and what its link leads to on the host."""

    domain: str
    certificate: x509.Certificate
    target: str
    access: list[str]
    files: dict[str, str]

    @property
    def kind(self) -> str:
        """Whose the pair is: own, authority or self-signed."""
        return self.target.rpartition("/")[2].rpartition("-")[0]


LOOK = """
for at in "$1/$2"/served/*; do
  domain=${at##*/}
  echo "== $domain target"; readlink "$at"
  echo "== $domain access"; stat --format='%U:%G %a' "$at/key.pem" "$at/fullchain.pem" "$at/trust.conf"
  echo "== $domain public"; openssl pkey -in "$at/key.pem" -pubout
  echo "== $domain fingerprint"; openssl x509 -in "$at/fullchain.pem" -noout -fingerprint -sha256
  echo "== $domain trust"; cat "$at/trust.conf"
done
"""


@pytest.fixture(scope="module")
def served(host: Host, apps: list[App], promised: Promised) -> list[Served]:
    """Look at each domain of each app, from outside and on the host."""
    found = []
    for app in apps:
        text = blocks(as_root(host, LOOK, promised.options["certificate_directory"], app.name))
        linked = {name.partition(" ")[0] for name in text}
        assert linked == set(app.domains), "there are links of other domains, or some are missing"
        for domain in app.domains:
            known = domain in app.addresses
            address = next((one for one in promised.addresses if one in app.addresses), promised.addresses[0])
            with handshake(domain if known else address, None if known else domain) as sock:
                certificate = x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")
            files = {part: text[f"{domain} {part}"] for part in ("public", "fingerprint", "trust")}
            access = text[f"{domain} access"].splitlines()
            found.append(Served(domain, certificate, text[f"{domain} target"], access, files))
    return found


def test_certificate_of_each_domain_names_it(served):
    for one in served:
        names = one.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
        shown |= set(map(str, names.get_values_for_type(x509.IPAddress)))
        if is_address(one.domain):
            assert ipaddress.ip_address(one.domain).compressed in shown
        else:
            assert shown & {one.domain.lower(), f"*.{one.domain.lower().partition('.')[2]}"}, one.domain


def test_certificate_is_renewed_in_time(served):
    now = datetime.datetime.now(datetime.UTC)
    for one in served:
        begins, ends = one.certificate.not_valid_before_utc, one.certificate.not_valid_after_utc
        assert begins <= now < ends, one.domain
        if one.kind != "own":
            # Some hours are the timer's and a second try's.
            least = min(datetime.timedelta(days=30), (ends - begins) / 3) * 0.9
            assert ends - now > least, f"{one.domain}: {ends - now} left"


def test_key_is_ecdsa_p256(served):
    for one in served:
        key = one.certificate.public_key()
        # An operator's own may be something else.
        if one.kind != "own" or isinstance(key, ec.EllipticCurvePublicKey):
            assert isinstance(key, ec.EllipticCurvePublicKey), one.domain
            assert one.kind == "own" or isinstance(key.curve, ec.SECP256R1), one.domain


def test_key_is_roots_alone(served):
    for one in served:
        assert one.access == ["root:root 600", "root:root 644", "root:root 644"], one.domain


def test_link_of_each_domain_leads_to_a_pair_and_nginx_serves_that_one(served):
    for one in served:
        assert re.fullmatch(r"\.\./pairs/(own|authority|self-signed)-[0-9a-f]{12}", one.target), one.target
        shown = one.certificate.fingerprint(hashes.SHA256()).hex()
        assert one.files["fingerprint"].rpartition("=")[2].replace(":", "").lower() == shown, (
            f"{one.domain}: NGINX serves another certificate than its link leads to"
        )
        public = one.certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert public.decode().strip() == one.files["public"].strip()


def test_trust_is_that_of_who_issued_the_certificate(served):
    for one in served:
        assert one.files["trust"] == f"set $certificate_trusted {int(one.kind != 'self-signed')};"
        if one.kind == "self-signed":
            assert one.certificate.issuer == one.certificate.subject


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda one: one.name)
def test_modern_tls_is_spoken(version, promised, apps):
    for app in apps:
        address = next((one for one in promised.addresses if one in app.addresses), promised.addresses[0])
        with handshake(address, app.names[0] if app.names else None, context(oldest=version, newest=version)) as sock:
            assert sock.version() == version.name.replace("_", ".")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=lambda one: one.name)
def test_old_tls_is_refused_by_the_server(version, promised, apps):
    for app in apps:
        address = next((one for one in promised.addresses if one in app.addresses), promised.addresses[0])
        # The server's own word: a refusal of this machine's OpenSSL would prove nothing.
        with pytest.raises(NoAnswerError, match="ALERT_PROTOCOL_VERSION"):
            handshake(address, app.names[0] if app.names else None, context(oldest=version, newest=version))


def test_weak_ciphers_of_tls_1_2_are_refused(promised, apps):
    client = context(oldest=ssl.TLSVersion.TLSv1_2, newest=ssl.TLSVersion.TLSv1_2)
    # No forward secrecy, CBC, or no encryption at all.
    client.set_ciphers("kRSA:CBC:NULL:!ECDHE+AESGCM:!ECDHE+CHACHA20:@SECLEVEL=0")
    app = apps[0]
    address = next((one for one in promised.addresses if one in app.addresses), promised.addresses[0])
    with pytest.raises(NoAnswerError, match="HANDSHAKE_FAILURE"):
        handshake(address, app.names[0] if app.names else None, client)
