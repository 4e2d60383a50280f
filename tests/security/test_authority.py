"""Certificates of a real authority: they come, change, are renewed and wait as promised, and are never lost.

The authority is pebble, on a throw-away host of its own: molecule/security has it.
"""

from __future__ import annotations

import base64
import datetime
import json
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from helpers import ROOT, Ansible, App, Promised, Run, as_it_is, as_root
from helpers_http import NoAnswerError, ask, handshake
from secret_forms import forms, found_in
from secret_search import search_hosts
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

APP = "newsboard"
SCENARIO = yaml.safe_load((ROOT / "molecule/security/inventory/group_vars/all/authority.yml").read_text())
STATE = "/var/lib/flask-on-metal/certificates.json"
PAIRS = f"/etc/ssl/flask-on-metal/{APP}/pairs"
TIMER_RUN = """
since=$(date '+%Y-%m-%d %H:%M:%S')
systemctl start flask-on-metal-certificates.service
journalctl --unit=flask-on-metal-certificates --since="$since" --output=cat --no-pager
"""
FORGET = f"""
cd {PAIRS}
for pair in *; do [ -n "$(find ../served -lname "../pairs/$pair")" ] || rm -r "$pair"; done
rm -rf /var/lib/flask-on-metal/certbot/config/accounts/*:14001
"""
"""Takes away what an earlier run of these tests left and a first one would not find."""
KEYS = ["name", "domains", "certificate"]
START_AUTHORITY = """
systemctl start pebble@plain
timeout 30 bash -c 'until 2>/dev/null >/dev/tcp/localhost/14000; do sleep 0.1; done'
"""
"""Started, it does not listen yet."""
WORKERS = "pgrep --parent \"$(cat /run/nginx.pid)\" --full 'nginx: worker' | sort"


@dataclass
class Stage:
    """The hosts, the authority, and ways to run things there."""

    ansible: Ansible
    hosts: dict[str, Host]
    promises: dict[str, Promised]
    authority: Host
    variables: dict[str, Any]

    def app(self, name: str) -> App:
        """Find the app on a host."""
        return next(app for app in self.promises[name].apps if app.name == APP)

    def address(self, name: str) -> str:
        """Tell a host's address."""
        return self.promises[name].addresses[0]

    # --- runs

    def site(self) -> Run:
        """Run site.yml with the domains of now, without the releases."""
        return self.ansible.playbook(
            "playbooks/site.yml",
            variables=self.variables,
            environment={"ANSIBLE_RUN_TAGS": "preflight,certificate,configure"},
        )

    def certificates(self, **more: Any) -> Run:
        """Run the role alone, as site.yml does."""
        role: dict[str, Any] = {"name": "certificate"}
        tasks = [{"name": "host", "tasks_from": "preflight"}, role, {**role, "tasks_from": "authority"}]
        play = {
            "hosts": "web",
            "become": True,
            "gather_facts": False,
            "vars": {"certificate_wanted": f"{{{{ flask_apps | community.general.keep_keys(target={KEYS}) }}}}"},
            "tasks": [{"import_role": task} for task in tasks],
        }
        return self.ansible.play([play], variables={**self.variables, **more})

    def everywhere(self, script: str, *words: str) -> dict[str, str]:
        """Have root run a script on all hosts at once."""
        return self.each(lambda name: as_root(self.hosts[name], script, *words))

    def each(self, do: Callable[[str], Any]) -> dict[str, Any]:
        """Do something for all hosts at once."""
        with ThreadPoolExecutor() as pool:
            return dict(zip(self.hosts, pool.map(do, self.hosts), strict=True))

    # --- what is there

    def served(self, name: str, domain: str) -> x509.Certificate:
        """Fetch the certificate that a host shows for a name, or for none where the domain is an address."""
        known = domain in self.promises[name].addresses
        with handshake(domain if known else self.address(name), None if known else domain) as sock:
            return x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")

    def fingerprints(self, label: str) -> dict[str, bytes]:
        """Tell for each host which certificate it shows for one of its names."""
        return {
            name: self.served(name, f"{label}.{name}.example.org").fingerprint(hashes.SHA256()) for name in self.hosts
        }

    def account(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Read by host and domain how each is served."""
        told = self.everywhere("certificates status --json")
        return {name: {one["domain"]: one for one in json.loads(text)} for name, text in told.items()}

    # --- what happens

    def domains(self, *labels: str) -> dict[str, Any]:
        """Say with variables that the app has other names; its addresses stay."""
        entries = {}
        for name in self.hosts:
            entry = {key: value for key, value in self.app(name).entry.reveal().items() if value is not None}
            names = [f"{label}.{name}.example.org" for label in labels]
            entries[name] = [{**entry, "domains": [*names, *self.app(name).addresses]}]
        return {"test_apps": as_it_is(entries), "flask_apps": "{{ test_apps[inventory_hostname] }}"}

    def age(self) -> dict[str, bytes]:
        """Put a certificate that is due in the place of the authority's, and tell which one; NGINX serves it."""
        script = f"""
          rm -r {PAIRS}/authority-*
          mkdir {PAIRS}/authority-000000000000
          cd {PAIRS}/authority-000000000000
          umask 077
          base64 -d <<<"$1" >key.pem; base64 -d <<<"$2" >fullchain.pem
          echo 'set $certificate_trusted 1;' >trust.conf
          for at in ../../served/*.example.org; do ln -sfn ../pairs/authority-000000000000 "$at"; done
          systemctl reload nginx; sleep 1
        """

        def one(name: str) -> bytes:
            names = [at for at in self.account_names(name) if at.endswith(".example.org")]
            key, certificate = make_pair(names, -70, 20)
            as_root(
                self.hosts[name], script, *(base64.b64encode(text.encode()).decode() for text in (key, certificate))
            )
            return x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256())

        return self.each(one)

    def account_names(self, name: str) -> list[str]:
        """List the domains that a host serves."""
        return as_root(self.hosts[name], f"ls /etc/ssl/flask-on-metal/{APP}/served").split()


