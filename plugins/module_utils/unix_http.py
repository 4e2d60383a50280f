"""HTTP and the uwsgi protocol, for probes: whoever answers can't hold them up."""

from __future__ import annotations

import http.client
import secrets
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from ansible.module_utils.addresses import host_form

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

AGENT = "flask-on-metal-probe"
LARGEST = 256 * 1024
"""Bytes that are read of an answer: more than all headers that NGINX lets through, and the beginning of a body."""


@dataclass(frozen=True)
class Answer:
    """What the probe was told."""

    status: int  # 0: there was no answer
    text: str
    location: str = ""  # of a redirect

    @property
    def final(self) -> bool:
        """Whether an app that is well gives this answer, and will go on giving it: a redirect, or a refusal.

        Not final are 408, 425 and 429, which ask for another try.
        """
        return 300 <= self.status < 500 and self.status not in (408, 425, 429)

    @property
    def good(self) -> bool:
        """Whether the app says that it can do its work."""
        return self.status == 200


class ImpatientSocket(socket.socket):
    """A socket that reads up to a point in time and up to a size, whatever the server sends.

    Some servers drip, and http.client reads interim answers, chunks and trailers for as long as they come.
    """

    end = 0.0
    left = LARGEST

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """Read, or raise TimeoutError when the time is over, or OSError when it is too much."""
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        if self.left <= 0:
            raise OSError(f"more than {LARGEST // 1024} KB")
        self.settimeout(seconds)
        size = super().recv_into(buffer, nbytes or memoryview(buffer).nbytes, flags)
        self.left -= size
        return size


class ImpatientTLSSocket(ImpatientSocket, ssl.SSLSocket):
    """The same by TLS."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, host: str, seconds: float) -> None:
        """Note where to connect; `seconds` is the time for all of it."""
        super().__init__(host_form(host), timeout=seconds)  # IPv6: its end isn't a port
        self.path, self.end = path, time.monotonic() + seconds

    def connect(self) -> None:
        """Open the unix socket instead of a TCP connection."""
        self.sock = ImpatientSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.end = self.end
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class UwsgiConnection(UnixConnection):
    """The uwsgi protocol over a unix socket: a request by HTTPS as NGINX passes it on, and an answer in HTTP."""

    def request(
        self,
        method: str,
        url: str,
        body: object = None,
        headers: Mapping[str, object] | None = None,
        *,
        encode_chunked: bool = False,
    ) -> None:
        """Send a request without a body."""
        self.connect()
        self.sock.sendall(uwsgi_packet(as_nginx_says(method, host_form(self.host), url)))

    def getresponse(self) -> http.client.HTTPResponse:
        """Read the answer's status and headers."""
        response = http.client.HTTPResponse(self.sock, method="GET")
        response.begin()
        return response


def as_nginx_says(method: str, host: str, url: str) -> dict[str, bytes]:
    """Tell the variables of a request: those of NGINX's uwsgi_params, and of the app's site."""
    path, _, query = url.partition("?")
    texts = {
        "QUERY_STRING": query,
        "REQUEST_METHOD": method,
        "CONTENT_TYPE": "",
        "CONTENT_LENGTH": "",
        "REQUEST_URI": url,
        "REQUEST_PATH": path,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_SCHEME": "https",
        "HTTPS": "on",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "0",
        "SERVER_PORT": "443",
        "SERVER_NAME": host,
        "HTTP_HOST": host,
        "HTTP_USER_AGENT": AGENT,
        "HTTP_ACCEPT": "*/*",
        "HTTP_X_FORWARDED_FOR": "127.0.0.1",
        "HTTP_X_FORWARDED_PROTO": "https",
        "HTTP_X_FORWARDED_HOST": host,
        "HTTP_X_REQUEST_ID": secrets.token_hex(16),
    }
    return {**{name: text.encode("ascii") for name, text in texts.items()}, "PATH_INFO": unquote_to_bytes(path)}


def uwsgi_packet(variables: Mapping[str, bytes]) -> bytes:
    """Write variables down as uWSGI reads them: each name and value after its length."""
    words = [word for name, value in variables.items() for word in (name.encode("ascii"), value)]
    body = b"".join(struct.pack("<H", len(word)) + word for word in words)
    return struct.pack("<BHB", 0, len(body), 0) + body


def exchange(connection: http.client.HTTPConnection, url_path: str) -> Answer:
    """Send one GET over a connection, read the whole answer, and close it."""
    try:
        connection.request("GET", url_path, headers={"User-Agent": AGENT, "Connection": "close"})
        response = connection.getresponse()
        text = response.read(2000).decode(errors="replace").strip()
        return Answer(response.status, text, response.getheader("Location", ""))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(0, f"no answer ({error or type(error).__name__})")
    finally:
        connection.close()


def until_good(question: Callable[[float], Answer], seconds: float, *, patient: bool = True) -> Answer:
    """Ask until the answer is 200 or the time is over; returns the last answer.

    Args:
        question: asks once, and takes at most as many seconds as it is told.
        seconds: for all of it.
        patient: whether to go on when the answer is a final one.
    """
    end = time.monotonic() + seconds
    while True:
        answer = question(max(end - time.monotonic(), 0.1))
        if answer.good or (answer.final and not patient) or time.monotonic() + 0.1 >= end:
            return answer
        time.sleep(0.1)


def ask(path: Path, host: str, url_path: str, timeout: float) -> Answer:
    """Send one GET over a unix socket, and wait at most `timeout` seconds for the whole answer."""
    return exchange(UnixConnection(path, host, timeout), url_path)


def ask_until_good(path: Path, host: str, url_path: str, seconds: float) -> Answer:
    """Ask over a unix socket until the answer is 200 or the time (seconds) is over; returns the last answer."""
    return until_good(lambda left: ask(path, host, url_path, left), seconds)


def ask_app(path: Path, host: str, url_path: str, timeout: float) -> Answer:
    """Ask an app over a unix socket as NGINX does, and wait at most `timeout` seconds for the whole answer."""
    return exchange(UwsgiConnection(path, host, timeout), url_path)


def ask_app_until_good(path: Callable[[], Path], host: str, url_path: str, seconds: float) -> Answer:
    """Ask an app until its answer is 200 or another final one, or the time (seconds) is over; returns the last answer.

    Args:
        path: tells the socket to ask at, anew each time.
        host: that the request is for.
        url_path: what is asked for.
        seconds: for all of it.
    """
    return until_good(lambda left: ask_app(path(), host, url_path, left), seconds, patient=False)
