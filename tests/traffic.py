"""Traffic on an app while its releases change: open loop, no retries, every failure with its time.

It runs as a process of its own, so that a busy pytest doesn't disturb its timing:

    with Traffic(address, domain) as traffic:
        ...  # release
    assert traffic.report.failed == []

HTTP/1.1 is spoken by the client below. Ready-made ones ask again, unseen, when a server closes a kept
connection, and what is measured here is just that: every close is seen, and counted for what it is.

Open loop means that request n is due at start + n / rate whatever became of those before it; see
flask_on_metal.simulate.load. By hand, with Ctrl-D to stop it:

    PYTHONPATH=src .venv/bin/python tests/traffic.py 192.0.2.10 news.example.org
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import aiohttp
from helpers_http import is_address
from yarl import URL

from flask_on_metal.simulate.content import Content
from flask_on_metal.simulate.load import OneAddress, Outcome, percentile
from flask_on_metal.simulate.readback import PAGE_TIMEOUT, ReadBack, Reader, read_back

LEAD = 0.05
"""Seconds between the start of the clock and the first request, so that the first isn't late by its setup."""

FIRST_ANSWERS = 5
"""So many answers of 200 show that there is traffic."""

MAX_IDLE = 32
"""Kept connections that wait for a request, at most."""

SHUTDOWN_TIMEOUT = 2.0
"""Seconds that a server has to say goodbye in TLS before its connection is dropped."""

READ_BACK_TIMEOUT = 120.0
"""Seconds in which the read-back has to be done."""

WAIT_PATH = "/trial/wait?seconds=1"

