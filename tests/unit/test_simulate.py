"""Self-test of bin/simulate: boards that drop, delay, refuse and lie at known ids, over real loopback HTTP.

What the report says must be exactly what the board did.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from flask_on_metal.simulate.cli import Options, Signals, UnusableError, main, parse, simulate
from flask_on_metal.simulate.content import COMPARED, SETTLED, Content
from flask_on_metal.simulate.load import Pace, Tally, kind_of, percentile
from flask_on_metal.simulate.report import Report

pytestmark = pytest.mark.timed

SRC = Path(__file__).resolve().parents[2] / "src"
BEFORE = 41
"""The /latest of a board before a run: posts get the ids from 42."""


class Board:
    """A newsboard in memory. `plan` says what to do with a post, by its number within the run, from 0."""

    # ruff: noqa: D102, D107

    def __init__(self, plan: dict[int, str] | None = None, *, latest: int | None = BEFORE) -> None:
        self.plan = plan or {}
        self.stored: dict[int, dict[str, Any]] = {}
        self.first_latest = latest
        self.latest_offset = 0
        self.listed_twice: set[int] = set()
        self.listing_fails = False
        self.listing_calls = 0
        self.page_limit = 1000
        self.connections: set[Any] = set()
        self.before_post: Callable[[], Awaitable[None]] | None = None
        self.app = web.Application()
        self.app.add_routes(
            [web.post("/post", self.post), web.get("/latest", self.latest), web.get("/api/posts", self.posts)]
        )

    async def post(self, request: web.Request) -> web.StreamResponse:
        assert request.transport
        # Not its address: the kernel may give a port to two connections, one after the other.
        self.connections.add(request.transport)
        post = await request.json()
        if self.before_post:
            await self.before_post()
        act = self.plan.get(post["hanesst_id"] - BEFORE - 1, "store")
        if act == "delay":
            await asyncio.sleep(0.8)
        if act.isdigit():
            # A client that follows the redirect finds a 200 there.
            return web.Response(status=int(act), headers={"Location": "/latest"} if act == "302" else None)
        if act == "drop":
            request.transport.close()
            return web.Response()
        if act == "alter":
            post["post_text"] += " "
        if act == "retype":
            post["post_parent"] = float(post["post_parent"])
        if act != "forget":
            post["created_at"] = "2025-01-01T00:00:00Z"
            del post["pwd_hash"]
            self.stored[post["hanesst_id"]] = post
        if act == "omit":
            del post["username"]
        if act == "hang":
            await asyncio.sleep(60)
        if act == "break off":
            answer = web.StreamResponse(headers={"Content-Length": "100"})
            await answer.prepare(request)
            await answer.write(b"half")
            request.transport.close()
            return answer
        return web.Response()

    async def latest(self, _request: web.Request) -> web.Response:
        if not self.stored:
            return web.Response(text="-1" if self.first_latest is None else str(self.first_latest))
        return web.Response(text=str(max(self.stored) + self.latest_offset))

    async def posts(self, request: web.Request) -> web.Response:
        self.listing_calls += 1
        if self.listing_fails:
            return web.Response(status=503)
        after, limit = int(request.query["after"]), min(int(request.query["limit"]), self.page_limit)
        ids = sorted(number for number in self.stored if number > after)
        page = [self.stored[number] for number in ids[:limit]]
        page = [post for post in page for _ in range(2 if post["hanesst_id"] in self.listed_twice else 1)]
        following = ids[limit - 1] if len(ids) > limit else None
        return web.json_response({"posts": page, "next": following})


@contextlib.asynccontextmanager
async def serving(board: Board) -> AsyncIterator[URL]:
    runner = web.AppRunner(board.app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    try:
        yield URL(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    finally:
        await runner.cleanup()


def options(url: URL, posts: int, **changes: Any) -> Options:
    # A deadline that a loopback board meets even on a busy machine, and that a "delay" misses.
    pace: dict[str, Any] = {
        "rate": 200.0, "posts": posts, "timeout": 1.6, "deadline": 0.5, "keep_alive": False, "max_in_flight": 5000,
    }  # fmt: skip
    pace.update({name: changes.pop(name) for name in list(changes) if name in pace})
    return Options(url=url, pace=Pace(**pace), **changes)


def run(board: Board, posts: int, **changes: Any) -> Report:
    async def go() -> Report:
        async with serving(board) as url:
            return await simulate(options(url, posts, **changes), Signals())

    return asyncio.run(go())


@contextlib.contextmanager
def serving_in_thread(board: Board) -> Iterator[str]:
    """For tests of the command itself, which has an event loop of its own."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    address: list[str] = []
    done = asyncio.Event()

    async def serve() -> None:
        async with serving(board) as url:
            address.append(str(url))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(5)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(5)
        loop.close()


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_on_metal.simulate.readback.PAUSE", 0.02)


