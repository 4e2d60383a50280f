"""HTTP for probes: whoever answers can't hold them up."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LARGEST = 256 * 1024
"""Bytes that are read of an answer: more than all headers that NGINX lets through, and the beginning of a body."""


@dataclass(frozen=True)
class Answer:
    """What the probe was told."""

    status: int  # 0: there was no answer
    text: str

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
        super().__init__(host, timeout=seconds)
        self.path, self.end = path, time.monotonic() + seconds

    def connect(self) -> None:
        """Open the unix socket instead of a TCP connection."""
        self.sock = ImpatientSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.end = self.end
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def exchange(connection: http.client.HTTPConnection, url_path: str) -> Answer:
    """Send one GET over a connection, read the whole answer, and close it."""
    try:
        connection.request("GET", url_path, headers={"User-Agent": "flask-on-metal-probe", "Connection": "close"})
        response = connection.getresponse()
        return Answer(response.status, response.read(2000).decode(errors="replace").strip())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(0, f"no answer ({error or type(error).__name__})")
    finally:
        connection.close()


def until_good(question: Callable[[float], Answer], seconds: float) -> Answer:
    """Ask until the answer is 200 or the time is over; returns the last answer.

    Args:
        question: asks once, and takes at most as many seconds as it is told.
        seconds: for all of it.
    """
    end = time.monotonic() + seconds
    while True:
        answer = question(max(end - time.monotonic(), 0.1))
        if answer.good or time.monotonic() + 0.1 >= end:
            return answer
        time.sleep(0.1)


def ask(path: Path, host: str, url_path: str, timeout: float) -> Answer:
    """Send one GET over a unix socket, and wait at most `timeout` seconds for the whole answer."""
    return exchange(UnixConnection(path, host, timeout), url_path)


def ask_until_good(path: Path, host: str, url_path: str, seconds: float) -> Answer:
    """Ask over a unix socket until the answer is 200 or the time (seconds) is over; returns the last answer."""
    return until_good(lambda left: ask(path, host, url_path, left), seconds)
