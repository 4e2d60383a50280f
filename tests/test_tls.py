"""Keys, certificates and the versions of TLS."""

import datetime
import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from helpers import App, Promised, as_root, blocks
from helpers_http import NoAnswerError, context, handshake
from testinfra.host import Host


@pytest.fixture(scope="module")
def certificates(promised: Promised) -> dict[str, x509.Certificate]:
    """Fetch what the server shows for each app, by the app's name."""
    found = {}
    for app in promised.apps:
        address = next((one for one in promised.addresses if one in app.addresses), promised.addresses[0])
        with handshake(address, app.names[0] if app.names else None) as sock:
            found[app.name] = x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")
    return found


@pytest.fixture(scope="module")
def keys(host: Host, apps: list[App], promised: Promised) -> dict[str, dict[str, str]]:
    """Look at each app's key: who may read it, and its public part."""
    script = """
      for name in "${@:2}"; do
        echo "== $name access"; stat --format='%U:%G %a' "$1/$name/key.pem"
        echo "== $name public"; openssl pkey -in "$1/$name/key.pem" -pubout
      done
    """
    names = [app.name for app in apps]
    text = blocks(as_root(host, script, promised.options["certificate_directory"], *names))
    return {name: {part: text[f"{name} {part}"] for part in ("access", "public")} for name in names}


def test_certificate_names_exactly_the_apps_domains(certificates, apps):
    for app in apps:
        names = certificates[app.name].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
        assert shown == {*app.names, *(ipaddress.ip_address(one).compressed for one in app.addresses)}


def test_certificate_lasts_longer_than_30_days(certificates):
    for name, certificate in certificates.items():
        left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        assert left > datetime.timedelta(days=30), f"{name}: {left} left"
        assert certificate.not_valid_before_utc <= datetime.datetime.now(datetime.UTC)


def test_key_is_ecdsa_p256(certificates):
    for certificate in certificates.values():
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)


def test_key_is_roots_alone(keys):
    for name, key in keys.items():
        assert key["access"] == "root:root 600", name


def test_key_fits_the_certificate_that_is_shown(keys, certificates):
    for name, certificate in certificates.items():
        public = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert public.decode().strip() == keys[name]["public"].strip(), f"{name}: NGINX serves an older certificate"


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
