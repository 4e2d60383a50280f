"""Headers of answers: what protects a visitor is there once, and what NGINX is asked for is what it is."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from cryptography import x509
from helpers import App, Promised, as_root
from helpers_http import Answer, ask, handshake
from testinfra.host import Host

pytestmark = pytest.mark.tier("web", "balancer")

HSTS = "strict-transport-security"

# What may stand in an answer more than once (RFC 9110, 5.3, and RFC 6265, 3).
LISTS = {"set-cookie", "vary", "link", "cache-control", "server-timing"}


@pytest.fixture(scope="module")
def answers(promised: Promised, apps: list[App]) -> dict[str, tuple[App, Answer]]:
    """Ask each app for one answer of each kind."""
    address, found = promised.addresses[0], {}
    for app in apps:
        paths = {"page": "/", "health": app.health_path, "missing page": "/no/such/page", "dot-file": "/.env"}
        paths |= {f"missing file of {prefix}": f"{prefix}no-such-file" for prefix in app.static}
        for what, path in paths.items():
            found[f"{app.name}: {what}"] = app, ask(address, app.canonical, path)
        if app.names[1:]:
            found[f"{app.name}: redirect"] = app, ask(address, app.names[1])
    return found


def expected(promised: Promised, app: App) -> dict[str, str]:
    """List the headers that the inventory promises for an app's answers, without what depends on the certificate."""
    common = {name.lower(): str(value) for name, value in promised.options["nginx_headers"].items()}
    own = {name.lower(): str(value) for name, value in app.headers.items()}
    return {name: value for name, value in (common | own).items() if value and name != HSTS}


def test_every_answer_has_the_headers_that_protect_a_visitor(answers, promised):
    for what, (app, answer) in answers.items():
        missing = {name for name in expected(promised, app) if name not in answer.headers}
        assert not missing, f"{what} has no {missing}"


def test_headers_are_the_inventorys_where_nginx_itself_answers(answers, promised):
    for what, (app, answer) in answers.items():
        if "dot-file" in what or "redirect" in what:
            for name, value in expected(promised, app).items():
                assert answer.headers[name] == value, what


def test_no_header_is_sent_twice(answers):
    for what, (_, answer) in answers.items():
        often = {name for name, count in Counter(name for name, _ in answer.fields).items() if count > 1}
        assert not often - LISTS, what


def test_hsts_is_sent_with_a_certificate_that_browsers_trust_and_with_no_other(promised, apps):
    for app in apps:
        common = {name.lower(): value for name, value in promised.options["nginx_headers"].items()}
        wanted = (common | {name.lower(): value for name, value in app.headers.items()}).get(HSTS, "")
        for domain in app.domains:
            address = domain if domain in app.addresses else promised.addresses[0]
            with handshake(address, domain if domain in app.names else None) as sock:
                certificate = x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")
            answer = ask(address, domain, app.health_path)
            if certificate.issuer == certificate.subject:
                assert HSTS not in answer.headers, f"{domain} would lock its visitors out"
            else:
                assert bool(answer.headers.get(HSTS)) == bool(wanted), domain


def test_what_begins_with_a_dot_is_not_served(promised, apps):
    for app in apps:
        paths = ["/.git/config", "/.env", "/a/.htpasswd", "/%2eenv", "/.%67it/config", "/a/%2E%68tpasswd", "/a//.env"]
        for prefix in app.static:
            paths += [f"{prefix}.env", f"{prefix}%2eenv", f"{prefix}.git/config"]
        for path in paths:
            assert ask(promised.addresses[0], app.canonical, path).status == 404, path


def test_http3_is_announced_where_nginx_has_it(host: Host, answers, promised):
    there = promised.options["nginx_http3"] and int(as_root(host, ". /etc/os-release; echo $VERSION_ID")) >= 13
    for what, (_, answer) in answers.items():
        assert answer.headers.get("alt-svc", "").startswith('h3=":443"') == bool(there), what


def test_request_has_an_id_of_our_own_that_is_in_the_log(host: Host, promised, apps):
    for app in apps:
        path = f"/{app.name}-is-asked-for-this-by-a-test"
        spoofed = "0" * 32
        answer = ask(promised.addresses[0], app.canonical, path, headers={"X-Request-ID": spoofed})
        again = ask(promised.addresses[0], app.canonical, path)
        ids = [answer.headers["x-request-id"], again.headers["x-request-id"]]
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
        assert len({*ids, spoofed}) == 3
        if promised.options["nginx_access_log"]:
            time.sleep(1.5)  # it is written once a second
            lines = as_root(host, 'tail -n 2000 /var/log/nginx/access.log | grep -F "$1"', path)
            assert all(one in lines for one in ids)
            assert spoofed not in lines
