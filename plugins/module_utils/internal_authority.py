"""Certificates by which the hosts of one installation know each other, signed on the control node."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATED = timedelta(hours=1)
"""By how much a certificate begins earlier, for hosts whose clocks are behind."""


class AuthorityError(ValueError):
    """The authority's pair can't sign; the text says why, and what to do."""


def signed(request: str, authority: str, key: str, *, host: str, tier: str, names: Iterable[str], days: int) -> str:
    """Sign a host's request, and return the certificate in PEM form.

    Nothing but the public key is taken from the request: what a host may call itself is the inventory's to say.

    Args:
        request: The request in PEM form, signed with the host's key.
        authority: The authority's certificate in PEM form.
        key: The authority's private key in PEM form, without a passphrase.
        host: The host's name in the inventory; the common name.
        tier: Group of the host; the organization, by which others tell what it is.
        names: Names and addresses that the host is reached by.
        days: How long it is valid, but no longer than the authority.

    Raises:
        AuthorityError: The authority's pair isn't one, or is no longer valid.
    """
    try:
        issuer = x509.load_pem_x509_certificate(authority.encode())
        private = load_pem_private_key(key.encode(), None)
    except (TypeError, ValueError) as error:
        raise AuthorityError(
            "a certificate and a key without a passphrase, both in PEM form, are needed; docs/scaling.md makes them"
        ) from error
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if not isinstance(private, ec.EllipticCurvePrivateKey) or (
        private.public_key().public_bytes(*form) != issuer.public_key().public_bytes(*form)
    ):
        raise AuthorityError("its key is not the ECDSA key of its certificate; name the two that were made together")
    now = datetime.now(UTC)
    if issuer.not_valid_after_utc <= now:
        raise AuthorityError(f"its certificate ended on {issuer.not_valid_after_utc:%Y-%m-%d}; make a new pair")
    asked = x509.load_pem_x509_csr(request.encode())
    if not asked.is_signature_valid:
        raise AuthorityError(f"the request of {host} isn't signed by its own key")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, tier),
                    x509.NameAttribute(NameOID.COMMON_NAME, host[:64]),
                ]
            )
        )
        .issuer_name(issuer.subject)
        .public_key(asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(min(now + timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([general(name) for name in dict.fromkeys(names)]), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()),  # which of two, at a change
            critical=False,
        )
        .sign(private, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def general(name: str) -> x509.GeneralName:
    """Write a name or an address as a certificate has it."""
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)
