"""What is wrong with a key and a certificate that an operator brings, before any host has them."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import ssl
import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

KEY, CHAIN = "key", "fullchain"


class Unfit(Exception):
    """A reason to refuse a pair: the option that it is about, and the rest of the sentence."""

    def __init__(self, option: str, text: str) -> None:
        """Keep the two apart."""
        super().__init__(text)
        self.option, self.text = option, text


def problems(
    key: str, chain: str, domains: Iterable[str], roots: Sequence[x509.Certificate], now: datetime | None = None
) -> Iterator[Unfit]:
    """Yield all that is wrong with a pair.

    Args:
        key: The private key in PEM form.
        chain: The certificate and those above it, in PEM form.
        domains: What it has to name.
        roots: Authorities that are trusted; where none are known here, what is above the chain can't be told.
        now: The time at which it has to be valid.
    """
    try:
        private = read_key(key)
    except Unfit as unfit:
        yield unfit
        private = None
    certificates = read_certificates(chain)
    if not certificates:
        yield Unfit(CHAIN, "it must hold the certificate and those above it in PEM form, yours first.")
        return
    leaf = certificates[0]
    if private is not None and public(leaf) != encoded(private):
        if any(public(one) == encoded(private) for one in certificates):
            yield Unfit(
                CHAIN,
                "the certificate that the key is for isn't its first. Put it there, and each one's issuer after it.",
            )
        else:
            yield Unfit(
                KEY, "it doesn't fit the first certificate of fullchain. Name the key that it was requested with."
            )
    if missing := [domain for domain in domains if not names(leaf, domain)]:
        yield Unfit(
            CHAIN,
            f"it doesn't name {', '.join(missing)}. Get one that names all of domains, or take what it lacks out of "
            "domains.",
        )
    yield from out_of_date(certificates, now or datetime.now(UTC))
    yield from gaps(certificates, roots)


def read_key(text: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Read a private key that NGINX could use and browsers accept."""
    try:
        key = load_pem_private_key(text.encode(), None)
    except TypeError:
        raise Unfit(
            KEY,
            "it wants a passphrase, which nobody could type when NGINX starts. Take it off (openssl pkey -in … -out …) "
            "and encrypt the file with ansible-vault instead.",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Unfit(
            KEY, "it must hold a private key in PEM form, which begins with -----BEGIN PRIVATE KEY-----."
        ) from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in ("secp256r1", "secp384r1", "secp521r1"):
        return key
    raise Unfit(KEY, "it must be ECDSA (P-256 is best) or RSA of 2048 bits or more: browsers take nothing else.")


def encoded(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public part of a key, to compare."""
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public(certificate: x509.Certificate) -> bytes:
    """Return the public key of a certificate, to compare."""
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""


def read_certificates(text: str) -> list[x509.Certificate]:
    """Read all certificates of a PEM text; what can't be read is left out."""
    found = []
    for block in re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text, re.DOTALL):
        # An authority of long ago that has no proper serial number is no news to the operator.
        with warnings.catch_warnings(), contextlib.suppress(ValueError):
            warnings.simplefilter("ignore")
            found.append(x509.load_pem_x509_certificate(block.encode()))
    return found


def names(certificate: x509.Certificate, domain: str) -> bool:
    """Tell whether a certificate is for a domain: by its own name, its address, or a wildcard for one label."""
    try:
        known = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        return ipaddress.ip_address(domain) in known.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = domain.lower()
        return bool(
            {wanted, f"*.{wanted.partition('.')[2]}"} & {one.lower() for one in known.get_values_for_type(x509.DNSName)}
        )


def title(name: x509.Name) -> str:
    """Write who a certificate is for, or who issued it."""
    return name.rfc4514_string() or "(nobody)"


def out_of_date(certificates: Sequence[x509.Certificate], now: datetime) -> Iterator[Unfit]:
    """Yield the certificates that are no longer valid, or not yet."""
    for certificate in certificates:
        if certificate.not_valid_after_utc <= now:
            yield Unfit(
                CHAIN,
                f"{title(certificate.subject)} expired on {certificate.not_valid_after_utc:%Y-%m-%d}. Get a new one.",
            )
        if certificate.not_valid_before_utc > now:
            yield Unfit(
                CHAIN,
                f"{title(certificate.subject)} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}"
                " UTC. Wait, or set this machine's clock.",
            )


def gaps(certificates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> Iterator[Unfit]:
    """Yield the first gap in a chain: each certificate is issued by the next, and the last one by a known authority."""
    for one, above in pairwise(certificates):
        if not issued_by(one, above):
            yield Unfit(
                CHAIN,
                f"its order is broken: after {title(one.subject)} comes {title(above.subject)}, which didn't issue it. "
                f"Each one's issuer comes after it, here {title(one.issuer)}.",
            )
            return
    last = certificates[-1]
    if last.issuer == last.subject or not roots or any(issued_by(last, root) for root in roots):
        return
    yield Unfit(
        CHAIN,
        f"it is incomplete: {title(last.issuer)} issued its last certificate, and isn't among the authorities that "
        "browsers know. Append its certificate, which your authority offers as chain or intermediate. An authority of "
        "your own is named in host_ca_certificates.",
    )


def issued_by(one: x509.Certificate, above: x509.Certificate) -> bool:
    """Tell whether a certificate was issued by the owner of another one."""
    try:
        one.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


@cache
def trusted_here() -> tuple[x509.Certificate, ...]:
    """Read the authorities that this machine trusts; none where it doesn't say."""
    paths = ssl.get_default_verify_paths()
    for name in (paths.cafile, paths.openssl_cafile, "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"):
        if name and Path(name).is_file():
            return tuple(read_certificates(Path(name).read_text(encoding="utf-8", errors="replace")))
    return ()