def make_pair(
    names: list[str], begins: int = -1, ends: int = 100, above: tuple[str, str] | None = None, authority: bool = False
) -> tuple[str, str]:
    """Make a key and a certificate in PEM form, valid between two days from now, issued by itself or by another one."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    issuer = x509.load_pem_x509_certificate(above[1].encode()).subject if above else subject
    signer = x509_key(above[0]) if above else key
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret.decode(), made.public_bytes(Encoding.PEM).decode()


def x509_key(text: str) -> Any:
    """Read a key that `make_pair` made."""
    return load_pem_private_key(text.encode(), None)


def names_of(certificate: x509.Certificate) -> set[str]:
    """Tell the names that a certificate is for."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(found.get_values_for_type(x509.DNSName))


def issuer(certificate: x509.Certificate) -> str:
    """Tell who issued a certificate."""
    return str(certificate.issuer.rfc4514_string())


@pytest.fixture(scope="module")
def stage(ansible: Ansible, hosts: dict[str, Host], promises: dict[str, Promised]) -> Iterator[Stage]:
    """Set the stage; the tests after this module begin with a site.yml of the inventory's domains."""
    inventory = ansible.inventory or None
    if not all(
        any(app.name == APP and f"news.{name}.example.org" in app.domains for app in promised.apps)
        for name, promised in promises.items()
    ):
        pytest.fail("these tests are for the hosts of molecule/security", pytrace=False)
    (authority,) = testinfra.get_hosts(["ansible://authority"], ansible_inventory=inventory)
    made = Stage(ansible, hosts, promises, authority, {})
    made.everywhere(FORGET)
    yield made
    as_root(authority, START_AUTHORITY)
    made.everywhere(f"""sed -i 's/^.* \\(astray.*\\)$/{authority_address(made)} \\1/' /etc/hosts; rm -f {STATE}""")


def authority_address(stage: Stage) -> str:
    """Tell the authority's address."""
    return as_root(stage.authority, f"getent ahostsv4 {SCENARIO['acme_name']}").split()[0]


