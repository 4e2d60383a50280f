"""Several hosts: who is which tier, how they know each other, and in what order they switch."""

from __future__ import annotations

import re
import shlex
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible.module_utils.internal_authority import AuthorityError, signed
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parents[2]
Plugin = Callable[[str, str], ModuleType]


# --- addresses


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({"ansible_host": "192.0.2.11"}, "192.0.2.11"),
        ({"ansible_host": "web1.example.org", "internal_address": "10.0.0.1"}, "10.0.0.1"),
        ({"ansible_host": "2001:DB8::0:1"}, "2001:db8::1"),
    ],
)
def test_a_host_is_reached_by_its_address(plugin: Plugin, variables: dict[str, str], address: str) -> None:
    assert plugin("filter", "tiers").tier_addresses(["web1"], {"web1": variables}) == [address]


def test_a_host_without_an_address_is_named_with_what_to_do(plugin: Plugin) -> None:
    with pytest.raises(AnsibleFilterError, match=r"web1: .*web1\.example\.org is none.*internal_address: 192"):
        plugin("filter", "tiers").tier_addresses(["web1"], {"web1": {"ansible_host": "web1.example.org"}})


def test_addresses_are_sorted_by_family(plugin: Plugin) -> None:
    found = plugin("filter", "tiers").by_family(["10.0.0.1", "fd00::1", "192.0.2.0/24"])
    assert found == [("ip", ["10.0.0.1", "192.0.2.0/24"]), ("ip6", ["fd00::1"])]


# --- batches


@pytest.mark.parametrize(
    ("rolling", "soak", "sizes"),
    [
        ("100%", 0, [10]),
        ("100%", 5, [1, 9]),
        ("1", 0, [1] * 10),
        ("1", 5, [1] * 10),
        ("4", 0, [4, 4, 2]),
        ("25%", 0, [2, 2, 2, 2, 2]),
        ("3%", 0, [1] * 10),
        ("50", 0, [10]),
    ],
)
def test_hosts_switch_in_batches(plugin: Plugin, rolling: str, soak: int, sizes: list[int]) -> None:
    hosts = [f"web{number}" for number in range(10)]
    found = plugin("filter", "releases").batches(hosts, rolling, soak)
    assert [len(batch) for batch in found] == sizes
    assert [host for batch in found for host in batch] == hosts


def test_no_hosts_are_no_batch(plugin: Plugin) -> None:
    assert plugin("filter", "releases").batches([], "1", 5) == []


# --- certificates


def pair(days: float = 100, key: ec.EllipticCurvePrivateKey | None = None) -> tuple[str, str]:
    """Make an authority of the shape that the documentation has: its certificate and its key."""
    private = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=200))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode(), text(private)


