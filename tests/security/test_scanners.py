"""What scanners say that this project did not write: sslyze, testssl.sh, gixy, OpenSSL, an HTTP/3 client and h2load.

In the short form testssl.sh looks at one host, and leaves out what sslyze has tried on both: all versions and ciphers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
from conftest import app_of
from findings import Findings
from helpers import Ansible, App, Promised, as_root, inventory_name
from helpers_http import ask
from scans import Compared, Finding, gixy, h2load, http3, mozilla, sslyze, tls_scan
from testinfra.host import Host

FULL = bool(os.environ.get("FLASK_ON_METAL_FULL"))

# What sslyze says of the certificates of throw-away hosts, which no authority that the world trusts has issued.
NOT_OF_THE_PROFILE = {
    # A wrong name would be in this one as well: testssl.sh (cert_trust) and test_tls.py look at names.
    "certificate_path_validation": "it is self-signed, or of the tests' own authority",
}
# The modern profile wants more of a certificate than those of throw-away hosts have.
NOT_OF_THE_PROFILE_WHEN_MODERN = {
    "maximum_certificate_lifespan": "90 days are for an authority's; a self-signed one is for the first hour",
    "certificate_signatures": "the tests' own authority signs with RSA",
}

# Findings of testssl.sh above LOW that remain, and why.
REMAINING = {
    "cert_chain_of_trust": "throw-away hosts have no certificate of an authority that the world trusts",
    "cert_revocation": "a self-signed certificate names nobody to ask, and can't be revoked",
    "cipher_order": "Mozilla leaves the order to the client: all that is offered is strong, and a phone without"
    " AES in hardware does better with ChaCha20",
    "cipherlist_order": "the same",
    "engine_problem": "of the scanner's own OpenSSL: GOST ciphers can't be tried with it; sslyze tries them all",
    "BREACH": "pages are compressed; a secret beside what an attacker chose, in one page, is the app's to avoid",
    "HSTS": "not promised while the certificate is self-signed: a browser that keeps it would be locked out",
    "DNS_CAArecord": "a record of the operator's name server",
}
MILD = {"OK", "INFO", "LOW"}

# The same for gixy.
NOT_FOLLOWED = {
    "http2_misdirected_request": "it would have a server for unknown names answer with 421. That is for a browser which"
    " comes by a connection of another name that the certificate covers, and ours cover only names that are served;"
    " an unknown name gets no answer at all",
    "ssl_ecdh_curve": "it warns of an OpenSSL that doesn't know the group; ours is listed only where OpenSSL has it",
}

SHORT_PARTS = ("--server-preference", "--server-defaults", "--headers", "--vulnerable")


@pytest.fixture(scope="module")
def profile(promised: Promised) -> str:
    """Tell which of Mozilla's configurations the inventory promises."""
    return str(promised.options.get("nginx_tls", "intermediate"))


def scan_prober(promised: Promised) -> list[Finding]:
    """Have testssl.sh scan a host."""
    return tls_scan(promised.addresses[0], app_of(promised, "prober").canonical, *(() if FULL else SHORT_PARTS))


@pytest.fixture(scope="session")
def with_testssl(promises: dict[str, Promised]) -> Iterator[dict[str, Future[list[Finding]]]]:
    """Have testssl.sh scan while other tests go on: it does little but wait."""
    names = sorted(promises) if FULL else sorted(promises)[-1:]
    pool = ThreadPoolExecutor()
    yield {name: pool.submit(scan_prober, promises[name]) for name in names}
    pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def with_sslyze(promises: dict[str, Promised], with_testssl: object) -> dict[tuple[str, str], Compared]:
    """Have sslyze scan each app of each host, all at once."""
    jobs = {(host, app.name): (promised, app) for host, promised in promises.items() for app in promised.apps}

    def scan(job: tuple[Promised, App]) -> Compared:
        promised, app = job
        configuration = mozilla(str(promised.options.get("nginx_tls", "intermediate")))
        return sslyze(promised.addresses[0], app.canonical, configuration)

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(jobs, pool.map(scan, jobs.values()), strict=True))


HEADINGS = ["host", "app", "what is not as in the profile"]


def excused(profile: str) -> set[str]:
    """Tell what sslyze may find, for a reason that isn't the profile's."""
    return {*NOT_OF_THE_PROFILE, *(NOT_OF_THE_PROFILE_WHEN_MODERN if profile == "modern" else ())}


def test_sslyze_agrees_with_mozillas_profile(with_sslyze, promised: Promised, profile: str, findings: Findings) -> None:
    for app in promised.apps:
        issues = with_sslyze[promised.host, app.name].issues
        findings.add(
            f"sslyze against Mozilla's {profile} configuration 6.0", HEADINGS,
            [promised.host, app.name, "; ".join(issues.values()) or "nothing"],
        )  # fmt: skip
        assert not {name: text for name, text in issues.items() if name not in excused(profile)}, app.name


def test_early_data_is_refused(with_sslyze, promised: Promised) -> None:
    # What is sent in it can be sent again by somebody else.
    for app in promised.apps:
        assert with_sslyze[promised.host, app.name].seen["tls_1_3_early_data"]["supports_early_data"] is False, app.name


