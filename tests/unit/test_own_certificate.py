"""An operator's own pair is refused for what is wrong with it, in words that say how to put it right."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from ansible.module_utils.own_certificate import problems, trusted_here
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DOMAINS = ["news.example.org", "192.0.2.7", "2001:DB8::7"]
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def pem(key: Private, encryption: KeySerializationEncryption | None = None) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


@dataclass
class Made:
    """A key with its certificate."""

    key: Private
    certificate: x509.Certificate

    @property
    def text(self) -> str:
        """The certificate in PEM form."""
        return self.certificate.public_bytes(Encoding.PEM).decode()


def make(
    title: str,
    above: Made | None = None,
    *,
    domains: list[str] = DOMAINS,
    key: Private | None = None,
    begins: int = -1,
    ends: int = 100,
) -> Made:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    entries: list[x509.GeneralName] = []
    for domain in domains:
        try:
            entries.append(x509.IPAddress(ipaddress.ip_address(domain)))
        except ValueError:
            entries.append(x509.DNSName(domain))
    signer = above.key if above else key
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(above.certificate.subject if above else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=begins))
        .not_valid_after(NOW + timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName(entries), critical=False)
        .sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    return Made(key, made)


ROOT = make("Root")
MIDDLE = make("Middle", ROOT)
LEAF = make("Leaf", MIDDLE)


def told(key: str, chain: str, domains: list[str] = DOMAINS, roots: list[Made] | None = None) -> list[str]:
    known = [ROOT.certificate] if roots is None else [one.certificate for one in roots]
    return [f"{unfit.option}: {unfit.text}" for unfit in problems(key, chain, domains, known, NOW)]


@pytest.mark.parametrize("top", ["", ROOT.text], ids=["up to a known authority", "with that authority"])
def test_a_good_pair_has_no_problem(top: str) -> None:
    assert told(pem(LEAF.key), f"# ours\n{LEAF.text}\n{MIDDLE.text}{top}") == []


def test_an_authority_of_the_operator_needs_be_known_to_nobody() -> None:
    assert told(pem(LEAF.key), LEAF.text + MIDDLE.text + ROOT.text, roots=[]) == []
    # Where nothing is known here, only the host could tell.
    assert told(pem(LEAF.key), LEAF.text, roots=[]) == []


def test_rsa_and_wildcards_are_in_order() -> None:
    key = rsa.generate_private_key(65537, 2048)
    leaf = make("Leaf", ROOT, domains=["*.Example.org", "192.0.2.7", "2001:db8::7"], key=key)
    assert told(pem(key), leaf.text) == []
    assert told(pem(key), leaf.text, ["a.b.example.org"]) != []
    assert told(pem(key), leaf.text, ["example.org"]) != []


OTHER = ec.generate_private_key(ec.SECP256R1())
CHAIN = LEAF.text + MIDDLE.text
BAD: dict[str, tuple[Callable[[], tuple[str, str]], str]] = {
    "no key": (lambda: ("", CHAIN), "key: it must hold a private key in PEM form"),
    "a certificate as key": (lambda: (CHAIN, CHAIN), "key: it must hold a private key in PEM form"),
    "a passphrase": (
        lambda: (pem(LEAF.key, BestAvailableEncryption(b"x")), CHAIN),
        "key: it wants a passphrase, which nobody could type",
    ),
    "a key that browsers don't take": (
        lambda: (pem(ed25519.Ed25519PrivateKey.generate()), CHAIN),
        "key: it must be ECDSA (P-256 is best) or RSA of 2048 bits or more",
    ),
    "a short key": (lambda: (pem(rsa.generate_private_key(65537, 1024)), CHAIN), "key: it must be ECDSA"),
    "another key": (lambda: (pem(OTHER), CHAIN), "key: it doesn't fit the first certificate of fullchain"),
    "no certificate": (lambda: (pem(LEAF.key), "x"), "fullchain: it must hold the certificate and those above it"),
    "expired": (
        lambda: (pem(OTHER), make("Leaf", MIDDLE, key=OTHER, begins=-50, ends=-2).text + MIDDLE.text),
        "fullchain: CN=Leaf expired on 2026-05-30. Get a new one.",
    ),
    "not valid yet": (
        lambda: (pem(OTHER), make("Leaf", MIDDLE, key=OTHER, begins=1).text + MIDDLE.text),
        "fullchain: CN=Leaf is not valid before 2026-06-02 00:00 UTC.",
    ),
    "an expired authority": (
        lambda: (pem(OTHER), make("Leaf", old := make("Old", ROOT, ends=0), key=OTHER).text + old.text),
        "fullchain: CN=Old expired on 2026-06-01.",
    ),
    "a name is missing": (
        lambda: (pem(OTHER), make("Leaf", ROOT, key=OTHER, domains=DOMAINS[:2]).text),
        "fullchain: it doesn't name 2001:DB8::7. Get one that names all of domains",
    ),
    "incomplete": (
        lambda: (pem(LEAF.key), LEAF.text),
        "fullchain: it is incomplete: CN=Middle issued its last certificate",
    ),
    "a stranger above": (
        lambda: (pem(LEAF.key), LEAF.text + make("Middle", ROOT).text),
        "fullchain: its order is broken: after CN=Leaf comes CN=Middle, which didn't issue it.",
    ),
    "one left out in between": (
        lambda: (pem(LEAF.key), LEAF.text + ROOT.text),
        "fullchain: its order is broken: after CN=Leaf comes CN=Root, which didn't issue it. Each one's issuer comes "
        "after it, here CN=Middle.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_a_bad_pair_has_one_problem(case: tuple[Callable[[], tuple[str, str]], str]) -> None:
    make_it, text = case
    found = told(*make_it())
    assert len(found) == 1 and text in found[0], found


def test_a_chain_that_is_upside_down_is_told_as_that() -> None:
    found = told(pem(LEAF.key), MIDDLE.text + LEAF.text)
    assert "fullchain: the certificate that the key is for isn't its first" in found[0]


def test_no_message_shows_the_key() -> None:
    key = pem(OTHER)
    assert not any(key.splitlines()[1] in text for text in told(key, CHAIN))


def test_authorities_of_this_machine_are_read() -> None:
    assert all(isinstance(one, x509.Certificate) for one in trusted_here())