def text(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """Write a key in PEM form."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def request_by(key: Path) -> str:
    """Make a key, and a request with it, as a host does."""
    key.write_text(text(ec.generate_private_key(ec.SECP256R1())))
    words = ["openssl", "req", "-new", "-key", str(key), "-subj", "/CN=somebody else"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def request_of_host(tmp_path: Path) -> str:
    """Have a host's request."""
    return request_by(tmp_path / "key.pem")


def sign(request: str, authority: tuple[str, str], days: int = 50) -> x509.Certificate:
    names = ["web1", "10.0.0.1", "web1"]
    return x509.load_pem_x509_certificate(
        signed(request, *authority, host="web1", tier="web", names=names, days=days).encode()
    )


def test_a_certificate_says_what_the_inventory_says(request_of_host: str) -> None:
    found = sign(request_of_host, pair())
    assert found.subject.rfc4514_string() == "CN=web1,O=web"
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["web1", ip_address("10.0.0.1")]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_openssl_trusts_it_for_both_sides(request_of_host: str, tmp_path: Path) -> None:
    # With an authority that is made as docs/scaling.md says.
    words = re.search(r"\$ (openssl req -x509 .*)", (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"))
    assert words
    subprocess.run(shlex.split(words[1]), check=True, cwd=tmp_path, capture_output=True)
    authority = ((tmp_path / "authority.pem").read_text(), (tmp_path / "authority-key.pem").read_text())
    leaf = sign(request_of_host, authority).public_bytes(Encoding.PEM)
    (tmp_path / "leaf.pem").write_bytes(leaf)
    for purpose in ("sslserver", "sslclient"):
        verify = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "authority.pem", "leaf.pem"]
        subprocess.run(verify, check=True, cwd=tmp_path, capture_output=True)


def test_it_is_not_valid_longer_than_the_authority(request_of_host: str) -> None:
    authority = pair(days=10)
    found = sign(request_of_host, authority)
    assert found.not_valid_after_utc == x509.load_pem_x509_certificate(authority[0].encode()).not_valid_after_utc


def test_it_is_valid_as_long_as_was_asked(request_of_host: str) -> None:
    left = sign(request_of_host, pair()).not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=49) < left <= timedelta(days=50)


@pytest.mark.parametrize(
    ("authority", "complaint"),
    [
        (("nothing", "nothing"), "both in PEM form"),
        ((pair()[0], pair()[1]), "not the ECDSA key of its certificate"),
        ((pair()[0], text(rsa.generate_private_key(65537, 2048))), "not the ECDSA key"),
        (pair(days=-1), "ended on"),
    ],
)
def test_an_unfit_authority_is_refused(request_of_host: str, authority: tuple[str, str], complaint: str) -> None:
    with pytest.raises(AuthorityError, match=complaint):
        sign(request_of_host, authority)


# --- networks


def test_an_address_is_on_the_interface_of_its_network(plugin: Plugin) -> None:
    networks = {"10.0.0.5/24": "eth1", "192.0.2.5/26": "eth0", "2001:db8::5/64": "eth0"}
    find = plugin("filter", "tiers").interface_of
    assert [find(address, networks) for address in ("192.0.2.9", "10.0.0.200", "2001:db8::9")] == [
        "eth0",
        "eth1",
        "eth0",
    ]
    with pytest.raises(AnsibleFilterError, match=r"192\.0\.2\.200 is in no network .*change balancer_addresses"):
        find("192.0.2.200", networks)


def test_the_family_of_the_adverts_comes_first(plugin: Plugin) -> None:
    order = plugin("filter", "tiers").same_family_first
    assert order(["2001:db8::9", "192.0.2.9"], "192.0.2.5") == ["192.0.2.9", "2001:db8::9"]
    assert order(["192.0.2.9", "2001:db8::9"], "2001:db8::5") == ["2001:db8::9", "192.0.2.9"]


# --- which web hosts a balancer leaves out


@pytest.mark.parametrize(
    ("before", "out", "back", "by", "after"),
    [
        ({}, ["web1"], [], "a run", {"web1": "a run"}),
        ({}, ["web1"], [], "an operator", {"web1": "an operator"}),
        ({"web1": "a run"}, [], ["web1"], "a run", {}),
        # Whom an operator took out no run takes in, whatever it does to it.
        ({"web1": "an operator"}, ["web1"], [], "a run", {"web1": "an operator"}),
        ({"web1": "an operator"}, [], ["web1"], "a run", {"web1": "an operator"}),
        ({"web1": "an operator"}, [], ["web1"], "an operator", {}),
        # What a run that failed left out, an operator takes in.
        ({"web1": "a run"}, [], ["web1"], "an operator", {}),
        ({"web1": "a run"}, ["web1"], [], "an operator", {"web1": "an operator"}),
        ({"web1": "a run"}, ["web2"], ["web3"], "a run", {"web1": "a run", "web2": "a run"}),
    ],
)
def test_who_is_out_and_by_whom(
    plugin: Plugin, before: dict[str, str], out: list[str], back: list[str], by: str, after: dict[str, str]
) -> None:
    assert plugin("modules", "balancer_members").changed(before, out, back, by) == after


# --- whether web hosts answer a balancer

NEWS = {"name": "news", "domains": ["news.example.org"], "health_path": "/status", "health_timeout": 1}


class WebHost(HTTPServer):
    """A web host's port for balancers: TLS with certificates on both sides, and one answer to all."""

    def __init__(self, folder: Path, status: int, endless: str) -> None:
        """Listen on a free port of loopback, with a folder's certificates; answer with a status."""
        self.asked: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.headers["Host"], self.path))
                end = time.monotonic() + 15
                while endless == "continue" and time.monotonic() < end:
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.send_response(status)
                self.end_headers()
                while endless == "body" and time.monotonic() < end:
                    self.wfile.write(b".")
                    time.sleep(0.05)
                self.wfile.write(b"the database is away" if status != 200 else b"")

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        asked = self.asked
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "authority.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """Say nothing about clients that turn away."""


@pytest.fixture
def host_of(tmp_path: Path) -> Callable[[str], Path]:
    """Make a host's folder of certificates, as site.yml does, for a tier."""
    authority = pair()

    def make(tier: str) -> Path:
        folder = tmp_path / tier
        folder.mkdir(exist_ok=True)
        (folder / "authority.pem").write_text(authority[0])
        request = request_by(folder / "key.pem")
        names = [f"{tier}.flask-on-metal.internal"]
        (folder / "certificate.pem").write_text(signed(request, *authority, host=tier, tier=tier, names=names, days=50))
        return folder

    return make


