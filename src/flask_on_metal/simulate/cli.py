"""Options, progress, signals and the exit status of bin/simulate."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from yarl import URL

from flask_on_metal.simulate.content import Content
from flask_on_metal.simulate.load import Load, OneAddress, Pace, Tally, percentile
from flask_on_metal.simulate.readback import PAGE_TIMEOUT, Reader, ReadError, parse_latest, read_back
from flask_on_metal.simulate.report import Report

MAX_POSTS = 2_000_000
"""Posts per run. The account of one takes some 25 bytes, so this is 50 MB."""

SPARE_FILES = 64
"""Open files kept back from the in-flight bound for everything that isn't a post."""

USAGE_ERROR = 2

DESCRIPTION = """\
Replays the course examiner's load against a running newsboard, and accounts for every post.

Posts go out at a fixed rate whether or not the board keeps up, and are never retried. Latency counts from
when a post was due. Afterwards every accepted post is read back and compared."""

EPILOG = """\
Every post that fell due has exactly one outcome:
  accepted  answered 200, and the answer read to its end
  refused   answered with any other status (a redirect too: it is not followed)
  failed    not answered, by kind: connect, reset, timeout, tls, incomplete, protocol, interrupted, and client
            (this machine ran out of open files or local ports)
  not sent  the client's own doing: at --max-in-flight, or behind by more than --timeout
Of the accepted, late ones took longer than --deadline-ms; lost ones are not there afterwards; altered ones
are there with other content. If the read-back can't be finished, lost is "unknown".

Connections: the examiner's client opens a new connection for each post, so that is the default, and each
latency includes TCP and TLS setup as the examiner's does. It costs this client about twice the CPU, with TLS
three times. With --keep-alive connections are reused: for high rates, or to measure the board without its
handshakes. A board that closes an idle connection just as a post goes out then shows up as "reset".

Run it alone against a board: ids go up from /latest, and a second poster would use the same ones. The posts
stay. Ctrl-C stops sending and still accounts for what was sent; a second Ctrl-C gives up the rest.

exit status:
  0  all accepted, none lost or altered or stored twice, /latest right, and no more late than --max-late
  1  otherwise, or when it can't be told
  2  wrong usage, or no newsboard at URL

examples:
  bin/simulate https://news.example.org/
  bin/simulate --rate 500 --duration 30 --keep-alive --insecure https://192.0.2.10/
  bin/simulate --json - http://127.0.0.1:5000/ | jq .posts"""