def ids(*numbers: int) -> list[int]:
    return [BEFORE + 1 + number for number in numbers]


# What a board may do, and that the report says just that.


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_good_board_is_reported_as_good(keep_alive: bool) -> None:
    board = Board()
    board.page_limit = 35  # several pages
    report = run(board, 100, keep_alive=keep_alive).as_json()
    assert report["ok"], report["breaches"]
    assert report["posts"]["first_id"] == BEFORE + 1
    assert (report["posts"]["sent"], report["posts"]["accepted"], report["posts"]["late"]) == (100, 100, 0)
    back = report["read_back"]
    assert (back["complete"], back["lost"], back["altered"], back["duplicates"]) == (True, 0, 0, 0)
    assert back["latest"] == back["highest"] == BEFORE + 100
    assert board.listing_calls == 3
    assert len(board.connections) < 50 if keep_alive else len(board.connections) == 100


def test_every_kind_of_misdeed_is_counted_exactly() -> None:
    plan = {
        3: "drop", 17: "drop", 40: "drop",
        5: "delay", 6: "delay", 50: "delay", 51: "delay",
        8: "503", 9: "503", 60: "400", 61: "302",
        11: "hang", 70: "hang",
        13: "forget", 14: "forget", 80: "forget",
        20: "alter", 21: "retype", 90: "omit",
        95: "break off",
    }  # fmt: skip
    board = Board(plan)
    report = run(board, 120)
    result = report.as_json()
    posts, back = result["posts"], result["read_back"]
    assert posts["sent"] == posts["due"] == 120
    assert posts["failed_by_kind"] == {"reset": 3, "timeout": 2, "incomplete": 1}
    assert posts["refused_by_status"] == {"302": 1, "400": 1, "503": 2}
    assert posts["accepted"] == 120 - 6 - 4
    assert posts["accepted"] + posts["refused"] + posts["failed"] == posts["sent"]
    assert posts["late"] == 4
    assert back["complete"]
    assert (back["lost"], back["lost_examples"]) == (3, ids(13, 14, 80))
    assert back["altered"] == 3
    assert [(one["hanesst_id"], one["fields"]) for one in back["altered_examples"]] == list(
        zip(ids(20, 21, 90), (["post_text"], ["post_parent"], ["username"]), strict=True)
    )
    assert back["stored_unacknowledged"] == 3  # two that hang and one that breaks off were stored first
    assert (back["latest_agrees"], back["duplicates"], back["foreign"]) == (True, 0, 0)
    assert result["breaches"] == ["4 refused", "6 failed", "3.64% late, more than 1.00%", "3 lost", "3 altered"]
    assert report.exit_status == 1


def test_no_post_is_ever_sent_twice() -> None:
    # With kept-alive connections a client is tempted to try again when one turns out to be closed.
    board, seen = Board(dict.fromkeys(range(10, 90, 2), "drop")), 0

    async def count() -> None:
        nonlocal seen
        seen += 1

    board.before_post = count
    report = run(board, 100, keep_alive=True)
    assert seen == 100
    assert report.tally.failed == {"reset": 40}


def test_a_wrong_latest_and_a_post_stored_twice_are_found() -> None:
    board = Board()
    board.latest_offset = -1
    board.listed_twice = set(ids(4, 7))
    report = run(board, 30)
    assert not report.read_back.latest_agrees
    assert report.breaches == ["2 stored twice", f"/latest says {BEFORE + 29}, the highest id listed is {BEFORE + 30}"]


def test_a_latest_that_nobody_has_is_found() -> None:
    board = Board()
    board.latest_offset = 5
    assert not run(board, 10).read_back.latest_agrees


def test_somebody_elses_later_post_is_not_a_wrong_latest() -> None:
    board = Board()

    async def another() -> None:
        board.stored[BEFORE + 500] = {"hanesst_id": BEFORE + 500}

    board.before_post = another
    report = run(board, 10)
    assert report.read_back.latest_agrees
    assert report.exit_status == 0


def test_an_empty_board_starts_at_one_and_may_stay_empty() -> None:
    board = Board(dict.fromkeys(range(-BEFORE, 20), "503"), latest=None)
    report = run(board, 10)
    assert report.first_id == 1
    assert report.tally.refused == {503: 10}
    assert (report.read_back.complete, report.read_back.highest, report.read_back.latest_agrees) == (True, None, True)


