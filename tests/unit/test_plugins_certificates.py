"""Certificates of a host: made by the real openssl; authority and NGINX are stand-ins that do as they are told."""

from __future__ import annotations

# ruff: noqa: D102, D107  (stand-ins: their names say what they do)
import ipaddress
import json
import ssl
import stat
import subprocess
import time
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.message import Message
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import certificates
from ansible.module_utils.certificates import (
    Acme,
    App,
    CertificateError,
    Certificates,
    Config,
    Host,
    Places,
    Wait,
    main,
    pair_id,
    read_state,
)
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

DOMAINS = ["news.example.org", "www.news.example.org", "192.0.2.7", "2001:DB8::7"]
DIRECTORY = "https://acme.example.org/directory"
HOUR = 3600


class World(Host):
    """A host with openssl; names lead to it, an authority certifies, and NGINX serves, unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.astray: set[str] = set()
        """Names whose HTTP leads elsewhere."""
        self.refused: set[str] = set()
        """Names that the authority can't reach, though we can."""
        self.down = ""
        """What certbot says where the authority issues nothing."""
        self.log = ""
        """What certbot's log has of an authority's refusal, which its output hides."""
        self.days = 90
        self.asked: list[list[str]] = []
        self.words: list[str] = []
        self.binding = ""
        self.environment: Mapping[str, str] = {}
        self.reloads = 0
        self.serves: dict[str, bytes] = {}
        self.deaf = False
        """Whether NGINX goes on with what it has, whatever it is told."""

    def run(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        if words[0] == "certbot":
            self.words, self.environment = list(words), environment or {}
            return self.certbot([word for before, word in pairwise(words) if before == "--domain"])
        if words[0] == "systemctl":
            if words[1] == "reload":
                self.reloads += 1
                if not self.deaf:
                    self.serves = self.linked()
            return 0, ""
        return super().run(words, environment)

    def certbot(self, names: list[str]) -> tuple[int, str]:
        self.asked.append(names)
        if "--config" in self.words:
            binding = Path(self.words[self.words.index("--config") + 1])
            assert stat.S_IMODE(binding.stat().st_mode) == 0o600
            self.binding = binding.read_text()
        log = self.folder / "certbot" / "logs" / "letsencrypt.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text(self.log)
        account = self.folder / "certbot/config/accounts/acme.example.org/directory"
        if self.log and not account.exists():
            self.log = ""
        account.mkdir(parents=True, exist_ok=True)
        if self.log:
            return 1, "An unexpected error occurred:\nAttributeError: can't set attribute\n"
        if self.down:
            return 1, f"Saving debug log to /x\n{self.down}\nAsk for help or search for solutions at https://x.\n"
        said = "".join(
            f"  Domain: {name}\n  Type:   connection\n  Detail: connection refused\n\n" for name in self.refused
        )
        good = [name for name in names if name not in self.refused]
        if not good:
            return 1, f"{said}Some challenges have failed.\n"
        live = self.folder / "certbot" / "config" / "live" / "news"
        live.mkdir(parents=True, exist_ok=True)
        make_pair(live / "privkey.pem", live / "fullchain.pem", good, self.days)
        return 0, f"{said}Successfully received certificate.\n"

    def fetch(self, url: str) -> str:
        name, _, path = url.removeprefix("http://").partition("/")
        if name in self.astray:
            raise urllib.error.HTTPError(url, 404, "Not Found", Message(), None)
        return (self.folder / "acme" / path).read_text()

    def shown(self, address: str, name: str | None) -> bytes | None:
        assert address == ("127.0.0.1" if name else address)
        return self.serves.get(name or address)

    def linked(self) -> dict[str, bytes]:
        """Tell what an NGINX that is started now would serve."""
        return {at.name: der(at / "fullchain.pem") for at in self.folder.glob("ssl/*/served/*")}


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def make_pair(key: Path, certificate: Path, names: list[str], days: int) -> None:
    alternatives = ",".join(f"DNS:{name}" for name in names)
    words = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
        str(key), "-out", str(certificate), "-days", str(days), "-subj", "/CN=x",
        "-addext", f"subjectAltName={alternatives}",
    ]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "acme" / ".well-known" / "acme-challenge").mkdir(parents=True)
    return Places(
        config=tmp_path / "config.json", ca_file=tmp_path / "ca.pem", state=tmp_path / "state.json",
        lock=tmp_path / "lock", webroot=tmp_path / "acme", certbot=tmp_path / "certbot",
        error_log=tmp_path / "error.log", nginx=tmp_path / "nginx",
    )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass."""
    passed = [0.0]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + passed[0])

    def forward(seconds: float) -> None:
        passed[0] += seconds

    return forward


Run = Callable[..., Certificates]


@pytest.fixture
def run(tmp_path: Path, places: Places, world: World) -> Run:
    """Do what a run of the playbook does: pairs, NGINX's sites, and the authority."""

    def once(
        domains: list[str] = DOMAINS, *, acme: str = DIRECTORY, force: bool = False, check: bool = False,
        own: tuple[str, str] | None = None, **more: str,
    ) -> Certificates:  # fmt: skip
        app = App("news", domains, pair_id("own", own[1]) if own else "")
        config = Config(str(tmp_path / "ssl"), 366, [app], Acme(acme, **more))
        found = Certificates(config, world, places, check=check)
        if own:
            found.own(app, *own)
        found.prepare()
        # A site that is new is served at once.
        world.serves = {**world.linked(), **world.serves} if not check else world.serves
        found.renew(force=force)
        return found

    return once


