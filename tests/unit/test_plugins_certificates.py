"""Certificates are made once, by the real openssl, and again exactly when something is wrong with them."""

from __future__ import annotations

import ipaddress
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

DOMAINS = ["news.example.org", "www.news.example.org", "192.0.2.7", "2001:DB8::7"]
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make(run_module: Callable[..., dict[str, Any]], tmp_path: Path) -> Make:
    """Run the module for one entry."""

    def run(domains: list[str] = DOMAINS, **options: Any) -> dict[str, Any]:
        answer = run_module(
            "self_signed_certificates",
            directory=str(tmp_path),
            wanted=[{"name": "news", "domains": domains}],
            **options,
        )
        assert not answer.get("failed"), answer
        return answer

    return run


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "news" / "fullchain.pem").read_bytes())


def test_a_pair_fits_together_and_names_all_domains(make: Make, tmp_path: Path) -> None:
    answer = make()
    assert answer["changed"]
    found = certificate(tmp_path)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == DOMAINS[:2]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(domain) for domain in DOMAINS[2:]]
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert 396 <= (found.not_valid_after_utc - datetime.now(UTC)).days <= 397
    key = tmp_path / "news" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    private = load_pem_private_key(key.read_bytes(), None)
    assert private.public_key() == found.public_key()
    public = found.public_key()
    assert isinstance(public, EllipticCurvePublicKey) and public.curve.name == "secp256r1"
    assert answer["fingerprints"] == {"news": found.fingerprint(hashes.SHA256()).hex()}
    assert sorted(path.name for path in (tmp_path / "news").iterdir()) == ["fullchain.pem", "key.pem"]


def test_a_good_pair_is_left_alone(make: Make, tmp_path: Path) -> None:
    first = make()
    again = make(list(reversed(DOMAINS)))
    assert not again["changed"]
    assert again["fingerprints"] == first["fingerprints"]


def test_check_mode_makes_nothing_and_says_what_it_would(make: Make, tmp_path: Path) -> None:
    answer = make(check=True)
    assert answer["changed"] and answer["fingerprints"] == {"news": "to be made"}
    assert list(tmp_path.iterdir()) == []


def another_key(folder: Path) -> None:
    key = str(folder / "key.pem")
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)


SPOILT: dict[str, Callable[[Path], object]] = {
    "the key does not fit": another_key,
    "the key is gone": lambda folder: (folder / "key.pem").unlink(),
    "the certificate is gone": lambda folder: (folder / "fullchain.pem").unlink(),
    "the certificate is cut off": lambda folder: (folder / "fullchain.pem").write_text("-----BEGIN CERTIFICATE-----"),
    "the key is empty": lambda folder: (folder / "key.pem").write_text(""),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_pair_is_made_again(make: Make, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    first = make()
    spoil(tmp_path / "news")
    again = make()
    assert again["changed"] and again["fingerprints"] != first["fingerprints"]
    assert not make()["changed"]


@pytest.mark.parametrize("domains", [DOMAINS[:3], [*DOMAINS, "new.example.org"], ["other.example.org"]])
def test_other_names_make_another_certificate(make: Make, domains: list[str]) -> None:
    make()
    assert make(domains)["changed"]
    assert not make(domains)["changed"]


def test_a_certificate_that_is_about_to_expire_is_made_again(make: Make, tmp_path: Path) -> None:
    make(days=29)
    assert make()["changed"]
    assert (certificate(tmp_path).not_valid_after_utc - datetime.now(UTC)).days > 30


def test_a_long_name_is_no_problem(make: Make) -> None:
    # A common name has at most 64 characters.
    name = ".".join(["a" * 40, "b" * 40, "example.org"])
    assert make([name])["changed"]
    assert not make([name])["changed"]