class UnusableError(Exception):
    """Nothing can be measured. The text says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """One run, as asked for."""

    url: URL
    pace: Pace
    seed: int = 1
    comments_ratio: float = 0.8
    max_late: float = 0.01
    tls: ssl.SSLContext | bool = True
    address: str | None = None


class Signals:
    """The first Ctrl-C stops the sending, the second gives up waiting and reading back."""

    def __init__(self) -> None:
        """Nothing asked yet."""
        self.stop = asyncio.Event()
        self.abort = asyncio.Event()

    def interrupt(self) -> None:
        """Handle one SIGINT or SIGTERM."""
        (self.abort if self.stop.is_set() else self.stop).set()


def _number(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
    return value


def _whole(text: str, low: int, high: int) -> int:
    value = _number(text, low, high)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def _url(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise argparse.ArgumentTypeError(f"{text!r} should look like https://host/ or http://host:port/")
    if url.query_string or url.fragment:
        raise argparse.ArgumentTypeError(f"{text!r} should be the board's front page, without ? and #")
    if url.user or url.password:
        raise argparse.ArgumentTypeError("the URL has a user name or password in it, which a board doesn't take")
    return url


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bin/simulate",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("url", metavar="URL", type=_url, help="the board's front page; a path in it is kept")
    add(
        "--rate",
        type=lambda t: _number(t, 0.01, 20_000),
        default=100.0,
        help="posts per second (default 100)",
    )
    add(
        "--duration",
        type=lambda t: _number(t, 0.01, 1e7),
        default=60.0,
        help="seconds of sending (default 60)",
    )
    add(
        "--timeout", type=lambda t: _number(t, 0.01, 600), default=10.0,
        help="seconds after it was due at which a post is given up (default 10; the examiner does at 0.1)",
    )  # fmt: skip
    add(
        "--deadline-ms", type=lambda t: _number(t, 0.1, 600_000), default=100.0,
        help="milliseconds after it was due at which an answer is late (default 100)",
    )  # fmt: skip
    add(
        "--max-late", type=lambda t: _number(t, 0, 100), default=1.0, metavar="PERCENT",
        help="percentage of accepted posts that may be late (default 1)",
    )  # fmt: skip
    add(
        "--comments-ratio", type=lambda t: _number(t, 0, 1), default=0.8, metavar="SHARE",
        help="share of the posts that are comments, 0 to 1; the others are stories (default 0.8)",
    )  # fmt: skip
    add(
        "--seed",
        type=lambda t: _whole(t, 0, 2**31),
        default=1,
        help="content is the same for the same seed (default 1)",
    )
    add(
        "--keep-alive", action=argparse.BooleanOptionalAction, default=False,
        help="reuse connections instead of a new one per post (default --no-keep-alive; see below)",
    )  # fmt: skip
    add(
        "--max-in-flight", type=lambda t: _whole(t, 1, 100_000), default=10_000, metavar="N",
        help="safety bound on posts under way; one that falls due beyond it is counted as not sent "
        "(default 10000, or what `ulimit -n` allows)",
    )  # fmt: skip
    add(
        "--address",
        metavar="ADDRESS",
        help="connect there, wherever the URL's name leads, as before a change of DNS",
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ca-file", type=Path, metavar="FILE", help="trust the certificates in FILE (PEM)")
    trust.add_argument("--insecure", action="store_true", help="do not check the board's certificate")
    add("--json", metavar="FILE", help="write the report as JSON to FILE; - prints it instead of the table")
    return parser


def _tls(url: URL, ca_file: Path | None, insecure: bool) -> ssl.SSLContext | bool:
    if (ca_file or insecure) and url.scheme != "https":
        raise UnusableError(f"--ca-file and --insecure are for https, but the URL is {url}")
    if insecure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UnusableError(
            f"cannot use --ca-file {ca_file}: {error.strerror or error}; it should be a PEM file"
        ) from error


def _in_flight_bound(wanted: int) -> int:
    """Lower the bound to what the limit on open files allows, once that is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - SPARE_FILES))