def pebble_root(stage: Stage) -> str:
    """Fetch the root that pebble made when it was started."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    url = f"https://{authority_address(stage)}:15000/roots/0"
    with urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
    ).open(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.full_matrix  # the scenarios default and cluster have it as a step
def test_second_run_changes_nothing(stage: Stage) -> None:
    run = stage.ansible.playbook("playbooks/site.yml")
    assert (run.status, run.changed) == (0, []), run.output


def test_first_certificates_are_ones_that_a_client_of_the_authority_trusts(stage: Stage) -> None:
    client = ssl.create_default_context(cadata=pebble_root(stage))
    for name in stage.hosts:
        for domain in stage.app(name).names:
            # Chain, name and time are checked by the client.
            with handshake(stage.address(name), domain, client) as sock:
                assert sock.version() == "TLSv1.3"
            certificate = stage.served(name, domain)
            assert names_of(certificate) == set(stage.app(name).names)
            key = certificate.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        for address in stage.app(name).addresses:
            certificate = stage.served(name, address)
            assert certificate.issuer == certificate.subject
    for account in stage.account().values():
        assert not [one for one in account.values() if one["look"]]


def test_names_come_and_go_and_one_that_leads_elsewhere_keeps_no_other_waiting(stage: Stage) -> None:
    stage.variables = stage.domains("news", "more", "astray")
    run = stage.site()
    assert run.status == 0, run.output
    for name in stage.hosts:
        certificate = stage.served(name, f"news.{name}.example.org")
        assert names_of(certificate) == {f"news.{name}.example.org", f"more.{name}.example.org"}
        assert stage.served(name, f"more.{name}.example.org") == certificate
        astray = stage.served(name, f"astray.{name}.example.org")
        assert astray.issuer == astray.subject
        assert f"astray.{name}.example.org: self-signed until " in run.output
        with pytest.raises(NoAnswerError):
            handshake(stage.address(name), f"www.{name}.example.org")
        assert f"www.news.{name}.example.org" not in stage.account_names(name)
    assert "/ does not lead here (connection refused); next try at " in run.output


def test_run_that_only_waits_changes_nothing(stage: Stage) -> None:
    before = stage.everywhere(f"{WORKERS}; cat {STATE}; ls -l {PAIRS} {PAIRS}/../served")
    run = stage.certificates()
    assert run.changed == []
    stage.everywhere(TIMER_RUN)
    assert stage.everywhere(f"{WORKERS}; cat {STATE}; ls -l {PAIRS} {PAIRS}/../served") == before
    assert "does not lead here" in run.output


def test_name_that_waits_joins_once_its_time_has_come(stage: Stage) -> None:
    before = stage.fingerprints("news")
    stage.each(
        lambda name: as_root(
            stage.hosts[name],
            """sed -i "s/^.* \\(astray[.]$2[.].*\\)$/$1 \\1/" /etc/hosts""",
            stage.address(name),
            name,
        )
    )
    stage.everywhere(TIMER_RUN)
    assert stage.fingerprints("news") == before, "it was tried before its time"
    # An hour goes by.
    for account in stage.account().values():
        (waiting,) = [one for one in account.values() if one["next"]]
        left = datetime.datetime.strptime(waiting["next"], "%Y-%m-%d %H:%M UTC").replace(tzinfo=datetime.UTC)
        minutes = (left - datetime.datetime.now(datetime.UTC)).total_seconds() / 60
        assert 50 < minutes <= 60
    stage.everywhere(f"""sed -i 's/"next": [0-9.]*/"next": 1/' {STATE}""")
    stage.everywhere(TIMER_RUN)
    for name in stage.hosts:
        certificate = stage.served(name, f"astray.{name}.example.org")
        assert names_of(certificate) == {f"{label}.{name}.example.org" for label in ("news", "more", "astray")}
        assert stage.served(name, f"news.{name}.example.org") == certificate


def test_timer_renews_what_is_due_and_reloads_nginx_for_that_alone(stage: Stage) -> None:
    due = stage.age()
    assert stage.fingerprints("news") == due
    workers = stage.everywhere(WORKERS)
    said = stage.everywhere(TIMER_RUN)
    after = stage.everywhere(WORKERS)
    for name in stage.hosts:
        assert "NGINX is reloaded for " in said[name]
        assert workers[name] != after[name]
        certificate = stage.served(name, f"news.{name}.example.org")
        assert issuer(certificate).startswith("CN=Pebble Intermediate")
    stage.everywhere(TIMER_RUN)
    assert stage.everywhere(WORKERS) == after, "NGINX was reloaded for nothing"


def test_timers_are_ours_alone(stage: Stage) -> None:
    for told in stage.everywhere(
        "systemctl is-active flask-on-metal-certificates.timer certbot.timer || true"
    ).values():
        assert told.split() == ["active", "inactive"]


def test_authority_that_is_down_costs_nothing(stage: Stage) -> None:
    due = stage.age()
    as_root(stage.authority, "systemctl stop pebble@plain")
    run = stage.certificates()
    assert run.status == 0, run.output
    assert "[WARNING]: newsboard: https://authority.example.org:14000/dir issued no certificate" in run.output
    assert "Connection refused" in run.output and "It is asked again at " in run.output
    assert stage.fingerprints("news") == due
    # The next run waits, and the account says so.
    waiting = stage.everywhere(TIMER_RUN)
    assert all("issued no certificate" not in said for said in waiting.values()), waiting
    for name, account in stage.account().items():
        one = account[f"news.{name}.example.org"]
        assert one["look"] and "Connection refused" in one["why"] and one["next"]
    # One that is set up anew knows nobody.
    as_root(stage.authority, START_AUTHORITY)
    said = stage.everywhere("certificates renew --force")
    assert all(fingerprint != due[name] for name, fingerprint in stage.fingerprints("news").items()), said


# --- the operator's own


@pytest.fixture
def own(stage: Stage, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Say with variables that the app has a pair of its own."""

    def write(key: str, chain: str, label: str = "own") -> dict[str, Any]:
        for part, text in (("key", key), ("fullchain", chain)):
            (tmp_path / f"{label}.{part}").write_text(text)
        entries = stage.domains("news", "more", "astray")
        for apps in entries["test_apps"].values():
            # Addresses are in no certificate of this test.
            apps[0]["domains"] = as_it_is([domain for domain in apps[0]["domains"] if domain.endswith(".example.org")])
            apps[0]["certificate"] = as_it_is(
                {"key": f"{tmp_path}/{label}.key", "fullchain": f"{tmp_path}/{label}.fullchain"}
            )
        return entries

    return write