# What is asked for, by the request's number: of 50, ten posts, one wait, two pages and 37 numbers. Those cost the
# server little: on two cores the load must not be what stalls.
CYCLE = ("/latest", "/latest", "/latest", "/latest", "/post") * 10
CYCLE = ("/", *CYCLE[1:23], WAIT_PATH, CYCLE[24], "/newest", *CYCLE[26:])


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without an answer of 200, read to its end. Times are in seconds since the start."""

    number: int
    kind: str
    """connect, tls, timeout, status, incomplete (broken off, or not HTTP), closed (before the first byte)."""
    path: str
    connection: str
    """"fresh", of its own, or "kept"."""
    begun: float
    ended: float
    status: int | None
    """Of the answer, where there was one."""


@dataclass(slots=True)
class Version:
    """What answered, by the header X-Trial. Times are in seconds since the start."""

    code: str
    library: str
    count: int
    first: float
    """When the first answer had arrived in full."""
    last: float


@dataclass(frozen=True, slots=True)
class Posts:
    """What became of the posts that were answered with 200. Unknown is None, never 0."""

    accepted: int
    lost: int | None
    altered: int | None
    complete: bool
    """Whether everything could be read back."""
    reason: str = ""
    """Why not."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known after a run. Times are in seconds."""

    sent: int
    failed: list[Failure]
    kept_closes: int
    """Closed before the first byte of an answer, on a kept connection that had been used before.

    That is how HTTP/1.1 ends such connections, when it happens to cross a request, and a browser asks again.
    They are not among the failed.
    """
    stall: float
    """The longest time in which requests other than the waits were due, and nothing at all was answered."""
    slowest: float
    """From due to answered with 200, of the requests that aren't waits."""
    p99: float
    versions: list[Version]
    """In the order in which they appeared first: pairs of code and library."""
    out_of_order: int
    """Answers of one version to requests that began after the first answer of a later one had arrived."""
    mixed: int
    """Pairs of code and library beyond one for each code."""
    posts: Posts
    peak_in_flight: int
    own_lag: float
    """The longest time from due to begun: this client's own fault."""
    cpu: float
    """The share of one processor that this client used while it sent."""
    seconds: float
    """How long it sent."""
    limited: bool
    """Whether it stopped by itself, after the longest time allowed."""

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `as_json` wrote."""
        data = json.loads(text)
        if set(data) != {one.name for one in fields(cls)}:
            raise ValueError(f"not a report: {text[:200]!r}")
        data["failed"] = [Failure(**one) for one in data["failed"]]
        data["versions"] = [Version(**one) for one in data["versions"]]
        data["posts"] = Posts(**data["posts"])
        return cls(**data)

    def as_json(self) -> str:
        """Write it in one line."""
        return json.dumps(asdict(self))


# --- HTTP ------------------------------------------------------------------------------------------------------------


class NoAnswerError(Exception):
    """A request came to nothing; `kind` is as in Failure."""

    def __init__(self, kind: str) -> None:
        """Name the kind."""
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    trial: str
    """The header X-Trial, or nothing."""


class Parser:
    """Takes the bytes of one answer as they come."""

    def __init__(self) -> None:
        """Nothing has come."""
        self.begun = False
        self.keep = False
        """Whether the server keeps the connection; known at the end."""
        self._buffer = bytearray()
        self._answer: Answer | None = None
        self._chunked = self._trailer = False
        self._length = 0
        """Bytes of the body, or of the chunk under way with its line end, that must come yet."""

    def feed(self, data: bytes) -> Answer | None:
        """Take bytes, and return the answer once it is whole.

        Raises:
            ValueError: this is not HTTP/1.1, or doesn't tell its length.
        """
        self.begun = True
        self._buffer += data
        while self._answer is None:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return None
            self._buffer = rest
            self._read_head(head.decode("latin-1"))
        if not (self._chunks_done() if self._chunked else self._skip()):
            return None
        # Whatever comes after the answer, nobody asked for it.
        self.keep = self.keep and not self._buffer
        return self._answer

    def _read_head(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        protocol, status, *_ = [*first.split(" ", 2), ""]
        if protocol != "HTTP/1.1" or not (status.isascii() and status.isdigit() and len(status) == 3):
            raise ValueError(f"no status line: {first[:80]!r}")
        if status.startswith("1"):
            return  # an interim answer; the real one follows
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        if not self._chunked and status not in ("204", "304"):
            # Without either, the end of the connection is the end of the answer, and a cut one looks the same.
            self._length = int(headers["content-length"]) if "content-length" in headers else _no_length()
        self.keep = "close" not in headers.get("connection", "").lower()
        self._answer = Answer(int(status), headers.get("x-trial", ""))

    def _skip(self) -> bool:
        """Drop what has come of the bytes expected, and tell whether that was all of them."""
        here = min(self._length, len(self._buffer))
        del self._buffer[:here]
        self._length -= here
        return self._length == 0

    def _chunks_done(self) -> bool:
        while self._skip():
            line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                return False
            self._buffer = rest
            if self._trailer:
                if not line:
                    return True
                continue
            size = int(line.partition(b";")[0], 16)
            self._trailer = size == 0
            self._length = size + 2 if size else 0
        return False


def _no_length() -> int:
    raise ValueError("the answer doesn't tell its length")


class Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self) -> None:
        """Not connected yet."""
        self.answers = 0
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._parser = Parser()
        self._waiting: asyncio.Future[Answer] | None = None
        self._ended = ""
        """What the end of the connection was for the request under way, or is for the next one."""

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            NoAnswerError: tls, incomplete or closed.
        """
        assert self._transport
        if self._ended:
            raise NoAnswerError(self._ended)
        self._parser = Parser()
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        """Say goodbye, whatever it takes."""
        self.usable = False
        if self._transport:
            self._transport.close()

    def abort(self) -> None:
        """Drop it at once."""
        self.usable = False
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start, after the handshake."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        if self._waiting is None or self._waiting.done():
            self.abort()  # an answer that nobody asked for, such as a 408
            return
        try:
            answer = self._parser.feed(data)
        except ValueError:
            self._fail("incomplete")
            self.abort()
            return
        if answer:
            self.answers += 1
            self.usable = self.usable and self._parser.keep
            self._waiting.set_result(answer)

    def eof_received(self) -> None:
        """End: there is no answer to come."""
        self.usable = False
        self._fail("incomplete" if self._parser.begun else "closed")

    def connection_lost(self, error: Exception | None) -> None:
        """End, orderly or not."""
        self.usable = False
        if isinstance(error, ssl.SSLError):
            self._fail("tls")
        else:
            self._fail("incomplete" if self._parser.begun else "closed")

    def _fail(self, kind: str) -> None:
        self._ended = self._ended or kind
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(NoAnswerError(kind))