# Not knowing is not zero.


def assert_unknown(report: Report) -> None:
    result = report.as_json()
    assert not result["read_back"]["complete"]
    assert result["read_back"]["lost"] is None
    assert result["read_back"]["latest_agrees"] is None
    assert report.exit_status == 1
    assert "lost posts unknown" in result["breaches"][-1]


def test_lost_is_unknown_when_the_listing_fails() -> None:
    board = Board({3: "forget"})
    board.listing_fails = True
    report = run(board, 10)
    assert_unknown(report)
    assert report.read_back.reason.endswith("answered 503")
    assert board.listing_calls == 3  # reading, unlike posting, is tried again


def test_lost_is_unknown_when_the_listing_makes_no_sense() -> None:
    board = Board()

    async def go(answer: object) -> Report:
        async def posts(_request: web.Request) -> web.Response:
            return web.json_response(answer)

        board.app = web.Application()
        board.app.add_routes([web.post("/post", board.post), web.get("/latest", board.latest)])
        board.app.router.add_get("/api/posts", posts)
        async with serving(board) as url:
            return await simulate(options(url, 5), Signals())

    nonsense: tuple[object, ...] = (
        {},
        [],
        {"posts": [{}], "next": None},
        {"posts": [], "next": 7},
        {"posts": [{"hanesst_id": 2}], "next": 2},
    )
    for answer in nonsense:
        board.stored.clear()
        assert_unknown(asyncio.run(go(answer)))


def test_lost_is_unknown_when_the_board_dies() -> None:
    async def go() -> Report:
        board, hit = Board(), asyncio.Event()

        async def tick() -> None:
            if len(board.stored) >= 20:
                hit.set()

        board.before_post = tick
        async with contextlib.AsyncExitStack() as stack:
            url = await stack.enter_async_context(serving(board))
            task = asyncio.create_task(simulate(options(url, 60), Signals()))
            await hit.wait()
            await stack.aclose()
            return await task

    report = asyncio.run(go())
    assert_unknown(report)
    assert report.tally.failed["connect"] > 20
    assert "no answer (connect" in report.read_back.reason


# Open loop: latency counts from when a post was due.


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_stall_of_the_board_makes_all_late_that_fell_due_in_it(keep_alive: bool) -> None:
    # All is held from 0.5 s to 1.5 s. Due in the first 0.9 s of that: late. In the last 0.1 s: just in time.
    # A client that waits for its answers would have sent one post in that second, and called one late.
    begin = 0.0

    async def stall() -> None:
        nonlocal begin
        now = time.monotonic()
        begin = begin or now
        if 0.5 <= now - begin < 1.5:
            await asyncio.sleep(begin + 1.5 - now)

    board = Board()
    board.before_post = stall
    report = run(board, 200, rate=100.0, deadline=0.1, timeout=5.0, keep_alive=keep_alive)
    assert report.tally.accepted == 200
    assert 84 <= report.tally.late <= 115  # a busy machine adds some
    assert 0.9 <= report.tally.longest_stall <= 1.4
    assert report.tally.peak_in_flight >= 95
    assert report.tally.late_by_own_lag <= 20


def test_a_stall_of_the_client_counts_from_the_schedule_and_is_owned_up_to() -> None:
    # The board shares this process: sleeping without await stops the sender too. After that a hundred posts
    # go out at once and are answered within the deadline, if one counts from when they went out.
    frozen = False
    posts = 0

    async def freeze() -> None:
        nonlocal frozen, posts
        posts += 1
        if posts > 50 and not frozen:
            frozen = True
            time.sleep(1)

    board = Board()
    board.before_post = freeze
    report = run(board, 160, rate=100.0, deadline=0.5, timeout=5.0)
    assert report.tally.accepted == 160
    # Due in the first half second of the freeze, and those in the second that had too little time left.
    assert 47 <= report.tally.late <= 110
    assert 47 <= report.tally.late_by_own_lag <= report.tally.late
    assert max(report.tally.latencies) > 0.9
    assert max(report.tally.lags) > 0.9
    assert any("fell behind its own schedule" in warning for warning in report.warnings)


def test_a_slow_board_does_not_slow_the_sending() -> None:
    async def slow() -> None:
        await asyncio.sleep(0.8)

    board = Board()
    board.before_post = slow
    report = run(board, 100)  # 0.5 s of posts, none answered before the last is sent
    assert report.tally.peak_in_flight == 100
    assert report.tally.late == report.tally.accepted == 100
    assert report.tally.wall < 1.8


