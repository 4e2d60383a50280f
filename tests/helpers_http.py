"""A small HTTP client that says what it sends, down to the server name, and what came of it."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import time
import warnings
from dataclasses import dataclass, field


class NoAnswerError(Exception):
    """The server closed the connection, or refused the handshake, without an answer."""


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float
    fields: list[tuple[str, str]] = field(default_factory=list)
    """The headers as they came, each as often as it came; names in lower case."""

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


def is_address(domain: str) -> bool:
    """Tell whether a domain is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(domain)
    except ValueError:
        return False
    return True


def in_host_header(domain: str) -> str:
    """Write a domain or address as it stands in a Host header and in an address bar."""
    return f"[{ipaddress.ip_address(domain).compressed}]" if is_address(domain) and ":" in domain else domain


def context(
    *, oldest: ssl.TLSVersion | None = None, newest: ssl.TLSVersion | None = None, alpn: tuple[str, ...] = ()
) -> ssl.SSLContext:
    """Make a client that takes any certificate: which one it is, test_tls.py looks at."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if alpn:
        made.set_alpn_protocols(list(alpn))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if newest and newest < ssl.TLSVersion.TLSv1_2:
            # Else this side would refuse it, and nothing would be learnt about the other.
            made.set_ciphers("ALL:@SECLEVEL=0")
        if oldest:
            made.minimum_version = oldest
        if newest:
            made.maximum_version = newest
    return made


def connect(address: str, port: int, timeout: float = 10) -> socket.socket:
    """Open a connection; without one the test can't go on."""
    return socket.create_connection((address, port), timeout)


def handshake(address: str, name: str | None, tls: ssl.SSLContext | None = None, port: int = 443) -> ssl.SSLSocket:
    """Open a connection with TLS, asking for a name, or for none.

    Raises:
        NoAnswerError: the server refused; the text says how.
    """
    sock = connect(address, port)
    try:
        # Python sends no server name for an address, as browsers do.
        return (tls or context()).wrap_socket(sock, server_hostname=name)
    except (ssl.SSLError, ConnectionError) as error:
        sock.close()
        raise NoAnswerError(str(getattr(error, "reason", None) or error)) from error


def ask(
    address: str,
    domain: str,
    path: str = "/",
    *,
    method: str = "GET",
    tls: bool = True,
    name: str | None = None,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 10,
) -> Answer:
    """Ask the server at an address for a path of a domain, each time over a new connection.

    Args:
        address: who is asked.
        domain: what stands in the Host header.
        path: what is asked for.
        method: of HTTP.
        tls: port 443, or port 80.
        name: the server name of the handshake, if it is not the domain; "" for none.
        headers: more headers.
        body: what is sent.
        timeout: for each step, in seconds.

    Raises:
        NoAnswerError: there was none.
    """
    start = time.monotonic()
    sni = domain if name is None else name or None
    sock: socket.socket = handshake(address, sni) if tls else connect(address, 80)
    sock.settimeout(timeout)
    connection = http.client.HTTPConnection(address)
    connection.sock = sock
    try:
        # A server that has seen enough answers and closes while the rest is still being sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, {"Host": in_host_header(domain), **(headers or {})})
        # http.client forgets its socket when sending failed, but the answer may be there.
        response = http.client.HTTPResponse(sock, method=method)
        response.begin()
        content = response.read()
    except (http.client.BadStatusLine, ConnectionError, ssl.SSLError) as error:
        raise NoAnswerError(str(error)) from error
    finally:
        sock.close()
    fields = [(key.lower(), value) for key, value in response.getheaders()]
    return Answer(response.status, dict(fields), content, time.monotonic() - start, fields)