@pytest.fixture
def names(stage: Stage) -> list[str]:
    return [f"{label}.{name}.example.org" for name in stage.hosts for label in ("news", "more", "astray")]


def test_own_pair_is_served_and_its_key_is_nowhere_in_the_output(
    stage: Stage, own: Callable[..., dict[str, Any]], names: list[str]
) -> None:
    before = stage.fingerprints("news")
    top = make_pair(["Authority of the operator"], authority=True)
    key, certificate = make_pair(names, above=top)
    variables = own(key, certificate + top[1])
    quiet = replace(stage, variables=variables)
    run = quiet.certificates()
    wanted = x509.load_pem_x509_certificate(certificate.encode())
    assert all(
        stage.served(name, f"{label}.{name}.example.org") == wanted
        for name in stage.hosts
        for label in ("news", "more")
    )
    secret = key.splitlines()[1]
    assert secret not in run.output
    told = stage.everywhere('stat --format="%U %a" /etc/ssl/flask-on-metal/$1/served/news.*/key.pem', APP)
    assert set(told.values()) == {"root 600\n"}
    # And back: the authority's was kept.
    stage.certificates()
    assert stage.fingerprints("news") == before


def test_own_pairs_that_are_not_good_are_refused_before_anything_is_touched(
    stage: Stage, own: Callable[..., dict[str, Any]], names: list[str]
) -> None:
    top = make_pair(["Authority of the operator"], authority=True)
    middle = make_pair(["Authority in between"], above=top, authority=True)
    key, certificate = make_pair(names, above=middle)
    chain = certificate + middle[1] + top[1]
    expired = make_pair(names, -100, -10, above=top)
    bad = {
        "key": (own(make_pair(names)[0], chain, "key"), "it doesn't fit the first certificate"),
        "names": (own(*make_pair(["other.example.org"]), "names"), f"it doesn't name {names[0]}"),
        "expired": (own(expired[0], expired[1] + top[1], "expired"), "expired on "),
        "incomplete": (
            own(key, certificate, "incomplete"),
            "it is incomplete: CN=Authority in between issued its last",
        ),
        "disordered": (own(key, certificate + top[1] + middle[1], "disordered"), "its order is broken: after CN="),
    }
    before = stage.everywhere(f"{WORKERS}; ls -l {PAIRS} {PAIRS}/../served")
    with ThreadPoolExecutor(max_workers=2) as pool:
        runs = list(pool.map(lambda one: stage.ansible.playbook("playbooks/site.yml", variables=one[0]), bad.values()))
    for run, (kind, (_, message)) in zip(runs, bad.items(), strict=True):
        assert run.status != 0, kind
        assert message in run.output, run.output
        assert "flask_apps[0].certificate." in run.output and "No host was touched." in run.output
        assert not [entry for entry in run.record if entry["reached"]], "a host was reached"
    assert stage.everywhere(f"{WORKERS}; ls -l {PAIRS} {PAIRS}/../served") == before


def test_external_account_binding(stage: Stage) -> None:
    bound = {"certificate_acme_directory": "https://authority.example.org:14001/dir"}
    before = stage.fingerprints("news")
    run = stage.certificates(**bound)
    assert "issued no certificate, and nothing was changed" in run.output
    assert "Server requires external account binding" in run.output
    assert stage.fingerprints("news") == before
    secret = SCENARIO["acme_eab_hmac_key"]
    run = stage.certificates(
        **bound, certificate_acme_eab_kid=SCENARIO["acme_eab_kid"], certificate_acme_eab_hmac_key=secret
    )
    assert not found_in(run.output, forms(secret)) and "[WARNING]" not in run.output
    assert all(fingerprint != before[name] for name, fingerprint in stage.fingerprints("news").items())
    stored = stage.everywhere("grep -c eab_hmac_key /etc/flask-on-metal/certificates.json")
    assert set(stored.values()) == {"1\n"}, "it is not where it has to be, so that the search would find nothing"
    texts = {name: {"root": sorted(forms(secret))} for name in stage.hosts}
    assert search_hosts(stage.ansible, texts) == {name: [] for name in stage.hosts}


def test_http_of_a_challenge_is_answered_without_a_redirect(stage: Stage) -> None:
    for name in stage.hosts:
        answer = ask(stage.address(name), f"news.{name}.example.org", "/.well-known/acme-challenge/none", tls=False)
        assert answer.status == 404
