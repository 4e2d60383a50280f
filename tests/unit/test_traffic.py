"""Self-test of tests/traffic.py: a TLS server that drops, delays, refuses and forgets exactly as told.

What the report says must be exactly what the server did.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from traffic import CYCLE, WAIT_PATH, Account, Answer, Parser, Report, Traffic

pytestmark = pytest.mark.timed

DOMAIN = "news.example.org"
RATE = 200.0

When = Callable[["Asked"], bool]


@dataclass(frozen=True)
class Asked:
    """One request, as the server sees it."""

    path: str
    fresh: bool
    reused: bool
    """Whether its connection has been used before."""


def is_fresh(asked: Asked) -> bool:
    return asked.fresh


def is_reused(asked: Asked) -> bool:
    return asked.reused


def is_post(asked: Asked) -> bool:
    return asked.path == "/post"


def is_page(asked: Asked) -> bool:
    return asked.path == "/"


def is_wait(asked: Asked) -> bool:
    return asked.path.startswith("/trial/wait")


class Server:
    """A newsboard with the trial's header, in memory, over TLS on loopback, in a thread of its own.

    `do` has it misbehave; the answers are otherwise those of version 1 with library 2.0.0.
    """

    # ruff: noqa: D105, D107

    def __init__(self, certificate: Path) -> None:
        self.version = "1 2.0.0"
        self.wait = 0.0
        self.stored: dict[int, dict[str, Any]] = {}
        self.names: set[str | None] = set()
        self.hosts: set[str] = set()
        self.paths: dict[str, list[bool]] = {}
        """By path, for each request, whether it was fresh."""
        self.connections = 0
        self._plan: deque[tuple[str, When]] = deque()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self._tls.sni_callback = lambda _sock, name, _context: self.names.add(name)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self.port = 0

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    def plan(self, act: str, times: int, when: When = lambda _asked: True) -> None:
        """Do something to the next requests of a kind."""
        self._plan.extend([(act, when)] * times)

    def do(self, act: str, times: int, when: When = lambda _asked: True) -> None:
        """Do something to the next requests of a kind, and return when it is done."""
        self.plan(act, times, when)
        deadline = time.monotonic() + 10
        while self._plan:
            assert time.monotonic() < deadline, f"{len(self._plan)} of {times} times {act!r} are left"
            time.sleep(0.01)

    def stall(self, seconds: float) -> None:
        """Do nothing for a while, not even take connections."""
        self._loop.call_soon_threadsafe(time.sleep, seconds)
        time.sleep(seconds)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self._tls, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        reused = False
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.rstrip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                asked = Asked(first.split()[1], headers.get("connection") == "close", reused)
                self.hosts.add(headers["host"])
                self.paths.setdefault(asked.path, []).append(asked.fresh)
                if not await self._answer(asked, body, writer) or asked.fresh:
                    break
                reused = True
        writer.close()

    async def _answer(self, asked: Asked, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer a request, and tell whether the connection may live."""
        act = ""
        if self._plan and self._plan[0][1](asked):
            act, _ = self._plan.popleft()
        version = self.version  # as when it was asked
        if act == "drop":
            return False
        if act == "reset":
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if act == "hang":
            await asyncio.sleep(5)
        if is_wait(asked):
            await asyncio.sleep(self.wait)
        content = self._content(asked, body, act)
        status = act if act.isdigit() else "200"
        if act.startswith("version "):
            version = act.removeprefix("version ")
        lines = [f"HTTP/1.1 {status} As told", f"X-Trial: {version} 4711"]
        if asked.path.startswith("/newest"):  # NGINX sends what it doesn't know the length of in chunks
            lines.append("Transfer-Encoding: chunked")
            half = len(content) // 2
            chunks = [content[:half], content[half:], b""]
            content = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        else:
            lines.append(f"Content-Length: {len(content)}")
        if asked.fresh or act == "last":
            lines.append("Connection: close")
        answer = "\r\n".join([*lines, "\r\n"]).encode() + content
        if act == "truncate":
            answer = answer[:-3]
        middle = len(answer) // 2
        writer.write(answer[:middle])
        await writer.drain()
        writer.write(answer[middle:])
        await writer.drain()
        return act not in ("truncate", "close", "last")

    def _content(self, asked: Asked, body: bytes, act: str) -> bytes:
        url = urlsplit(asked.path)
        if url.path == "/post":
            post = json.loads(body)
            del post["pwd_hash"]
            if act == "alter":
                post["post_text"] += " "
            if act != "forget" and not act.isdigit():
                self.stored[post["hanesst_id"]] = post
            return b"{}"
        if url.path == "/latest":
            return str(max(self.stored, default=-1)).encode()
        if url.path == "/api/posts":
            query = parse_qs(url.query)
            after, limit = int(query["after"][0]), int(query["limit"][0])
            ids = sorted(number for number in self.stored if number > after)
            following = ids[limit - 1] if len(ids) > limit else None
            return json.dumps({"posts": [self.stored[number] for number in ids[:limit]], "next": following}).encode()
        return b"<p>" * 3000


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a key and a certificate that nobody has to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, DOMAIN)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "pair.pem"
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(plain + made.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[Server]:
    with Server(certificate) as running:
        yield running


def traffic_on(server: Server, **options: Any) -> Traffic:
    return Traffic("127.0.0.1", options.pop("domain", DOMAIN), port=server.port, **{"rate": RATE, **options})


def kinds(report: Report) -> list[tuple[str, str]]:
    return [(failure.kind, failure.connection) for failure in report.failed]


def test_good_server_has_a_clean_report(server: Server) -> None:
    before = time.monotonic()
    with traffic_on(server) as traffic:
        assert 0 < traffic.elapsed() < time.monotonic() - before
        time.sleep(1.2)
        stopped = traffic.elapsed()
    report = traffic.report
    assert (report.failed, report.kept_closes, report.out_of_order, report.mixed) == ([], 0, 0, 0)
    assert (report.posts.lost, report.posts.altered, report.posts.complete) == (0, 0, True)
    assert report.posts.accepted == len(server.stored) >= 0.2 * RATE * 1.2 - 5
    # Whatever the machine did meanwhile, as many went out as the clock says.
    assert report.sent == pytest.approx(RATE * stopped, abs=RATE * 0.2)
    assert 0 < report.p99 <= report.slowest < 1
    assert report.stall < 0.5 and not report.limited
    (version,) = report.versions
    assert (version.code, version.library, version.count) == ("1", "2.0.0", report.sent)
    assert 0 < version.first < version.last < stopped + 1
    assert server.names == {DOMAIN} and server.hosts == {f"{DOMAIN}:{server.port}"}
    # Half of the requests, and some of each path, over connections of their own.
    asked = sum(len(ways) for path, ways in server.paths.items() if not path.startswith("/api"))
    assert asked == report.sent + 1  # and one /latest to end the read-back
    assert sum(sum(ways) for ways in server.paths.values()) == pytest.approx(asked / 2, abs=2)
    assert all(set(server.paths[path]) == {True, False} for path in CYCLE)
    assert server.connections < asked / 2 + 40


def test_mix_is_as_promised() -> None:
    assert len(CYCLE) == 50
    assert CYCLE.count("/post") == 10 and CYCLE.count(WAIT_PATH) == 1


@pytest.mark.parametrize("connections", ["fresh", "kept"])
def test_one_kind_of_connections_alone(server: Server, connections: str) -> None:
    with traffic_on(server, connections=connections, domain="127.0.0.1"):
        time.sleep(0.2)
    server.paths["/latest"].pop()  # the read-back asked for that one
    ways = [fresh for path in dict.fromkeys(CYCLE) for fresh in server.paths[path]]
    assert set(ways) == {connections == "fresh"}
    assert server.names == {None}  # the domain is an address
    assert server.connections >= len(ways) if connections == "fresh" else server.connections < 20


def test_connection_closed_before_the_first_byte_is_a_failure(server: Server) -> None:
    with traffic_on(server) as traffic:
        begun = traffic.elapsed()
        server.do("drop", 4, is_fresh)
        server.do("reset", 3, is_fresh)
        ended = traffic.elapsed()
    assert kinds(traffic.report) == [("closed", "fresh")] * 7
    assert traffic.report.kept_closes == 0
    assert all(begun - 0.1 <= one.begun <= one.ended <= ended + 0.1 for one in traffic.report.failed)


def test_close_of_a_kept_connection_is_counted_apart(server: Server) -> None:
    with traffic_on(server) as traffic:
        server.do("drop", 4, is_reused)
        server.do("reset", 2, is_reused)
    assert (traffic.report.failed, traffic.report.kept_closes) == ([], 6)


def test_close_of_a_kept_connection_that_never_answered_is_a_failure(server: Server) -> None:
    server.plan("drop", 3, lambda asked: not asked.fresh and not asked.reused)
    with traffic_on(server) as traffic:
        pass
    assert (kinds(traffic.report), traffic.report.kept_closes) == ([("closed", "kept")] * 3, 0)


def test_kept_connection_closed_with_notice_costs_nothing(server: Server) -> None:
    with traffic_on(server) as traffic:
        server.do("last", 10, lambda asked: not asked.fresh)
        server.do("close", 10, is_reused)
    report = traffic.report
    assert report.failed == []
    assert report.kept_closes <= 10  # where the close crossed a request; never more


def test_refusals_are_failures_with_their_status(server: Server) -> None:
    with traffic_on(server) as traffic:
        server.do("502", 5, is_page)
        server.do("503", 3, is_post)
    report = traffic.report
    assert [(one.kind, one.path, one.status) for one in report.failed] == [("status", "/", 502)] * 5 + [
        ("status", "/post", 503)
    ] * 3
    assert (report.posts.lost, report.posts.complete) == (0, True)
    assert Report.from_json(report.as_json()) == report
    with pytest.raises(ValueError, match="not a report"):
        Report.from_json("{}")


def test_cut_bodies_are_incomplete(server: Server) -> None:
    with traffic_on(server) as traffic:
        server.do("truncate", 3, is_page)
        server.do("truncate", 3, lambda asked: asked.path == "/newest")
    found = [(one.kind, one.path, one.status) for one in traffic.report.failed]
    assert found == [("incomplete", "/", None)] * 3 + [("incomplete", "/newest", None)] * 3
    assert traffic.report.kept_closes == 0


def test_request_without_an_answer_times_out(server: Server) -> None:
    with traffic_on(server, timeout=0.5) as traffic:
        server.do("hang", 3, is_page)
        time.sleep(0.6)
    assert [one.kind for one in traffic.report.failed] == ["timeout"] * 3
    assert all(0.4 < one.ended - one.begun < 1 for one in traffic.report.failed)


def test_stall_is_seen_and_stops_no_request(server: Server) -> None:
    with traffic_on(server) as traffic:
        time.sleep(0.2)
        server.stall(0.6)
        time.sleep(0.2)
        stopped = traffic.elapsed()
    report = traffic.report
    assert 0.55 <= report.stall < 6
    assert 0.55 <= report.slowest < 6
    assert report.failed == []
    assert report.sent == pytest.approx(RATE * stopped, abs=RATE * 0.2)
    assert report.peak_in_flight >= 0.5 * RATE


def test_waits_alone_are_neither_stall_nor_slow(server: Server) -> None:
    server.wait = 0.6
    with traffic_on(server) as traffic:
        time.sleep(0.3)
    assert traffic.report.failed == []
    assert traffic.report.stall < 0.5 and traffic.report.slowest < 0.5


def test_clean_change_of_version_is_in_order(server: Server) -> None:
    server.wait = 0.5  # the old version still answers what it was asked before
    with traffic_on(server) as traffic:
        time.sleep(0.5)
        server.version = "2 2.1.0"
        changed = traffic.elapsed()
        time.sleep(0.7)
    report = traffic.report
    assert [(one.code, one.library) for one in report.versions] == [("1", "2.0.0"), ("2", "2.1.0")]
    assert (report.out_of_order, report.mixed) == (0, 0)
    old, new = report.versions
    assert old.first < changed < new.first < changed + 0.3
    assert old.last > new.first
    assert old.count + new.count == report.sent


def test_answers_of_an_older_version_are_counted(server: Server) -> None:
    with traffic_on(server) as traffic:
        server.version = "2 2.1.0"
        time.sleep(0.3)
        server.do("version 1 2.0.0", 9)
    assert (traffic.report.out_of_order, traffic.report.mixed) == (9, 0)


def test_code_that_sees_other_libraries_is_counted(server: Server) -> None:
    with traffic_on(server) as traffic:
        server.do("version 1 2.1.0", 1)
        server.version = "2 2.1.0"
        time.sleep(0.2)
    assert traffic.report.mixed == 1
    assert [one.code for one in traffic.report.versions] == ["1", "1", "2"]


def test_forgotten_and_altered_posts_are_counted(server: Server) -> None:
    with traffic_on(server) as traffic:
        server.do("forget", 4, is_post)
        server.do("alter", 3, is_post)
        time.sleep(0.1)
    posts = traffic.report.posts
    assert (posts.lost, posts.altered, posts.complete) == (4, 3, True)
    assert posts.accepted == len(server.stored) + 4
    assert traffic.report.failed == []


def test_two_runs_share_no_posts(server: Server) -> None:
    with traffic_on(server) as first:
        pass
    with traffic_on(server) as second:
        pass
    assert len(server.stored) == first.report.posts.accepted + second.report.posts.accepted
    assert (second.report.posts.lost, second.report.posts.altered) == (0, 0)


@pytest.mark.parametrize(("greeting", "kind"), [(None, "connect"), (b"no TLS here\r\n", "tls")])
def test_server_that_does_not_answer_is_said_so(greeting: bytes | None, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if greeting is None:
            listening.close()
        else:
            threading.Thread(target=turn_away, args=[listening, greeting], daemon=True).start()
        with (
            pytest.raises(RuntimeError, match=f"{kind}: [0-9]+$"),
            Traffic("127.0.0.1", DOMAIN, port=port, patience=0.3),
        ):
            pass


def turn_away(listening: socket.socket, greeting: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            one, _ = listening.accept()
            one.recv(1000)
            one.sendall(greeting)
            one.close()


def test_traffic_that_ends_by_itself_is_an_error(server: Server) -> None:
    with pytest.raises(RuntimeError, match="ended by itself"), traffic_on(server, duration=0.1):
        time.sleep(0.2)


def test_broken_block_ends_the_process(server: Server) -> None:
    traffic = traffic_on(server)
    with pytest.raises(ZeroDivisionError), traffic:
        raise ZeroDivisionError
    assert traffic._process and traffic._process.returncode


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_answer_is_read_in_any_pieces(step: int) -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\n"
    data += b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-trial: a b 1\r\n\r\n"
    data += b"3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n"
    parser = Parser()
    found = [parser.feed(data[place : place + step]) for place in range(0, len(data), step)]
    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] == Answer(200, "a b 1")
    assert parser.keep


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n\r\n", b"220 smtp.example.org ESMTP\r\n\r\n"])
def test_answer_of_unknown_length_or_protocol_is_none(data: bytes) -> None:
    with pytest.raises(ValueError):
        Parser().feed(data)


def test_failures_end_no_stall() -> None:
    account = Account(0.0)
    account.begin("/", 1.0, 1.0)
    account.end("/")
    account.begin("/", 3.0, 3.5)
    account.end("/")
    account.answer("/", Answer(200, ""), 3.0, 3.5, 4.0)
    account.close_stall(9.0)
    assert (account.stall, account.own_lag) == (3.0, 0.5)


def test_wait_alone_is_no_stall() -> None:
    account = Account(0.0)
    account.begin(WAIT_PATH, 1.0, 1.0)
    account.end(WAIT_PATH)
    account.answer(WAIT_PATH, Answer(200, ""), 1.0, 1.0, 2.0)
    account.close_stall(9.0)
    assert (account.stall, len(account.latencies), account.good) == (0.0, 0, 1)


@pytest.mark.parametrize("rest", [b"Connection: close\r\n\r\n", b"\r\nmore"])
def test_connection_that_ends_or_says_too_much_is_not_kept(rest: bytes) -> None:
    parser = Parser()
    assert parser.feed(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n" + rest) == Answer(502, "")
    assert not parser.keep