def test_strict_transport_security_is_for_trusted_certificates_alone(with_sslyze, promised: Promised, profile) -> None:
    for app in promised.apps:
        seen = with_sslyze[promised.host, app.name].seen
        header = seen["http_headers"]["strict_transport_security_header"]
        chain = seen["certificate_info"]["certificate_deployments"][0]["received_certificate_chain"]
        if chain[0]["subject"] == chain[0]["issuer"]:
            assert header is None, f"{app.name}: a browser would be locked out by a self-signed certificate"
        else:
            assert header and header["max_age"] >= mozilla(profile)["hsts_min_age"], f"{app.name}: {header}"


@pytest.mark.full_matrix  # it takes two runs on a host
def test_sslyze_agrees_with_mozillas_modern_profile(ansible: Ansible, promises: dict[str, Promised], findings) -> None:
    name = sorted(promises)[-1]
    promised = promises[name]
    one = replace(ansible, limit=f"{name},localhost")
    try:
        run = one.playbook("playbooks/site.yml", variables={"nginx_tls": "modern"})
        assert run.status == 0, run.output
        for app in promised.apps:
            issues = sslyze(promised.addresses[0], app.canonical, mozilla("modern")).issues
            told = "; ".join(issues.values()) or "nothing"
            findings.add("sslyze against Mozilla's modern configuration 6.0", HEADINGS, [name, app.name, told])
            assert not {issue: text for issue, text in issues.items() if issue not in excused("modern")}, app.name
    finally:
        run = one.playbook("playbooks/site.yml")
        assert run.status == 0, run.output


def test_gixy_finds_nothing_in_the_configuration(host: Host, findings: Findings) -> None:
    # The dump begins with a file's name; before it is what the test of it says.
    dump = as_root(host, "nginx -T 2>/dev/null")
    dump = dump[dump.index("# configuration file ") :]
    found = gixy(dump)
    for one in found:
        findings.add(
            "gixy", ["host", "finding", "text", "why it remains"],
            [inventory_name(host), one.identity, one.text, NOT_FOLLOWED.get(one.identity, "**it must not**")],
        )  # fmt: skip
    assert [one for one in found if one.identity not in NOT_FOLLOWED] == []


def test_nginx_itself_has_no_complaint(host: Host) -> None:
    said = as_root(host, "nginx -T 2>&1 >/dev/null || true")
    assert "test is successful" in said
    assert not {"[warn]", "[error]", "[emerg]"} & set(said.split())


def test_key_exchange_withstands_quantum_computers_where_openssl_has_it(host: Host, promised: Promised) -> None:
    script = """
      case "$(openssl version)" in "OpenSSL 3.0."*) groups=X25519 ;; *) groups=X25519MLKEM768 ;; esac
      echo "wanted $groups"
      # Asked for by name, and as what a client with all of OpenSSL's defaults ends up with.
      for options in "-groups $groups" ""; do
        openssl s_client $options -connect 127.0.0.1:443 -servername "$1" </dev/null 2>/dev/null |
          grep -oE '(Negotiated TLS1.3 group|Server Temp Key): [A-Za-z0-9]+'
      done
    """
    said = as_root(host, script, promised.apps[0].canonical).splitlines()
    wanted = said[0].removeprefix("wanted ")
    assert [line.rpartition(" ")[2] for line in said[1:]] == [wanted, wanted]


def test_http3_is_spoken_where_nginx_has_it(host: Host, promised: Promised, findings: Findings) -> None:
    has_it = "http_v3_module" in as_root(host, "nginx -V 2>&1")
    for app in promised.apps:
        offered = ask(promised.addresses[0], app.canonical, app.health_path).headers.get("alt-svc", "")
        findings.add("HTTP/3", ["host", "app", "NGINX has it", "Alt-Svc"], [promised.host, app.name, has_it, offered])
        if not has_it:
            assert offered == "", "what this NGINX can't do is offered"
            continue
        assert 'h3=":443"' in offered
        for address in (promised.addresses[0], *(one for one in promised.addresses if ":" in one)):
            answer = http3(address, app.canonical, app.health_path)
            assert answer.status == 200
            assert not answer.early_data


def test_load_over_http2_fails_nowhere(promised: Promised, findings: Findings) -> None:
    requests = 20_000 if FULL else 2_000
    app = app_of(promised, "prober")
    counts = h2load(promised.addresses[0], app.canonical, app.health_path, requests=requests, clients=20)
    findings.add(
        "h2load, 20 clients with 10 streams each", ["host", "requests", "succeeded", "failed", "per second"],
        [promised.host, requests, counts["succeeded"], requests - counts["succeeded"], counts["rate"]],
    )  # fmt: skip
    assert counts["h2"]
    assert (counts["succeeded"], counts["2xx"]) == (requests, requests)


def test_testssl_finds_nothing_above_low(with_testssl, promises: dict[str, Promised], findings: Findings) -> None:
    grave = {}
    for host, scan in with_testssl.items():
        found = scan.result()
        if any(one.severity == "WARN" and one.identity not in REMAINING for one in found):
            # A connection that came to nothing, while other tests kept the host busy. Once more, alone.
            found = scan_prober(promises[host])
        for one in found:
            if one.severity in MILD:
                continue
            # Ids of a certificate end in its number where there are several.
            known = REMAINING.get(one.identity.partition(" ")[0], "")
            findings.add(
                "testssl.sh: what is above LOW", ["host", "id", "severity", "finding", "why it remains"],
                [host, one.identity, one.severity, one.text, known or "**it must not**"],
            )  # fmt: skip
            if not known:
                grave[f"{host}: {one.identity}"] = f"{one.severity}: {one.text}"
    assert not grave