@pytest.fixture
def web_host(host_of: Callable[[str], Path]) -> Iterator[Callable[..., WebHost]]:
    """Start a web host that answers with a status."""
    with ExitStack() as started:

        def start(status: int, tier: str = "web", endless: str = "") -> WebHost:
            host = started.enter_context(WebHost(host_of(tier), status, endless))
            started.callback(host.shutdown)
            return host

        yield start


@pytest.fixture
def probe(run_module: Callable[..., Any], host_of: Callable[[str], Path]) -> Callable[..., Any]:
    """Ask web hosts as a balancer."""

    def ask(peers: dict[str, str], **more: Any) -> Any:
        given = {"apps": [NEWS], "certificates": str(host_of("balancer")), **more}
        return run_module("balancer_probe", peers=peers, **given)

    return ask


@pytest.fixture
def nobody() -> str:
    """Find an address where nobody listens."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return f"127.0.0.1:{server.server_address[1]}"


def test_a_web_host_is_asked_for_the_app_by_its_domain_and_health_path(probe: Any, web_host: Any) -> None:
    web1 = web_host(200)
    assert not probe({"web1": web1.address}).get("failed")
    assert web1.asked == [("news.example.org", "/status")]


def test_an_app_whose_first_domain_is_an_ipv6_address_is_asked_for_by_it(probe: Any, web_host: Any) -> None:
    web1 = web_host(200)
    assert not probe({"web1": web1.address}, apps=[NEWS | {"domains": ["2001:db8::cafe"]}]).get("failed")
    assert web1.asked == [("[2001:db8::cafe]", "/status")]


def test_the_web_host_that_does_not_answer_well_is_named_with_what_it_says(probe: Any, web_host: Any) -> None:
    said = probe({"web1": web_host(200).address, "web2": web_host(503).address}, refusal="Not taken in:")
    assert said["failed"]
    assert said["msg"] == "Not taken in: news of web2 answers: 503 the database is away"


def test_one_web_host_is_enough_where_one_is_asked_for(probe: Any, web_host: Any, nobody: str) -> None:
    peers = {"web1": nobody, "web2": web_host(200).address}
    assert not probe(peers, one=True).get("failed")
    assert "news of web1 answers: no answer" in probe(peers)["msg"]


def test_where_no_web_host_is_left_nobody_answers(probe: Any) -> None:
    assert probe({}, one=True)["msg"] == "news of nobody answers: no host is left"


@pytest.mark.parametrize("endless", ["body", "continue"])
def test_a_web_host_that_drips_or_never_ends_costs_no_more_than_the_apps_time(
    probe: Any, web_host: Any, endless: str
) -> None:
    web1, start = web_host(200, endless=endless), time.monotonic()
    said = probe({"web1": web1.address})
    assert said["failed"] and "news of web1 answers: no answer (" in said["msg"]
    assert time.monotonic() - start < 5


def test_a_host_of_another_tier_is_no_web_host(probe: Any, web_host: Any) -> None:
    assert "certificate verify failed" in probe({"web1": web_host(200, tier="database").address})["msg"]


def test_a_balancer_without_its_certificate_is_told_what_to_do(probe: Any, nobody: str, tmp_path: Path) -> None:
    said = probe({"web1": nobody}, certificates=str(tmp_path / "none"))
    assert said["msg"].startswith(f"{tmp_path}/none: this host's certificate can't be used")
    assert said["msg"].endswith("Run site.yml")
