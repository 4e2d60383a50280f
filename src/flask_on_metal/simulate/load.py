"""The load: open loop, no retries, each post in exactly one outcome.

Open loop means that post n is due at start + n / rate whatever became of the posts before it. A client that
waits for an answer before it sends the next post stops asking just when the server is slow, and so hardly
sees that it was slow ("coordinated omission"). Latency is therefore also counted from when a post was *due*.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import ssl
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from flask_on_metal.simulate.content import Content

LEAD = 0.05
"""Seconds between the start of the load and the first post, so that the first isn't late by its setup."""

RECENT_LATENCIES = 2000
"""How many latest answers the live figures look at."""

# The client's own limits: too many open files, no free local port, no buffers. Not the server's doing.
OWN_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})


class Outcome(IntEnum):
    """What became of one post."""

    UNDECIDED = 0
    ACCEPTED = 1
    REFUSED = 2
    FAILED = 3
    NOT_SENT = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """How the load is sent."""

    rate: float
    """Posts per second."""
    posts: int
    timeout: float
    """Seconds after it was due at which the client gives a post up."""
    deadline: float
    """Seconds after it was due at which an answer is late."""
    keep_alive: bool
    max_in_flight: int


@dataclass(slots=True)
class Tally:
    """The account of a run. Times are in seconds."""

    outcomes: bytearray
    """One Outcome per planned post, by its number."""
    deadline: float
    due: int = 0
    """Posts whose time came: sent + not_sent, and less than planned if the run was interrupted."""
    in_flight: int = 0
    peak_in_flight: int = 0
    accepted: int = 0
    late: int = 0
    late_by_own_lag: int = 0
    """Of the late, those that were late before they were sent, or in time if counted from then."""
    refused: Counter[int] = field(default_factory=Counter)
    """By HTTP status."""
    failed: Counter[str] = field(default_factory=Counter)
    """By kind."""
    not_sent: Counter[str] = field(default_factory=Counter)
    """By reason."""
    latencies: array[float] = field(default_factory=lambda: array("d"))
    """From due to answered, of the accepted posts."""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_LATENCIES))
    lags: array[float] = field(default_factory=lambda: array("d"))
    """From due to actually begun."""
    longest_stall: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    _waiting_since: float | None = None

    @property
    def sent(self) -> int:
        """Posts that went out, or tried to."""
        return self.due - self.not_sent.total()

    def hold(self, number: int, reason: str) -> None:
        """Count a due post that the client did not send at all."""
        self.outcomes[number] = Outcome.NOT_SENT
        self.not_sent[reason] += 1

    def begin(self, due: float) -> None:
        """Count a post that goes out."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        if self._waiting_since is None:
            self._waiting_since = due

    def answer(self, number: int, status: int, due: float, begun: float, now: float) -> None:
        """Count a post that was answered in full, with this HTTP status."""
        self.in_flight -= 1
        if status != 200:
            self.outcomes[number] = Outcome.REFUSED
            self.refused[status] += 1
            return
        self.outcomes[number] = Outcome.ACCEPTED
        self.accepted += 1
        latency = now - due
        self.latencies.append(latency)
        self.recent.append(latency)
        if latency > self.deadline:
            self.late += 1
            if begun - due > self.deadline or now - begun <= self.deadline:
                self.late_by_own_lag += 1
        self._close_stall(now)
        # Only an accepted post ends a stall: a server that refuses everything is not getting on with it.
        self._waiting_since = now if self.in_flight else None

    def fail(self, number: int, kind: str) -> None:
        """Count a post that got no answer."""
        self.in_flight -= 1
        self.outcomes[number] = Outcome.FAILED
        self.failed[kind] += 1

    def finish(self, now: float) -> None:
        """Close the account, and with it a stall that no accepted post has ended."""
        self._close_stall(now)

    def _close_stall(self, now: float) -> None:
        if self._waiting_since is not None:
            self.longest_stall = max(self.longest_stall, now - self._waiting_since)


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile (share 0 to 1) of values sorted ascending; None when there are none."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def kind_of(error: BaseException) -> str:
    """Name the kind of failure that an exception from a request amounts to."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "tls"
    if isinstance(error, OSError) and error.errno in OWN_ERRORS:
        return "client"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connect"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "incomplete"
    # The server closed the connection, orderly or not, before it had answered.
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return "reset"
    return "protocol"