def test_the_in_flight_bound_is_reported_and_never_silent() -> None:
    board = Board(dict.fromkeys(range(100), "hang"))
    report = run(board, 100, max_in_flight=30, timeout=0.9)
    assert report.tally.not_sent == {"in-flight bound": 70}
    assert report.tally.failed == {"timeout": 30}
    assert report.tally.sent == 30
    assert report.read_back.foreign == 0
    assert "70 not sent by this client" in report.breaches


# Interruption.


def test_interrupting_accounts_for_what_was_sent() -> None:
    async def go() -> Report:
        board, signals = Board({5: "forget", 7: "delay"}), Signals()

        async def tick() -> None:
            if len(board.stored) == 30:
                signals.stop.set()

        board.before_post = tick
        async with serving(board) as url:
            return await simulate(options(url, 4000), signals)

    report = asyncio.run(go())
    assert report.interrupted
    assert 30 < report.tally.sent < 200
    assert report.tally.accepted == report.tally.sent
    assert (report.tally.late, report.read_back.complete, report.read_back.lost) == (1, True, 1)


def test_a_second_interrupt_gives_up_what_is_under_way() -> None:
    async def go() -> Report:
        board, signals = Board(dict.fromkeys(range(4000), "hang")), Signals()

        async def tick() -> None:
            if len(board.stored) == 30:
                signals.interrupt()
                asyncio.get_running_loop().call_later(0.2, signals.interrupt)

        board.before_post = tick
        async with serving(board) as url:
            return await simulate(options(url, 4000, timeout=30.0), signals)

    started = time.monotonic()
    report = asyncio.run(go())
    assert time.monotonic() - started < 5
    assert report.tally.failed == {"interrupted": report.tally.sent}
    assert_unknown(report)


# Content.


def test_content_follows_from_the_seed_and_is_awkward_text() -> None:
    first, again, other = Content(7, 100, 0.8), Content(7, 100, 0.8), Content(8, 100, 0.8)
    posts = [first.post(number) for number in range(2000)]
    assert [again.post(number) for number in reversed(range(2000))] == posts[::-1]
    assert other.post(5) != posts[5]
    stories = {post.hanesst_id: post for post in posts if post.post_type == "story"}
    assert len(stories) == 400
    for number, post in enumerate(posts):
        assert post.hanesst_id == 100 + number
        assert json.loads(post.body())["post_title"] == post.post_title
        if post.post_type == "story":
            assert (post.post_parent, bool(post.post_title)) == (-1, True)
        else:
            assert post.post_parent in stories
            assert post.post_parent <= max(100, post.hanesst_id - SETTLED)
            assert post.post_text
    everything = "".join(post.post_title + post.post_text for post in posts)
    assert all(awkward in everything for awkward in "<>&\"'%\\\n{}ï\u0301\u200d𐍈🎉ع京М")


@pytest.mark.parametrize(("ratio", "stories"), [(0.0, 1000), (1.0, 1), (0.5, 500), (0.999, 1)])
def test_comments_ratio(ratio: float, stories: int) -> None:
    content = Content(1, 1, ratio)
    posts = [content.post(number) for number in range(1000)]
    assert sum(post.post_type == "story" for post in posts) == stories
    by_id = {post.hanesst_id: post for post in posts}
    assert all(by_id[post.post_parent].post_type == "story" for post in posts if post.post_type == "comment")


def test_nothing_but_the_hash_is_left_out_of_the_comparison() -> None:
    sent = set(json.loads(Content(1, 1, 0.8).post(0).body()))
    assert sent - set(COMPARED) == {"hanesst_id", "pwd_hash"}


# Small parts.


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile([3.0], 0.5) == 3
    assert percentile([], 0.5) is None


def test_a_late_post_is_the_clients_doing_only_if_the_client_made_it_late() -> None:
    tally = Tally(bytearray(3), deadline=0.1)
    for number, (begun, answered) in enumerate([(0.0, 0.2), (0.06, 0.15), (0.3, 0.6)]):
        tally.begin(0.0)
        tally.answer(number, 200, 0.0, begun, answered)
    # The first was late by the board, the second was in time once sent, the third was late before it was sent.
    assert (tally.late, tally.late_by_own_lag) == (3, 2)


def test_the_clients_own_limits_are_not_blamed_on_the_board() -> None:
    assert kind_of(OSError(24, "Too many open files")) == "client"
    assert kind_of(aiohttp.ClientConnectorError(None, OSError(99, "Cannot assign"))) == "client"  # type: ignore[arg-type]
    assert kind_of(ConnectionResetError()) == "reset"
    assert kind_of(TimeoutError()) == "timeout"


