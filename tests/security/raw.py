"""Requests as no browser writes them: bytes as they are, over HTTP/1 and HTTP/2."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from helpers_http import NoAnswerError, connect, context, handshake

# Seconds without a byte after which a server has said all that it will. What it waits for then is never sent.
PATIENCE = 1.0


@dataclass(frozen=True)
class Exchange:
    """What was answered, to bytes that were sent over one connection."""

    answer: bytes
    closed: bool
    client: str
    """Address of this end."""

    @property
    def statuses(self) -> list[int]:
        """The status of each answer, 100 (go on) left out."""
        found = [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d{3})\b", self.answer, re.MULTILINE)]
        return [status for status in found if status != 100]

    @property
    def text(self) -> str:
        """All of it as text."""
        return self.answer.decode("latin-1")


def exchange(address: str, name: str | None, sent: bytes, *, port: int = 443, tls: bool = True) -> Exchange:
    """Send bytes, and take what comes until the other end has nothing more to say.

    A name that TLS refuses is an answer of nothing.
    """
    try:
        sock: socket.socket = handshake(address, name, port=port) if tls else connect(address, port)
    except NoAnswerError:
        return Exchange(b"", True, "")
    with sock:
        client = str(sock.getsockname()[0])
        sock.settimeout(PATIENCE)
        with contextlib.suppress(OSError):  # it has seen enough and closes
            sock.sendall(sent)
        answer, closed = b"", False
        try:
            while more := sock.recv(65536):
                answer += more
            closed = True
        except TimeoutError:
            pass
        except OSError:
            closed = True
        return Exchange(answer, closed, client)


# --- HTTP/2, by hand: a library would refuse to send this

HEADERS, DATA, RST_STREAM, SETTINGS, GOAWAY = 1, 0, 3, 4, 7


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Write a frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(text: bytes) -> bytes:
    """Write a text of HPACK, not compressed (RFC 7541, 5.2)."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, length = len(text) - 127, bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    length.append(rest)
    return bytes(length) + text


def exchange2(address: str, name: str, headers: list[tuple[bytes, bytes]], body: bytes | None = None) -> Exchange:
    """Send one request over HTTP/2, header by header as it is written here."""
    block = b"".join(b"\x00" + literal(key) + literal(value) for key, value in headers)
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
    sent += frame(HEADERS, 4 if body is not None else 5, 1, block)
    if body is not None:
        sent += frame(DATA, 1, 1, body)
    with handshake(address, name, context(alpn=("h2",))) as sock:
        sock.settimeout(PATIENCE)
        answer, closed = b"", False
        try:
            sock.sendall(sent)
            while more := sock.recv(65536):
                answer += more
                if ended(answer):
                    break
            else:
                closed = True
        except (TimeoutError, ssl.SSLError, OSError) as error:
            closed = not isinstance(error, TimeoutError)
        return Exchange(answer, closed, str(sock.getsockname()[0]))


def frames(answer: bytes) -> Iterator[tuple[int, int, bytes]]:
    """List the frames that have come whole: kind, flags and payload."""
    while len(answer) >= 9 and len(answer) >= 9 + (length := int.from_bytes(answer[:3], "big")):
        yield answer[3], answer[4], answer[9 : 9 + length]
        answer = answer[9 + length :]


def ended(answer: bytes) -> bool:
    """Tell whether stream 1 has come to its end."""
    return any(
        kind in (RST_STREAM, GOAWAY) or (kind in (HEADERS, DATA) and flags & 1) for kind, flags, _ in frames(answer)
    )


# The statuses that HPACK has by number (RFC 7541, appendix A).
NUMBERED = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}


def statuses2(answer: bytes) -> list[int]:
    """List the statuses of answers over HTTP/2, as NGINX writes them: first of all, by number or in digits."""
    found = []
    for block in [payload for kind, _, payload in frames(answer) if kind == HEADERS]:
        block = block.lstrip(b"\x20")  # the size of a table, set to nothing
        found.append(NUMBERED[block[0]] if block[0] in NUMBERED else int(block[2:5]))
    return found
