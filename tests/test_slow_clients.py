"""Slow clients hold nobody up but themselves."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import App, Promised
from helpers_http import ask, connect, handshake

SLOW = 50
# A connection that is in nobody's way is answered in milliseconds; only a real stall takes as long as this.
CEILING = 1.0


@pytest.mark.parametrize("how", ["half a header", "half a body", "handshake that is never made"])
def test_fifty_slow_clients_delay_nobody(how, promised: Promised, apps: list[App]):
    address, app = promised.addresses[0], apps[0]
    name = app.names[0] if app.names else None
    with contextlib.ExitStack() as slow:
        for _ in range(SLOW):
            if how == "handshake that is never made":
                slow.enter_context(connect(address, 443))
                continue
            sock = slow.enter_context(handshake(address, name))
            method, more = (
                ("POST", "Content-Length: 1000\r\n\r\nthe beginning") if how == "half a body" else ("GET", "X-")
            )
            sock.sendall(f"{method} {app.health_path} HTTP/1.1\r\nHost: {app.canonical}\r\n{more}".encode())
        time.sleep(0.2)  # they have all arrived
        answers = [ask(address, app.canonical, app.health_path) for _ in range(20)]
    assert {answer.status for answer in answers} == {200}
    assert max(answer.seconds for answer in answers) < CEILING


def test_client_that_never_finishes_its_header_is_let_go(promises: dict[str, Promised]):
    def seconds(promised: Promised) -> float:
        """Until this host closes the connection."""
        app = promised.apps[0]
        with handshake(promised.addresses[0], app.names[0] if app.names else None) as sock:
            start = time.monotonic()
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {app.canonical}\r\nX-".encode())
            sock.settimeout(promised.options["nginx_client_timeout"] * 2 + 5)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
            return time.monotonic() - start

    if any(one.options["nginx_client_timeout"] > 20 for one in promises.values()):
        pytest.skip("nginx_client_timeout is longer than 20 s, which is too long to wait for here")
    # All hosts at once, since it is nothing but waiting.
    with ThreadPoolExecutor() as pool:
        for promised, took in zip(promises.values(), pool.map(seconds, promises.values()), strict=True):
            assert took == pytest.approx(promised.options["nginx_client_timeout"], abs=3)
