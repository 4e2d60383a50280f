"""What NGINX does with other options than the defaults: limits, a trusted proxy, headers, JSON, TLS 1.3, maintenance.

The machine that the tests run on is the trusted proxy meanwhile, so that it can speak for any client.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from typing import Any

import pytest
from helpers import Ansible, App, Promised, as_root, changed_apps
from helpers_http import Answer, NoAnswerError, ask, connect, context, handshake
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

WORKERS = "pgrep --parent \"$(cat /run/nginx.pid)\" --full 'nginx: worker'"
"""NGINX's other children look after kept pages; one of them ends a minute after a start."""
BURST = 10
CONNECTIONS = 4
PASSES_MAINTENANCE = "198.51.100.7"

OTHER: dict[str, Any] = {
    "headers": {"x-frame-options": "DENY", "X-Trial": 'it\'s "so"', "Permissions-Policy": ""},
    # So slow that none is added while a test runs.
    "limits": {"requests": 1, "burst": BURST, "connections": CONNECTIONS},
    "maintenance": {"addresses": [PASSES_MAINTENANCE, "2001:db8:7::/48"], "retry_after": 77},
}


@pytest.fixture(scope="module", autouse=True)
def changed(ansible: Ansible, promises: dict[str, Promised]) -> None:
    """Have all hosts do it differently. No other tests come after these (conftest.py)."""
    proxies = set()
    for promised in promises.values():
        with connect(promised.addresses[0], 443) as sock:
            proxies.add(str(sock.getsockname()[0]))
    variables = {
        **changed_apps(promises, lambda _, entry: entry | OTHER if entry["name"] == "newsboard" else entry),
        "nginx_access_log_format": "json",
        "nginx_tls": "modern",
        "nginx_trusted_proxies": sorted(proxies),
    }
    run = ansible.playbook("playbooks/site.yml", variables=variables)
    assert run.status == 0, run.output


@pytest.fixture
def board(promised: Promised) -> App:
    """Find the app whose options were changed."""
    return next(app for app in promised.apps if app.name == "newsboard")


def ask_as(client: str, promised: Promised, app: App, path: str = "/status", **headers: str) -> Answer:
    """Ask for a path as a proxy does that a client asked."""
    return ask(promised.addresses[0], app.canonical, path, headers={"X-Forwarded-For": client, **headers})


def test_client_that_asks_for_too_much_is_told_so_and_no_other(promised, board):
    answers = [ask_as("192.0.2.1", promised, board).status for _ in range(3 * BURST)]
    assert answers[: BURST + 1] == [200] * (BURST + 1), "a burst is answered"
    assert set(answers) == {200, 429}
    # The rate gives one back now and then.
    assert answers.count(429) > BURST
    assert ask_as("192.0.2.2", promised, board).status == 200


def test_addresses_of_one_ipv6_network_are_one_client(promised, board):
    answers = [ask_as(f"2001:db8:1:2::{number:x}", promised, board).status for number in range(3 * BURST)]
    assert 429 in answers
    assert ask_as("2001:db8:1:3::1", promised, board).status == 200


def test_client_with_too_many_requests_at_a_time_is_told_so_and_no_other(promised, board):
    address, head = promised.addresses[0], "POST /post HTTP/1.1\r\nHost: {}\r\nX-Forwarded-For: 192.0.2.3\r\n"
    with contextlib.ExitStack() as slow:
        for _ in range(CONNECTIONS):
            sock = slow.enter_context(handshake(address, board.names[0]))
            sock.sendall(f"{head.format(board.canonical)}Content-Length: 1000\r\n\r\nthe beginning".encode())
        time.sleep(0.3)
        assert ask_as("192.0.2.3", promised, board).status == 429
        assert ask_as("192.0.2.4", promised, board).status == 200


def test_headers_are_the_apps(promised, board):
    for path in ("/status", "/static/newsboard.css", "/.env"):
        answer = ask_as("192.0.2.5", promised, board, path)
        assert answer.headers["x-frame-options"] == "DENY", path
        assert answer.headers["x-trial"] == 'it\'s "so"', path
        assert "permissions-policy" not in answer.headers, path


def test_proxys_word_on_client_and_request_is_in_the_log_as_json(host, promised, board):
    nasty = 'a "quoted\\" agent'
    answer = ask_as(
        "192.0.2.6", promised, board, "/latest?of=json", **{"X-Request-ID": "a-proxy.s_id", "User-Agent": nasty}
    )
    assert answer.headers["x-request-id"] == "a-proxy.s_id"
    bad = ask_as("192.0.2.6", promised, board, **{"X-Request-ID": 'a b; "c" d'})
    assert len(bad.headers["x-request-id"]) == 32
    time.sleep(1.5)  # it is written once a second
    lines = [
        json.loads(line) for line in as_root(host, "tail -n 50 /var/log/nginx/access.log | grep '^{'").splitlines()
    ]
    line = next(line for line in lines if line["request_id"] == "a-proxy.s_id")
    wanted = {"client": "192.0.2.6", "method": "GET", "uri": "/latest?of=json", "status": 200, "user_agent": nasty}
    assert {name: line[name] for name in wanted} == wanted


def test_modern_profile_speaks_tls_1_3_alone(promised, board):
    address, name = promised.addresses[0], board.names[0]
    with handshake(address, name, context(oldest=ssl.TLSVersion.TLSv1_3)) as sock:
        assert sock.version() == "TLSv1.3"
    with pytest.raises(NoAnswerError, match="PROTOCOL_VERSION"):
        handshake(address, name, context(newest=ssl.TLSVersion.TLSv1_2))


def test_app_that_is_closed_says_when_to_come_back_and_lets_named_clients_in(
    ansible: Ansible, hosts: dict[str, Host], promises: dict[str, Promised]
):
    workers = {name: as_root(host, WORKERS) for name, host in hosts.items()}
    run = ansible.playbook("playbooks/maintenance.yml", variables={"maintenance": "on", "app": "newsboard"})
    assert run.status == 0, run.output
    try:
        for promised in promises.values():
            app = next(app for app in promised.apps if app.name == "newsboard")
            for path in ("/", "/static/newsboard.css", "/newest"):
                answer = ask_as("198.51.100.8", promised, app, path)
                assert (answer.status, answer.headers["retry-after"]) == (503, "77"), path
                assert answer.headers["x-frame-options"] == "DENY"
            assert ask_as("198.51.100.8", promised, app, app.health_path).status == 200
            assert ask_as(PASSES_MAINTENANCE, promised, app, "/").status == 200
            assert ask_as("2001:db8:7:1::1", promised, app, "/").status == 200
        again = ansible.playbook("playbooks/maintenance.yml", variables={"maintenance": "on", "app": "newsboard"})
        assert again.changed == []
    finally:
        run = ansible.playbook("playbooks/maintenance.yml", variables={"maintenance": "off", "app": "newsboard"})
        assert run.status == 0, run.output
    for name, host in hosts.items():
        app = next(app for app in promises[name].apps if app.name == "newsboard")
        assert ask_as("198.51.100.8", promises[name], app, "/").status == 200
        assert as_root(host, WORKERS) == workers[name], "NGINX was reloaded"