# The command.


def test_the_command_prints_only_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with serving_in_thread(Board()) as url:
        status = main(["--rate", "100", "--duration", "0.3", "--deadline-ms", "1000", "--json", "-", url])
    result = json.loads(capsys.readouterr().out)
    assert (status, result["ok"], result["posts"]["accepted"]) == (0, True, 30)
    assert result["client"]["cpu_s_per_1000_posts"] > 0
    assert set(result["latency_ms"]) == {"p50", "p90", "p99", "max", "longest_stall"}


def test_the_command_shows_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.json"
    with serving_in_thread(Board({2: "forget", 3: "503"})) as url:
        status = main(["--duration", "0.2", "--deadline-ms", "1000", "--json", str(target), url])
    out = capsys.readouterr().out
    assert status == 1
    assert "NOT OK: 1 refused; 1 lost" in out
    assert str(ids(2)[0]) in out
    assert json.loads(target.read_text())["read_back"]["lost"] == 1


def test_late_posts_alone_fail_the_run_only_beyond_max_late() -> None:
    with serving_in_thread(Board({4: "delay"})) as url:
        arguments = ["--duration", "0.2", "--deadline-ms", "500", url]
        assert main(arguments) == 1
    with serving_in_thread(Board({4: "delay"})) as url:
        assert main(["--max-late", "5", *arguments[:-1], url]) == 0


def test_ctrl_c_leaves_an_account() -> None:
    board = Board()
    with serving_in_thread(board) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "flask_on_metal.simulate", "--deadline-ms", "1000", "--json", "-", url],
            env={**os.environ, "PYTHONPATH": str(SRC)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        give_up = time.monotonic() + 10
        while len(board.stored) < 20 and time.monotonic() < give_up:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    result = json.loads(out)
    assert (process.returncode, result["interrupted"], result["ok"]) == (0, True, True), err
    assert 0 < result["posts"]["sent"] == result["posts"]["accepted"] < 6000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["localhost:5000"], "should look like https://host/"),
        (["http://127.0.0.1/?a=1"], "without ? and #"),
        (["--rate", "1000", "--duration", "3000", "http://127.0.0.1/"], "2,000,000 is the most"),
        (["--rate", "nan", "http://127.0.0.1/"], "is not a number"),
        (["--rate", "0", "http://127.0.0.1/"], "is not a number from 0.01"),
        (["--json", "/nowhere/at/all.json", "http://127.0.0.1/"], "no such directory"),
        (["--insecure", "--ca-file", "x", "https://127.0.0.1/"], "not allowed with"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_board_is_status_2_with_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    assert main([url]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"cannot reach a newsboard at {url}latest" in said
    assert main(["--ca-file", str(tmp_path / "none.pem"), "https://127.0.0.1/"]) == 2
    assert "should be a PEM file" in capsys.readouterr().err
    assert main(["--insecure", url]) == 2
    assert "are for https" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (web.Response(status=404), "is it a newsboard"),
        (
            web.Response(status=301, headers={"Location": "https://other.example/"}),
            "redirects to https://other.example/",
        ),
        (web.Response(text="<html>"), "bare integer"),
    ],
)
def test_something_else_than_a_board_is_told(answer: web.Response, says: str) -> None:
    async def latest(_request: web.Request) -> web.Response:
        return answer

    async def go() -> None:
        board = Board()
        board.app = web.Application()
        board.app.router.add_get("/latest", latest)
        async with serving(board) as url:
            await simulate(options(url, 5), Signals())

    with pytest.raises(UnusableError, match=says):
        asyncio.run(go())


def test_a_self_signed_board_needs_ca_file_or_insecure(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=board", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip

    async def go(*more: str) -> Report:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        runner = web.AppRunner(Board().app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        try:
            url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
            asked, _ = parse(["--duration", "0.2", "--deadline-ms", "1000", *more, url])
            return await simulate(asked, Signals())
        finally:
            await runner.cleanup()

    with pytest.raises(UnusableError, match="use --ca-file FILE or --insecure"):
        asyncio.run(go())
    assert asyncio.run(go("--insecure")).exit_status == 0
    assert asyncio.run(go("--ca-file", str(cert))).exit_status == 0


def test_an_address_is_connected_to_wherever_the_name_leads() -> None:
    async def go() -> Report:
        async with serving(Board()) as url:
            named = url.with_host("news.invalid")
            asked, _ = parse(["--duration", "0.2", "--deadline-ms", "1000", "--address", "127.0.0.1", str(named)])
            return await simulate(asked, Signals())

    assert asyncio.run(go()).exit_status == 0