def served(folder: Path) -> dict[str, str]:
    """Tell the kind of certificate of each domain."""
    links = sorted((folder / "ssl" / "news" / "served").iterdir())
    return {at.name: str(at.readlink()).removeprefix("../pairs/").rpartition("-")[0] for at in links}


def pairs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "ssl" / "news" / "pairs").iterdir())


def leaf(folder: Path, domain: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "ssl/news/served" / domain / "fullchain.pem").read_bytes())


# --- self-signed


def test_without_an_authority_one_self_signed_pair_serves_all_domains(run: Run, world: World, tmp_path: Path) -> None:
    found = run(acme="")
    assert found.changes and world.asked == [] and world.reloads == 0
    assert not any("for root alone" in change for change in found.changes), "its key was open for a moment"
    assert set(served(tmp_path).values()) == {"self-signed"} and len(pairs(tmp_path)) == 1
    certificate = leaf(tmp_path, "192.0.2.7")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == DOMAINS[:2]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(domain) for domain in DOMAINS[2:]]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert 365 <= (certificate.not_valid_after_utc - datetime.now(UTC)).days <= 366
    pair = tmp_path / "ssl/news/pairs" / pairs(tmp_path)[0]
    assert stat.S_IMODE((pair / "key.pem").stat().st_mode) == 0o600
    assert load_pem_private_key((pair / "key.pem").read_bytes(), None).public_key() == certificate.public_key()
    public = certificate.public_key()
    assert isinstance(public, EllipticCurvePublicKey) and public.curve.name == "secp256r1"
    assert (pair / "trust.conf").read_text() == "set $certificate_trusted 0;\n"
    assert sorted(path.name for path in pair.iterdir()) == ["fullchain.pem", "key.pem", "trust.conf"]
    assert not any(one.look for one in found.account())


def test_a_second_run_changes_nothing(run: Run, tmp_path: Path) -> None:
    run(acme="")
    before = pairs(tmp_path)
    assert run(list(reversed(DOMAINS)), acme="").changes == []
    assert pairs(tmp_path) == before


def test_check_makes_nothing_and_says_what_it_would(run: Run, world: World, tmp_path: Path) -> None:
    found = run(check=True)
    assert "news: a self-signed pair" in found.changes
    assert "news: the authority would be asked for news.example.org, www.news.example.org" in found.changes
    assert not (tmp_path / "ssl").exists() and not (tmp_path / "state.json").exists() and world.asked == []
    run()
    assert run(check=True).changes == []


def another_key(folder: Path) -> None:
    words = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(folder / "key.pem")]
    subprocess.run(words, check=True)