def parse(arguments: Sequence[str] | None) -> tuple[Options, str | None]:
    """Return the run asked for, and where its JSON goes. Wrong usage ends the process with status 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    posts = max(1, round(given.rate * given.duration))
    if posts > MAX_POSTS:
        parser.error(f"--rate x --duration makes {posts:,} posts; {MAX_POSTS:,} is the most one run can account for")
    pace = Pace(
        rate=given.rate,
        posts=posts,
        timeout=given.timeout,
        deadline=given.deadline_ms / 1000,
        keep_alive=given.keep_alive,
        max_in_flight=_in_flight_bound(given.max_in_flight),
    )
    if given.json not in (None, "-") and not Path(given.json).absolute().parent.is_dir():
        # Better now than after a minute of load.
        parser.error(f"--json {given.json}: there is no such directory")
    options = Options(
        url=given.url,
        pace=pace,
        seed=given.seed,
        comments_ratio=given.comments_ratio,
        max_late=given.max_late / 100,
        tls=_tls(given.url, given.ca_file, given.insecure),
        address=given.address,
    )
    return options, given.json


async def _latest_before(session: aiohttp.ClientSession, options: Options) -> int:
    """Ask for /latest before the load; raises UnusableError when there is no board to be found."""
    url = options.url / "latest"
    try:
        async with session.get(url, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=10)) as answer:
            status, location = answer.status, answer.headers.get("Location")
            # The first bytes do: something else may answer with pages without end.
            text = await answer.content.read(1000)
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        why = error.__cause__ or error.__context__ or error
        raise UnusableError(
            f"the certificate of {options.url} is not trusted or TLS failed ({why}); for a board with a "
            "certificate of its own use --ca-file FILE or --insecure"
        ) from error
    except aiohttp.ClientConnectorDNSError as error:
        raise UnusableError(f"there is no host called {options.url.host}; check the URL") from error
    except TimeoutError as error:
        raise UnusableError(
            f"{url} gave no answer in 10 s; is the board up, and does a firewall let you through?"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnusableError(f"cannot reach a newsboard at {url} ({error}); is it running there?") from error
    if location and 300 <= status < 400:
        raise UnusableError(f"{url} redirects to {location}; give the URL that it leads to")
    if status != 200:
        raise UnusableError(f"{url} answered {status} instead of 200; is it a newsboard, and is its database up?")
    try:
        return parse_latest(url, text)
    except ReadError as error:
        raise UnusableError(f"{error}; is this a newsboard?") from error


async def simulate(options: Options, signals: Signals, console: Console | None = None) -> Report:
    """Make one run. `console` (on stderr) gets the progress; raises UnusableError when there is no board."""
    reading = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            ssl=options.tls, resolver=OneAddress(options.address) if options.address else None
        ),
        timeout=aiohttp.ClientTimeout(total=PAGE_TIMEOUT),
        headers={"User-Agent": "newsboard-simulate"},
    )
    async with reading as session:
        before = await _latest_before(session, options)
        content = Content(options.seed, max(before, 0) + 1, options.comments_ratio)
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        load = Load(options.url, content, options.pace, options.tls, options.address)
        async with _progress(console, load.tally, options.pace):
            tally = await load.run(signals.stop, signals.abort)
        interrupted = signals.stop.is_set()
        if console is not None:
            console.print("Reading back what was accepted ...", style="dim")
        # The session may hold a connection that the board dropped long ago; GETs are tried again.
        result = await read_back(
            Reader(session, options.url), content, tally.outcomes[: tally.due], before, signals.abort
        )
    return Report(
        url=str(options.url),
        started_at=started_at,
        seed=options.seed,
        comments_ratio=options.comments_ratio,
        max_late=options.max_late,
        interrupted=interrupted,
        first_id=content.first_id,
        pace=options.pace,
        tally=tally,
        read_back=result,
    )


@contextlib.asynccontextmanager
async def _progress(console: Console | None, tally: Tally, pace: Pace) -> AsyncIterator[None]:
    """Show how the run goes while the block runs: a bar on a terminal, else a line every five seconds."""
    if console is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        if console.is_terminal:
            # Refreshed from here: rich's own thread would take the interpreter from the sender when it pleases.
            columns = (BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
            bar = stack.enter_context(Progress(*columns, console=console, auto_refresh=False, transient=True))
            # rich's first drawing takes tens of milliseconds, so it is done before the load.
            bar.add_task("", total=pace.posts)
            bar.refresh()
            task = asyncio.create_task(_bar(bar, tally))
        else:
            task = asyncio.create_task(_lines(tally, pace))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _lines(tally: Tally, pace: Pace) -> None:
    while True:
        await asyncio.sleep(5)
        # Plain print: rich's would delay the posts that fall due meanwhile.
        print(f"{tally.due}/{pace.posts} due: {_live(tally)}", file=sys.stderr, flush=True)


async def _bar(bar: Progress, tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    then, sent = loop.time(), 0
    while True:
        await asyncio.sleep(0.5)
        now = loop.time()
        rate = (tally.sent - sent) / (now - then)
        then, sent = now, tally.sent
        bar.update(bar.task_ids[0], completed=tally.due, description=f"{rate:.0f}/s {_live(tally)}")
        bar.refresh()


def _live(tally: Tally) -> str:
    recent = sorted(tally.recent)
    p50, p99 = percentile(recent, 0.5), percentile(recent, 0.99)
    times = "" if p50 is None or p99 is None else f", p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
    return (
        f"sent {tally.sent}, accepted {tally.accepted}, late {tally.late}, refused {tally.refused.total()}, "
        f"failed {tally.failed.total()}{times}"
    )


async def _run(options: Options) -> Report:
    signals = Signals()
    loop = asyncio.get_running_loop()
    # SIGTERM as well: a job that is told to end still leaves its account.
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.interrupt)
    return await simulate(options, signals, Console(stderr=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run bin/simulate with these arguments (the process's own by default); the exit status."""
    try:
        options, destination = parse(arguments)
        report = asyncio.run(_run(options))
    except UnusableError as error:
        print(f"bin/simulate: {error}", file=sys.stderr)
        return USAGE_ERROR
    text = json.dumps(report.as_json(), indent=2, ensure_ascii=False)
    if destination == "-":
        print(text)
        return report.exit_status
    report.show(Console(highlight=False))
    if destination is not None:
        try:
            Path(destination).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            print(f"bin/simulate: cannot write --json {destination}: {error.strerror}", file=sys.stderr)
            return USAGE_ERROR
    return report.exit_status