class Connections:
    """Opens connections to one server, and keeps those that can be used again."""

    def __init__(self, address: str, port: int, name: str) -> None:
        """Connect to this address and port; `name` is the server name of the handshake, "" for none."""
        family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        self._family, self._kind, self._where = family, kind, where
        self._name = name
        self._tls = tls_without_trust()
        self._idle: deque[Connection] = deque()

    async def open(self) -> Connection:
        """Open a connection.

        Raises:
            NoAnswerError: connect or tls.
        """
        loop = asyncio.get_running_loop()
        try:
            sock = socket.socket(self._family, self._kind)
        except OSError as error:
            raise NoAnswerError("connect") from error
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, self._where)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise NoAnswerError("connect") from error
            raise
        try:
            _, connection = await loop.create_connection(
                Connection, sock=sock, ssl=self._tls, server_hostname=self._name, ssl_shutdown_timeout=SHUTDOWN_TIMEOUT
            )
        except OSError as error:
            raise NoAnswerError("tls") from error
        return connection

    async def take(self) -> Connection:
        """Take the kept connection that has been idle longest, or open one."""
        while self._idle:
            connection = self._idle.popleft()
            if connection.usable:
                return connection
        return await self.open()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for another request, if it can be."""
        if connection.usable and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Drop what is idle."""
        while self._idle:
            self._idle.popleft().abort()


def tls_without_trust() -> ssl.SSLContext:
    """Make a client that takes any certificate, since test hosts sign their own."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


# --- the account -----------------------------------------------------------------------------------------------------


class Account:
    """What became of the requests. Times are those of the event loop, in seconds."""

    def __init__(self, start: float) -> None:
        """Count from `start`."""
        self.start = start
        self.sent = self.kept_closes = self.out_of_order = self.peak_in_flight = self.good = 0
        self.failed: list[Failure] = []
        self.versions: dict[tuple[str, str], Version] = {}
        self.latencies: array[float] = array("d")
        self.own_lag = self.stall = 0.0
        self._order: list[Version] = []
        self._in_flight = self._awaited = 0
        self._waiting_since: float | None = None

    def begin(self, path: str, due: float, begun: float) -> None:
        """Count a request that goes out."""
        self.sent += 1
        self.own_lag = max(self.own_lag, begun - due)
        self._in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
        if path != WAIT_PATH:
            self._awaited += 1
            if self._waiting_since is None:
                self._waiting_since = due

    def end(self, path: str) -> None:
        """Count a request that is no longer under way, before `answer` or what it came to."""
        self._in_flight -= 1
        if path != WAIT_PATH:
            self._awaited -= 1

    def answer(self, path: str, answer: Answer, due: float, begun: float, now: float) -> None:
        """Count an answer that was read to its end, of whatever status."""
        self.close_stall(now)
        # Only an answer ends a stall: a server that turns everybody away at once answers nothing.
        self._waiting_since = now if self._awaited else None
        if answer.status == 200:
            self.good += 1
            if path != WAIT_PATH:
                self.latencies.append(now - due)
        self._note_version(answer.trial, begun, now)

    def close_stall(self, now: float) -> None:
        """Count the time since the last answer, if one was due."""
        if self._waiting_since is not None:
            self.stall = max(self.stall, now - self._waiting_since)

    def fail(self, failure: Failure) -> None:
        """Note a failure."""
        self.failed.append(failure)

    def _note_version(self, trial: str, begun: float, now: float) -> None:
        words = trial.split()
        if len(words) != 3:
            return  # an answer of NGINX itself
        pair, arrived = (words[0], words[1]), now - self.start
        version = self.versions.get(pair)
        if version is None:
            version = self.versions[pair] = Version(*pair, count=0, first=arrived, last=arrived)
            self._order.append(version)
        version.count += 1
        version.last = arrived
        # First answers ascend, so the version right after this one tells whether any later one was seen before.
        place = self._order.index(version) + 1
        if place < len(self._order) and self._order[place].first < begun - self.start:
            self.out_of_order += 1

    @property
    def mixed(self) -> int:
        """Pairs of code and library beyond one for each code."""
        return len(self.versions) - len({code for code, _ in self.versions})


# --- the load --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    """One run, as asked for."""

    address: str
    domain: str
    port: int
    rate: float
    """Requests per second."""
    first_id: int
    """The id of the first post; those after it follow."""
    connections: str
    """fresh, kept or both."""
    timeout: float
    """Seconds after it was due at which a request is given up."""
    patience: float
    """Seconds in which the first answers have to arrive."""
    duration: float
    """Seconds after which it stops by itself."""


class NoTrafficError(Exception):
    """The first answers didn't arrive; the text says what came instead."""