SPOILT: dict[str, Callable[[Path], object]] = {
    "the key does not fit": another_key,
    "the key is gone": lambda folder: (folder / "key.pem").unlink(),
    "the certificate is gone": lambda folder: (folder / "fullchain.pem").unlink(),
    "the certificate is cut off": lambda folder: (folder / "fullchain.pem").write_text("-----BEGIN CERTIFICATE-----"),
    "the key is empty": lambda folder: (folder / "key.pem").write_text(""),
    "what NGINX includes is gone": lambda folder: (folder / "trust.conf").unlink(),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_pair_is_replaced(run: Run, world: World, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    run(acme="")
    spoil(tmp_path / "ssl/news/pairs" / pairs(tmp_path)[0])
    assert run(acme="").changes
    assert world.reloads == 1, "NGINX goes on with the old one"
    assert run(acme="").changes == [] and world.reloads == 1


def test_a_key_that_somebody_opened_is_closed(run: Run, tmp_path: Path) -> None:
    run(acme="")
    key = tmp_path / "ssl/news/pairs" / pairs(tmp_path)[0] / "key.pem"
    key.chmod(0o644)
    assert run(acme="").changes == [f"{key}: for root alone"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and run(acme="").changes == []


def test_a_self_signed_pair_is_renewed_in_time(
    run: Run, world: World, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    run(acme="")
    clock((366 - 31) * 24 * HOUR)
    assert run(acme="").changes == []
    clock(2 * 24 * HOUR)
    assert run(acme="").changes and world.reloads == 1
    assert len(pairs(tmp_path)) == 2


def test_other_domains_make_another_self_signed_pair_and_what_is_gone_loses_its_link(run: Run, tmp_path: Path) -> None:
    run(acme="")
    run(["news.example.org", "new.example.org"], acme="")
    assert served(tmp_path) == {"news.example.org": "self-signed", "new.example.org": "self-signed"}
    run(["news.example.org"], acme="")
    assert len(pairs(tmp_path)) == 2, "more than the one in use and the one before it"
    assert run(["news.example.org"], acme="").changes == []


def name_in_nginx(folder: Path, *paths: str) -> None:
    """Have NGINX's live configuration name these pairs, as an app's site does."""
    site = folder / "nginx" / "sites" / "news.conf"
    site.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"    ssl_certificate {folder}/ssl/{path}/fullchain.pem;\n" for path in paths]
    site.write_bytes(b"# \xff is no UTF-8\n" + "".join(lines).encode())


def test_what_nginx_is_configured_with_is_kept_until_it_is_no_more(
    run: Run, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    run(["news.example.org", "2001:db8::7"], acme="")
    name_in_nginx(tmp_path, "news/served/news.example.org", "news/served/2001:db8::7")
    # The release of that run was refused, so the site is the old one; then the timer comes, again and again.
    for number in range(3):
        run([f"{number}.example.org"], acme="")
        assert set(served(tmp_path)) >= {"news.example.org", "2001:db8::7"}
        for domain in ("news.example.org", "2001:db8::7"):
            assert leaf(tmp_path, domain), "NGINX can't start without it"
    name_in_nginx(tmp_path, "news/served/2.example.org")
    run(["2.example.org"], acme="")
    assert set(served(tmp_path)) == {"2.example.org"} and len(pairs(tmp_path)) == 2


def test_what_nginx_is_configured_with_and_is_lost_is_made_anew(run: Run, tmp_path: Path) -> None:
    run(["news.example.org"], acme="")
    name_in_nginx(tmp_path, "news/served/news.example.org", "news/served/old.example.org", "shop/served/192.0.2.9")
    found = run(["news.example.org"], acme="", check=True)
    assert {"old.example.org: self-signed", "192.0.2.9: self-signed"} <= set(found.changes)
    assert not (tmp_path / "ssl" / "shop").exists()
    run(["news.example.org"], acme="")
    names = leaf(tmp_path, "old.example.org").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["old.example.org"]
    for part in ("fullchain.pem", "key.pem", "trust.conf"):
        assert (tmp_path / "ssl/shop/served/192.0.2.9" / part).is_file()
    assert run(["news.example.org"], acme="").changes == []


@pytest.mark.parametrize("length", [103, 253])
def test_a_long_name_is_no_problem(run: Run, length: int) -> None:
    # A common name has at most 64 characters, and a file's name 255.
    name = ".".join(["a" * 40, "b" * 50, "c" * 61, "d" * 50, "e" * 36, "example.org"])[-length:]
    assert len(name) == length and run([name], acme="").changes and run([name], acme="").changes == []


# --- an authority


def test_names_are_certified_together_and_addresses_are_self_signed(run: Run, world: World, tmp_path: Path) -> None:
    found = run()
    assert world.asked == [DOMAINS[:2]] and world.reloads == 1
    kinds = {**dict.fromkeys(DOMAINS[:2], "authority"), **dict.fromkeys(DOMAINS[2:], "self-signed")}
    assert served(tmp_path) == kinds
    trust = (tmp_path / "ssl/news/served/news.example.org/trust.conf").read_text()
    assert trust == "set $certificate_trusted 1;\n"
    assert [one.served for one in found.account()] == list(kinds.values())
    assert not any(one.look for one in found.account())
    again = run()
    assert again.changes == [] and len(world.asked) == 1 and world.reloads == 1
    assert list((tmp_path / "acme").rglob("*.*/*/*")) == [], "what we fetched ourselves is still there"
    for word in ("--webroot", "--force-renewal", "--allow-subset-of-names", "secp256r1"):
        assert word in world.words


def test_a_name_that_leads_elsewhere_keeps_no_other_waiting_and_joins_later(
    run: Run, world: World, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    world.astray = {"www.news.example.org"}
    found = run()
    assert world.asked == [["news.example.org"]]
    entry = found.account()[1]
    assert (entry.served, entry.look) == ("self-signed", True)
    assert entry.why == "http://www.news.example.org/ does not lead here (another server answers, with 404)"
    assert "next try at" in str(entry)
    # It is told at each run, and nothing changes.
    for seconds in (0, 50 * 60):
        clock(seconds)
        waiting = run()
        assert waiting.changes == [] and waiting.account()[1].next == entry.next
    clock(10 * 60)
    again = run()
    assert again.changes == [] and again.account()[1].next != entry.next, "it was not tried again"
    world.astray = set()
    assert run().changes == [], "the second failure has 6 hours"
    clock(6 * HOUR)
    run()
    assert world.asked[1:] == [DOMAINS[:2]]
    assert served(tmp_path)["www.news.example.org"] == "authority"
    assert run().changes == []


def test_by_force_nothing_waits(run: Run, world: World) -> None:
    world.astray = {"www.news.example.org"}
    run()
    world.astray = set()
    run(force=True)
    assert world.asked == [["news.example.org"], DOMAINS[:2]]
    # And what isn't due is renewed.
    run(force=True)
    assert len(world.asked) == 3


def test_a_name_that_the_authority_alone_cannot_reach_waits_as_well(run: Run, world: World, tmp_path: Path) -> None:
    world.refused = {"www.news.example.org"}
    found = run()
    assert served(tmp_path)["news.example.org"] == "authority"
    entry = found.account()[1]
    assert (
        entry.served == "self-signed" and "the authority can't reach it (connection: connection refused)" in entry.why
    )
    assert found.warnings == [] and run().changes == []


def test_names_that_the_authority_cannot_reach_at_all_wait_one_by_one(
    run: Run, world: World, clock: Callable[[float], None]
) -> None:
    world.refused = set(DOMAINS[:2])
    run()
    assert run().changes == [] and len(world.asked) == 1
    clock(HOUR)
    run()
    assert len(world.asked) == 2


def test_when_the_authority_is_down_what_is_served_goes_on(
    run: Run, world: World, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    run()
    before = served(tmp_path), pairs(tmp_path)
    world.down = "An unexpected error occurred:\nValueError: Requesting acme.example.org/directory: Connection refused"
    clock(61 * 24 * HOUR)
    found = run()
    assert found.changes == [] and (served(tmp_path), pairs(tmp_path)) == before and world.reloads == 1
    (warning,) = found.warnings
    assert f"news: {DIRECTORY} issued no certificate, and nothing was changed. It is asked again at " in warning
    assert "ValueError: Requesting acme.example.org/directory: Connection refused" in warning
    assert "Saving debug log" not in warning and "Ask for help" not in warning
    entry = found.account()[0]
    assert entry.served == "authority" and entry.look and "Connection refused" in entry.why
    # An hour, six, a day, and a day.
    asked = len(world.asked)
    for hours in (1, 6, 24, 24):
        clock((hours - 0.1) * HOUR)
        assert run().warnings == [] and len(world.asked) == asked, f"asked before {hours} h were over"
        clock(0.1 * HOUR)
        run()
        asked += 1
        assert len(world.asked) == asked
    world.down = ""
    clock(24 * HOUR)
    assert run().changes and world.reloads == 2
    assert read_state((tmp_path / "state.json").read_text())["news"].authority == Wait()


def test_a_first_certificate_that_was_forced_and_not_issued_is_an_error(run: Run, world: World, tmp_path: Path) -> None:
    world.down = "Error: unknown key identifier"
    assert run().warnings
    with pytest.raises(CertificateError, match=r"(?s)No certificate was issued for news.*unknown key identifier"):
        run(force=True)
    assert set(served(tmp_path).values()) == {"self-signed"}


def test_other_words_to_the_authority_are_tried_at_once(run: Run, world: World) -> None:
    world.down = "Error: an External Account Binding is required"
    run(acme=DIRECTORY)
    run(acme=DIRECTORY)
    assert len(world.asked) == 1
    world.down = ""
    assert run(acme=DIRECTORY, eab_kid="kid", eab_hmac_key="secret-key").changes
    assert world.binding == "eab-kid = kid\neab-hmac-key = secret-key\n"
    assert not any("secret-key" in word for word in world.words), "every account of the host could read it"
    assert not list(world.folder.rglob("binding.ini"))


REFUSED = "acme.messages.Error: urn:ietf:params:acme:error:{} :: no :: Account 1 not found\nmore\n"


def test_what_the_authority_said_is_told_where_certbot_hides_it(run: Run, world: World) -> None:
    run()
    world.log = REFUSED.format("rateLimited")
    world.asked = []
    (warning,) = run([*DOMAINS, "new.example.org"]).warnings
    assert "urn:ietf:params:acme:error:rateLimited :: no :: Account 1 not found" in warning
    assert len(world.asked) == 1


def test_an_authority_that_has_forgotten_the_account_gets_a_new_one(run: Run, world: World) -> None:
    run()
    world.log = REFUSED.format("accountDoesNotExist")
    world.asked = []
    found = run([*DOMAINS, "new.example.org"])
    assert found.warnings == [] and len(world.asked) == 2
    assert found.account()[4].served == "authority"


def test_another_authority_is_asked_at_once(run: Run, world: World, tmp_path: Path) -> None:
    run()
    (tmp_path / "ca.pem").write_text("x")
    run(acme="https://other.example.org/directory", ca_file=str(tmp_path / "ca.pem"))
    assert world.words[world.words.index("--server") + 1] == "https://other.example.org/directory"
    assert world.environment == {"REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem")}
    assert (
        len(world.asked) == 2
        and run(acme="https://other.example.org/directory", ca_file=str(tmp_path / "ca.pem")).changes == []
    )


def test_names_that_are_added_or_removed_make_another_certificate(run: Run, world: World, tmp_path: Path) -> None:
    run()
    more = [*DOMAINS, "new.example.org"]
    run(more)
    assert world.asked[-1] == [*DOMAINS[:2], "new.example.org"]
    assert served(tmp_path)["new.example.org"] == "authority"
    run(DOMAINS[:1])
    assert world.asked[-1] == DOMAINS[:1]
    names = leaf(tmp_path, "news.example.org").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == DOMAINS[:1]
    assert served(tmp_path) == {"news.example.org": "authority"}
    assert run(DOMAINS[:1]).changes == []


@pytest.mark.parametrize(
    ("days", "due"), [(90, 60), (6, 4)], ids=["30 days are left", "a third of a short life is left"]
)
def test_renewal_comes_when(run: Run, world: World, clock: Callable[[float], None], days: int, due: int) -> None:
    world.days = days
    run()
    clock((due - 0.1) * 24 * HOUR)
    assert run().changes == []
    clock(0.2 * 24 * HOUR)
    assert run().changes


def test_a_name_that_strayed_keeps_its_certificate_at_a_renewal_until_that_ends(
    run: Run, world: World, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    run()
    world.astray = {"www.news.example.org"}
    clock(61 * 24 * HOUR)
    found = run()
    assert world.asked[-1] == ["news.example.org"]
    assert served(tmp_path)["www.news.example.org"] == "authority"
    assert (tmp_path / "ssl/news/served/www.news.example.org").readlink() != (
        tmp_path / "ssl/news/served/news.example.org"
    ).readlink()
    assert found.account()[1].look
    clock(30 * 24 * HOUR)
    run()
    assert served(tmp_path)["www.news.example.org"] == "self-signed"


def test_an_authority_that_is_taken_out_leaves_its_certificate_until_it_ends(
    run: Run, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    run()
    found = run(acme="")
    assert found.changes == [] and "certificate_acme_directory is empty" in found.account()[0].why
    clock(91 * 24 * HOUR)
    run(acme="")
    assert set(served(tmp_path).values()) == {"self-signed"}


def test_an_app_with_nothing_but_addresses_asks_nobody(run: Run, world: World) -> None:
    run(DOMAINS[2:])
    run(DOMAINS[2:], force=True)
    assert world.asked == []


# --- the operator's own


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, str]:
    key, certificate = tmp_path / "own.key", tmp_path / "own.pem"
    make_pair(key, certificate, DOMAINS[:2], 100)
    return key.read_text(), certificate.read_text()


def test_an_own_pair_serves_all_domains_and_nobody_is_asked(
    run: Run, world: World, tmp_path: Path, own: tuple[str, str], clock: Callable[[float], None]
) -> None:
    assert "news: the operator's own pair" in run(own=own, check=True).changes
    assert not (tmp_path / "ssl").exists()
    found = run(own=own)
    assert set(served(tmp_path).values()) == {"own"} and world.asked == []
    assert run(own=own).changes == [] and not any(one.look for one in found.account())
    clock(71 * 24 * HOUR)
    assert all(one.look and "replace the files" in one.why for one in run(own=own).account())
    run(acme="")
    assert set(served(tmp_path).values()) == {"self-signed"} and world.reloads == 1


def test_an_own_pair_that_does_not_fit_changes_nothing(run: Run, tmp_path: Path, own: tuple[str, str]) -> None:
    another_key(tmp_path)
    with pytest.raises(CertificateError, match="news: key and certificate of the own pair don't fit together"):
        run(own=((tmp_path / "key.pem").read_text(), own[1]))
    assert not (tmp_path / "ssl/news/served").exists() or not list((tmp_path / "ssl/news/served").iterdir())


def test_an_own_chain_that_is_broken_changes_nothing(run: Run, tmp_path: Path, own: tuple[str, str]) -> None:
    make_pair(tmp_path / "other.key", tmp_path / "other.pem", ["x"], 100)
    for check in (True, False):
        with pytest.raises(CertificateError, match="news: the chain of its own certificate is broken"):
            run(own=(own[0], own[1] + (tmp_path / "other.pem").read_text()), check=check)
    assert not (tmp_path / "ssl").exists()


# --- NGINX


def test_an_nginx_that_does_not_take_a_certificate_up_is_an_error_with_its_log(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "PROOF_SECONDS", 0.1)
    run(acme="")
    world.deaf = True
    with pytest.raises(
        CertificateError, match=r"does not serve the certificate that it should for news\.example\.org, www"
    ):
        run()
    world.deaf = False
    # The next run sees to it.
    assert run().changes and world.serves == world.linked()


# --- the program


def test_the_program_renews_and_tells(
    run: Run, places: Places, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["renew"], world, places) == 1
    assert f"There is no {places.config}" in capsys.readouterr().err
    found = run(acme="")
    config = found.config
    places.config.write_text(Config(config.directory, config.days, config.apps, Acme(DIRECTORY)).text())
    assert main(["renew"], world, places) == 0
    assert f"news: a certificate of {DIRECTORY}" in capsys.readouterr().out
    assert main(["renew"], world, places) == 0
    assert capsys.readouterr().out == "", "a run that has nothing to do says something"
    assert main(["status"], world, places) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "news" and told[1].startswith("  news.example.org: authority until 20")
    assert told[3].startswith("  192.0.2.7: self-signed until 20") and told[3].endswith(": it is an address")
    assert main(["status", "--json"], world, places) == 0
    assert [one["served"] for one in json.loads(capsys.readouterr().out)] == ["authority"] * 2 + ["self-signed"] * 2
    world.down = "Error: gone"
    assert main(["renew", "--force"], world, places) == 0
    assert "Error: gone" in capsys.readouterr().out


# --- the module


def test_the_module_hides_keys_and_needs_nothing_on_the_host(run_module: Callable[..., Any], tmp_path: Path) -> None:
    make_pair(tmp_path / "own.key", tmp_path / "own.pem", DOMAINS[:1], 100)
    key = (tmp_path / "own.key").read_text()
    answer = run_module(
        "certificates", check=True, step="pairs", directory=str(tmp_path / "ssl"), days=366,
        apps=[{"name": "news", "domains": DOMAINS[:1]}, {"name": "other", "domains": DOMAINS[1:]}],
        own_chains={"news": (tmp_path / "own.pem").read_text()}, own_keys={"news": key}, acme_eab_hmac_key="c2VjcmV0",
    )  # fmt: skip
    assert answer["changed"] and not answer.get("failed"), answer
    assert "news: the operator's own pair" in answer["changes"] and "other: a self-signed pair" in answer["changes"]
    told = json.dumps(answer)
    assert key.splitlines()[1] not in told and "c2VjcmV0" not in told
    assert not (tmp_path / "ssl").exists()