class OneAddress(AbstractResolver):
    """Resolves every name to one address."""

    def __init__(self, address: str) -> None:
        """Know the address."""
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Give the address."""
        found = socket.getaddrinfo(self._address, port, type=socket.SOCK_STREAM)[0]
        return [
            ResolveResult(hostname=host, host=str(found[4][0]), port=port, family=found[0], proto=found[2], flags=0)
        ]

    async def close(self) -> None:
        """Have nothing to close."""


class Load:
    """Sends the posts of one run."""

    def __init__(
        self, board: URL, content: Content, pace: Pace, tls: ssl.SSLContext | bool, address: str | None = None
    ) -> None:
        """Prepare to send to the board of this URL, wherever its name leads or at a given address."""
        self.pace = pace
        self.tally = Tally(bytearray(pace.posts), pace.deadline)
        self._content = content
        self._url = board / "post"
        self._tls = tls
        self._address = address
        self._tasks: dict[asyncio.Task[None], int] = {}
        """The posts under way, by task: their numbers."""
        self._crash: BaseException | None = None

    async def run(self, stop: asyncio.Event, abort: asyncio.Event) -> Tally:
        """Send until done or `stop`, then wait for what is under way until it is decided or `abort`."""
        loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(
            ssl=self._tls,
            limit=0,  # aiohttp's own queue would make the load closed-loop
            force_close=not self.pace.keep_alive,
            ttl_dns_cache=None,  # one look-up per run: this measures the board, not the resolver
            resolver=OneAddress(self._address) if self._address else None,
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "User-Agent": "newsboard-simulate"},
            # Each post has its own timeout, counted from when it was due.
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        ) as session:
            cpu, start = time.process_time(), loop.time() + LEAD
            await self._send_all(session, start, stop)
            await self._drain(abort)
            self.tally.finish(loop.time())
            self.tally.wall = loop.time() - start
            self.tally.cpu = time.process_time() - cpu
        if self._crash is not None:
            raise self._crash
        return self.tally

    async def _send_all(self, session: aiohttp.ClientSession, start: float, stop: asyncio.Event) -> None:
        loop, tally, pace = asyncio.get_running_loop(), self.tally, self.pace
        for number in range(pace.posts):
            due = start + number / pace.rate
            # Sleep only to what lies ahead: after a hiccup of our own, all that fell due goes out at once.
            while not stop.is_set() and (ahead := due - loop.time()) > 0:
                # Half a second at most, so that Ctrl-C is noticed even at a very low rate.
                await asyncio.sleep(min(ahead, 0.5))
            if stop.is_set() or self._crash is not None:
                return
            tally.due += 1
            # Tasks, not tally.in_flight: in a burst of our own, tasks that have not begun count as well.
            if len(self._tasks) >= pace.max_in_flight:
                tally.hold(number, "in-flight bound")
                # Without this a client that is behind would hold back everything without looking up once.
                await asyncio.sleep(0)
                continue
            task = loop.create_task(self._send(session, number, due))
            self._tasks[task] = number
            task.add_done_callback(self._done)

    async def _send(self, session: aiohttp.ClientSession, number: int, due: float) -> None:
        loop, tally = asyncio.get_running_loop(), self.tally
        begun = loop.time()
        tally.lags.append(begun - due)
        give_up = due + self.pace.timeout
        if begun >= give_up:
            tally.hold(number, "client behind")
            return
        tally.begin(due)
        try:
            async with (
                asyncio.timeout_at(give_up),
                # A redirect is not an answer, and following it would be a second try.
                session.post(self._url, data=self._content.post(number).body(), allow_redirects=False) as answer,
            ):
                # The examiner's client reads the answer to its end, and so does the clock here.
                while await answer.content.readany():
                    pass
            tally.answer(number, answer.status, due, begun, loop.time())
        except (aiohttp.ClientError, OSError) as error:
            tally.fail(number, kind_of(error))
        except asyncio.CancelledError:
            tally.fail(number, "interrupted")
            raise

    def _done(self, task: asyncio.Task[None]) -> None:
        number = self._tasks.pop(task)
        if task.cancelled():
            # Cancelled before its first step, a task never gets to say so itself.
            if self.tally.outcomes[number] == Outcome.UNDECIDED:
                self.tally.hold(number, "interrupted")
        elif (error := task.exception()) is not None:
            self._crash = error

    async def _drain(self, abort: asyncio.Event) -> None:
        aborted = asyncio.ensure_future(abort.wait())
        try:
            while self._tasks and not aborted.done():
                await asyncio.wait([aborted, *self._tasks], return_when=asyncio.FIRST_COMPLETED, timeout=0.2)
        finally:
            aborted.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