class Load:
    """Sends the requests of one run."""

    def __init__(self, options: Options) -> None:
        """Prepare to send."""
        self.options = options
        self.content = Content(1, options.first_id, comments_ratio=0.8)
        self.outcomes = bytearray()
        """One Outcome per post, by its number among the posts."""
        self.account = Account(0.0)
        self.stop = asyncio.Event()
        name = "" if is_address(options.domain) else options.domain
        self._connections = Connections(options.address, options.port, name)
        self._tasks: set[asyncio.Task[None]] = set()
        self._crash: BaseException | None = None
        self._host = host_header(options.domain, options.port)

    async def run(self) -> Report:
        """Send until told to stop, wait for what is under way, and read back.

        Raises:
            NoTrafficError: the first answers didn't arrive.
        """
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._await_end_of_stdin, args=[loop], daemon=True).start()
        # All that was loaded so far stays: looking through it for garbage would take the time of many requests.
        gc.freeze()
        cpu, started = time.process_time(), loop.time()
        account = self.account = Account(started + LEAD)
        limited = await self._send_all()
        seconds = loop.time() - started
        share = (time.process_time() - cpu) / seconds
        while self._tasks:
            await asyncio.wait(self._tasks)
        account.close_stall(loop.time())
        self._connections.close()
        if self._crash is not None:
            raise self._crash
        latencies = sorted(account.latencies)
        return Report(
            sent=account.sent,
            failed=sorted(account.failed, key=lambda failure: failure.number),
            kept_closes=account.kept_closes,
            stall=account.stall,
            slowest=percentile(latencies, 1) or 0.0,
            p99=percentile(latencies, 0.99) or 0.0,
            versions=list(account.versions.values()),
            out_of_order=account.out_of_order,
            mixed=account.mixed,
            posts=await self._read_back(),
            peak_in_flight=account.peak_in_flight,
            own_lag=account.own_lag,
            cpu=share,
            seconds=seconds,
            limited=limited,
        )

    def _await_end_of_stdin(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not sys.stdin: a thread that waits inside it keeps Python from ending.
        while os.read(0, 1024):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(self.stop.set)

    async def _send_all(self) -> bool:
        """Send until told to stop, and tell whether it was the longest time allowed that stopped it."""
        loop, options, account = asyncio.get_running_loop(), self.options, self.account
        announced = False
        number = 0
        while True:
            due = account.start + number / options.rate
            # After a hiccup of our own, all that fell due goes out at once.
            while not self.stop.is_set() and (ahead := due - loop.time()) > 0:
                await asyncio.sleep(min(ahead, 0.1))
            if self.stop.is_set() or self._crash is not None:
                return False
            passed = loop.time() - account.start
            if not announced and account.good >= FIRST_ANSWERS:
                print(json.dumps({"start": account.start}), flush=True)
                announced = True
            if not announced and passed > options.patience:
                seen = Counter(f"{one.kind} {one.status or ''}".strip() for one in account.failed)
                told = ", ".join(f"{kind}: {count}" for kind, count in seen.most_common()) or "nothing at all"
                raise NoTrafficError(
                    f"{account.sent} requests to {options.address} port {options.port} for {options.domain} had "
                    f"{account.good} answers of 200 within {options.patience:g} s; the others came to: {told}"
                )
            if passed > options.duration:
                return True
            task = loop.create_task(self._send(number, due))
            self._tasks.add(task)
            task.add_done_callback(self._done)
            number += 1

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash = error

    def is_fresh(self, number: int) -> bool:
        """Tell whether a request has a connection of its own."""
        if self.options.connections == "both":
            # Every other one, and the other way round in every other cycle: each path goes both ways.
            return (number + number // len(CYCLE)) % 2 == 0
        return self.options.connections == "fresh"

    def _request(self, path: str, fresh: bool) -> tuple[bytes, int | None]:
        """Write down a request; with the number of the post, if it is one."""
        method, post, body, headers = "GET", None, b"", ""
        if path == "/post":
            post = len(self.outcomes)
            self.outcomes.append(Outcome.FAILED)  # until it is answered
            method, body = "POST", self.content.post(post).body()
            headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        if fresh:
            headers += "Connection: close\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: flask-on-metal-traffic\r\n{headers}\r\n"
        return head.encode() + body, post

    async def _send(self, number: int, due: float) -> None:
        loop, account = asyncio.get_running_loop(), self.account
        path, fresh = CYCLE[number % len(CYCLE)], self.is_fresh(number)
        request, post = self._request(path, fresh)
        begun = loop.time()
        account.begin(path, due, begun)
        connection: Connection | None = None
        reused = False
        answer: Answer | None = None
        kind = ""
        try:
            async with asyncio.timeout_at(due + self.options.timeout):
                connection = await (self._connections.open() if fresh else self._connections.take())
                reused = connection.answers > 0
                answer = await connection.ask(request)
        except NoAnswerError as error:
            kind = error.kind
        except TimeoutError:
            kind = "timeout"
        now = loop.time()
        account.end(path)
        if connection and answer is None:
            connection.abort()
        elif connection and fresh:
            connection.close()
        elif connection:
            self._connections.give_back(connection)
        if answer:
            account.answer(path, answer, due, begun, now)
            if answer.status == 200:
                if post is not None:
                    self.outcomes[post] = Outcome.ACCEPTED
                return
            kind = "status"
            if post is not None:
                self.outcomes[post] = Outcome.REFUSED
        if kind == "closed" and reused:
            account.kept_closes += 1
            return
        account.fail(
            Failure(
                number=number,
                kind=kind,
                path=path,
                connection="fresh" if fresh else "kept",
                begun=begun - account.start,
                ended=now - account.start,
                status=answer.status if answer else None,
            )
        )

    async def _read_back(self) -> Posts:
        """Ask for all that was accepted, with a client that may ask again."""
        accepted = self.outcomes.count(Outcome.ACCEPTED)
        if not self.outcomes:
            return Posts(0, 0, 0, True)
        options = self.options
        # The server name of the handshake is that of the URL, so a name is resolved to the address here.
        board = URL.build(
            scheme="https", host=options.address if is_address(options.domain) else options.domain, port=options.port
        )
        try:
            async with (
                asyncio.timeout(READ_BACK_TIMEOUT),
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(
                        ssl=tls_without_trust(), resolver=OneAddress(options.address), use_dns_cache=False
                    ),
                    timeout=aiohttp.ClientTimeout(total=PAGE_TIMEOUT),
                    headers={"Host": self._host},
                ) as session,
            ):
                back = await read_back(Reader(session, board), self.content, self.outcomes, -1, asyncio.Event())
        except TimeoutError:
            back = ReadBack(reason=f"not done within {READ_BACK_TIMEOUT:g} s")
        if not back.complete:
            return Posts(accepted, None, None, False, back.reason)
        return Posts(accepted, back.lost, back.altered, True)


def host_header(domain: str, port: int) -> str:
    """Write a domain or address, and a port that isn't the usual one, as a Host header."""
    name = f"[{domain}]" if ":" in domain else domain
    return name if port == 443 else f"{name}:{port}"


def raise_file_limit() -> None:
    """Allow as many open files as can be: requests that hang are no reason to send no more."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def new_first_id() -> int:
    """Make the id of a run's first post: microseconds since 1970.

    A run makes far fewer posts than microseconds pass, so no two runs share one. It stays below newsboard's
    MAX_ID, 2**63 - 1, for 290,000 years.
    """
    return time.time_ns() // 1000


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line. Wrong usage ends the process with status 2."""
    parser = argparse.ArgumentParser(description="Sends HTTPS requests until its standard input is closed.")
    add = parser.add_argument
    add("address", help="of the server")
    add("domain", help="in the Host header and, unless it is an address, as the server name of TLS")
    add("--port", type=int, default=443)
    add("--rate", type=float, default=200.0, help="requests per second (default %(default)g)")
    add("--first-id", type=int, default=None, help="id of the first post (default: from the time)")
    add("--connections", choices=["fresh", "kept", "both"], default="both", help="(default %(default)s)")
    add("--timeout", type=float, default=30.0, help="seconds for a request (default %(default)g)")
    add("--patience", type=float, default=15.0, help="seconds for the first answers (default %(default)g)")
    add("--duration", type=float, default=1800.0, help="seconds at most (default %(default)g)")
    given = vars(parser.parse_args(arguments))
    if given["first_id"] is None:
        given["first_id"] = new_first_id()
    return Options(**given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a process: a line of JSON with the start, then, at the end, one with the report."""
    options = parse(arguments)
    raise_file_limit()

    async def run() -> Report:
        return await Load(options).run()

    try:
        report = asyncio.run(run())
    except NoTrafficError as error:
        print(error, file=sys.stderr)
        return 1
    print(report.as_json(), flush=True)
    return 0


# --- the handle ------------------------------------------------------------------------------------------------------


class Traffic:
    """Traffic for as long as a block runs; its `report` is there afterwards."""

    report: Report

    def __init__(
        self,
        address: str,
        domain: str,
        *,
        rate: float = 200.0,
        first_id: int | None = None,
        connections: str = "both",
        port: int = 443,
        timeout: float = 30.0,
        patience: float = 15.0,
        duration: float = 1800.0,
    ) -> None:
        """Prepare traffic.

        Args:
            address: of the server.
            domain: in the Host header and, unless it is an address, as the server name of TLS.
            rate: requests per second.
            first_id: id of the first post; by default one that no other run has.
            connections: fresh, kept or both.
            port: of the server.
            timeout: for a request, in seconds from when it was due.
            patience: for the first answers, in seconds.
            duration: in seconds; traffic that nobody has stopped by then is an error.
        """
        self._patience, self._timeout = patience, timeout
        self._words = [
            address, domain, f"--port={port}", f"--rate={rate}", f"--connections={connections}",
            f"--first-id={new_first_id() if first_id is None else first_id}", f"--timeout={timeout}",
            f"--patience={patience}", f"--duration={duration}",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._start = 0.0

    def elapsed(self) -> float:
        """Tell the time, in seconds, on the clock of the report."""
        return time.monotonic() - self._start  # which is the same in all processes of a machine

    def __enter__(self) -> Self:
        """Start, and return when the first answers have arrived.

        Raises:
            RuntimeError: they didn't; the text is what the process said.
        """
        here = Path(__file__).resolve()
        self._errors = tempfile.TemporaryFile()  # not a pipe, which could fill
        self._process = subprocess.Popen(
            [sys.executable, str(here), *self._words],
            env={**os.environ, "PYTHONPATH": str(here.parents[1] / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for pytest; this one ends when pytest closes its standard input
        )
        assert self._process.stdout
        readable, _, _ = select.select([self._process.stdout], [], [], self._patience + 10)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            raise RuntimeError(f"no traffic: {self._end()}")
        self._start = json.loads(line)["start"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, wait for what is under way, and set `report`.

        Raises:
            RuntimeError: there is no report, or the traffic ended before it was told to.
        """
        assert self._process
        if error is not None:
            self._end()
            return
        try:
            # Closes its standard input. Then come requests under way, the read-back, and some time to spare.
            output, _ = self._process.communicate(timeout=self._timeout + READ_BACK_TIMEOUT + 30)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the traffic did not end: {self._end()}") from None
        status, said = self._process.returncode, self._end()
        if status:
            raise RuntimeError(f"the traffic failed with status {status}: {said}")
        self.report = Report.from_json(output.decode())
        if self.report.limited:
            raise RuntimeError(f"the traffic ended by itself after {self.report.seconds:.0f} s, before it was told to")

    def _end(self) -> str:
        """End the process if it still runs, and return what it said."""
        assert self._process and self._errors
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        with self._errors as errors:
            errors.seek(0)
            return errors.read().decode(errors="replace").strip()


if __name__ == "__main__":
    sys.exit(main())
