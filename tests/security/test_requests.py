"""What reaches Flask is what a browser could have sent, or the client is told of its mistake.

The app prober writes down all that arrives. Each request bears a word of its own, by which it is found there, and what
came in its wake.
"""

from __future__ import annotations

import json
import random
import re
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from cases import CASES, CASES2
from findings import Findings
from helpers import App, Promised, as_root, inventory_name
from helpers_http import ask
from raw import Exchange, exchange, exchange2, statuses2
from testinfra.host import Host

REVEALING = re.compile(
    r"nginx/\d|Welcome to nginx|debian|ubuntu|openssl|uwsgi|python|werkzeug|flask/\d|Traceback", re.I
)

# A mistake of the client's. The RFCs ask for 501 where a transfer coding is unknown, and for 505 where a version is.
REFUSED = {400, 403, 404, 405, 408, 411, 413, 414, 417, 421, 431, 444, 501, 505}

LIED = re.compile(r"203\.0\.113\.9|evil|gopher|666|127\.0\.0\.1")


@dataclass(frozen=True)
class Outcome:
    """What was answered to one case, and what the app saw of it."""

    exchange: Exchange
    arrived: list[dict[str, Any]]


def filled_in(text: bytes, app: App, word: str) -> bytes:
    """Fill the app's name and a word into a request."""
    name = app.canonical.encode()
    return text.replace(b"HOST", name).replace(b"CAPITALS", name.upper()).replace(b"WORD", word.encode())


def unlike_a_browser(arrived: dict[str, Any], app: App, client: str) -> list[str]:
    """List what about a request, as it arrived at Flask, no browser could have sent."""
    environ = arrived["environ"]
    headers = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
    query = environ.get("QUERY_STRING", "")
    found = {
        "method": not re.fullmatch("[A-Z]+", arrived["method"]),
        "version": arrived["protocol"] not in ("HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0"),
        "host": environ.get("HTTP_HOST") != app.canonical,
        "server name": environ.get("SERVER_NAME", app.canonical) != app.canonical,
        "url": not arrived["url"].startswith(f"https://{app.canonical}/"),
        "scheme": arrived["scheme"] != "https",
        "uri": not re.fullmatch(r"/[^\x00-\x20\x7f#]*", arrived["uri"]),
        # A browser resolves dots itself, however they are encoded.
        "path": not arrived["path"].startswith("/") or bool({".", ".."} & set(arrived["path"].split("/"))),
        "zero byte": "\0" in arrived["path"] or "\0" in query or any("\0" in value for value in headers.values()),
        # Scripts on a page may send any other byte in a header.
        "line end": any(re.search(r"[\r\n]", value) for value in headers.values()),
        "length": environ.get("CONTENT_LENGTH") not in ("", None, str(arrived["length"])),
        "length without one": arrived["length"] > 0 and not environ.get("CONTENT_LENGTH", "").isdigit(),
        "transfer encoding": "HTTP_TRANSFER_ENCODING" in headers,
        "Proxy": "HTTP_PROXY" in headers,
        "header that no client sends": any(name.startswith("HTTP_HTTP_") for name in headers),
        "header smuggled in": "HTTP_X_EVIL" in headers,
        "client": environ.get("REMOTE_ADDR") != client,
        "way": any(
            LIED.search(value)
            for name, value in headers.items()
            if name.startswith(("HTTP_X_FORWARDED", "HTTP_FORWARDED", "HTTP_X_REAL"))
        ),
    }
    return [name for name, wrong in found.items() if wrong]


OUTCOMES: dict[str, dict[str, Outcome]] = {}


@pytest.fixture(scope="module")
def outcomes(host: Host, promised: Promised, prober: App, findings: Findings) -> dict[str, Outcome]:
    """Send all of it, and ask the app what arrived."""
    name = inventory_name(host)
    if name in OUTCOMES:
        return OUTCOMES[name]
    address, run = promised.addresses[0], f"{random.getrandbits(48):012x}"
    words = {case: f"w{run}n{number:03}" for number, case in enumerate([*CASES, *(f"HTTP/2: {one}" for one in CASES2)])}

    def one(case: str) -> Exchange:
        word = words[case]
        if case in CASES:
            return exchange(address, prober.canonical, filled_in(CASES[case], prober, word))
        headers, body = CASES2[case.removeprefix("HTTP/2: ")]
        lines = [(filled_in(key, prober, word), filled_in(value, prober, word)) for key, value in headers]
        return exchange2(address, prober.canonical, lines, None if body is None else filled_in(body, prober, word))

    with ThreadPoolExecutor(8) as pool:
        exchanges = dict(zip(words, pool.map(one, words), strict=True))
    query = urllib.parse.urlencode({"word": f"w{run}"})
    arrived = json.loads(ask(address, prober.canonical, f"/-/received?{query}").text)
    OUTCOMES[name] = {
        case: Outcome(exchanges[case], [request for request in arrived if word in json.dumps(request)])
        for case, word in words.items()
    }
    reached = [outcome for outcome in OUTCOMES[name].values() if outcome.arrived]
    findings.add(
        "Requests that no browser sends", ["host", "tried", "refused", "reached the app, as a browser's"],
        [name, len(words), len(words) - len(reached), len(reached)],
    )  # fmt: skip
    return OUTCOMES[name]


@pytest.mark.parametrize("case", [*CASES, *(f"HTTP/2: {case}" for case in CASES2)])
def test_reaches_the_app_as_a_browsers_request_or_not_at_all(
    case: str, outcomes: dict[str, Outcome], prober: App
) -> None:
    outcome = outcomes[case]
    told = f"answered {outcome.exchange.text[:300]!r}, arrived {[one['uri'] for one in outcome.arrived]}"
    assert len(outcome.arrived) <= 1, f"one request became several: {told}"
    for arrived in outcome.arrived:
        assert not arrived["uri"].startswith("/smuggled"), told
        strange = unlike_a_browser(arrived, prober, outcome.exchange.client)
        assert not strange, f"{', '.join(strange)}: {arrived['method']} {arrived['uri']} {arrived['environ']}"


@pytest.mark.parametrize("case", CASES)
def test_answer_is_one_and_blames_the_client_where_nothing_arrived(case: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case]
    statuses = outcome.exchange.statuses
    # A redirect, to a name that is ours by another port or spelling, is an answer too.
    assert len(statuses) <= 1 or (statuses[-1] in REFUSED and len(statuses) == 2), outcome.exchange.text[:500]
    if not outcome.arrived:
        assert set(statuses) <= {*REFUSED, 301, 308}, outcome.exchange.text[:300]
    assert not REVEALING.search(re.sub(r"(?s)\{.*\}", "", outcome.exchange.text)), outcome.exchange.text[:500]


@pytest.mark.parametrize("case", CASES2)
def test_answer_over_http2_blames_the_client_where_nothing_arrived(case: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[f"HTTP/2: {case}"]
    statuses = statuses2(outcome.exchange.answer)
    assert len(statuses) <= 1
    if outcome.arrived:
        assert statuses == [200]
    else:
        assert set(statuses) <= {*REFUSED, 301, 308}
    assert not REVEALING.search(re.sub(r"(?s)\{.*\}", "", outcome.exchange.text)), outcome.exchange.text[:500]


@pytest.mark.parametrize(("name", "value"), [("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer")])
def test_header_that_the_app_sends_is_the_apps_and_there_once(
    name: str, value: str, promised: Promised, prober: App
) -> None:
    path = "/?" + urllib.parse.urlencode({f"answer-{name}": value})
    answer = ask(promised.addresses[0], prober.canonical, path)
    assert answer.status == 200
    found = [text for key, text in answer.fields if key == name.lower()]
    assert found == [value]


def test_requests_in_a_row_arrive_one_by_one(promised: Promised, prober: App) -> None:
    word = f"row{random.getrandbits(48):012x}"
    requests = [f"GET /{word}/{number} HTTP/1.1\r\nHost: {prober.canonical}\r\n" for number in range(3)]
    body = f"POST /{word}/body HTTP/1.1\r\nHost: {prober.canonical}\r\nContent-Length: 5\r\n\r\nhello"
    sent = "\r\n".join([*requests[:2], body + requests[2] + "Connection: close\r\n", ""])
    done = exchange(promised.addresses[0], prober.canonical, sent.encode())
    assert done.statuses == [200] * 4
    arrived = json.loads(ask(promised.addresses[0], prober.canonical, f"/-/received?word={word}").text)
    assert [(one["uri"], one["body"]) for one in arrived] == [
        (f"/{word}/0", ""), (f"/{word}/1", ""), (f"/{word}/body", "hello"), (f"/{word}/2", ""),
    ]  # fmt: skip


def test_rest_of_a_refused_body_is_no_request(promised: Promised, prober: App) -> None:
    word = f"rest{random.getrandbits(48):012x}"
    smuggled = f"GET /{word} HTTP/1.1\r\nHost: {prober.canonical}\r\n\r\n"
    length = prober.max_body_bytes + 1
    sent = f"POST / HTTP/1.1\r\nHost: {prober.canonical}\r\nContent-Length: {length}\r\n\r\n{smuggled}"
    done = exchange(promised.addresses[0], prober.canonical, sent.encode())
    assert done.statuses == [413]
    assert json.loads(ask(promised.addresses[0], prober.canonical, f"/-/received?word={word}").text) == []


# --- what isn't for us, or isn't HTTP

CHANCE = random.Random(4)  # the same noise each time

NOISE: dict[str, bytes] = {
    "nothing but line ends": b"\r\n" * 500,
    "zero bytes": bytes(1000),
    "letters without an end": b"A" * 70_000,
    "handshake of SSL 2": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + bytes(16),
    "handshake of TLS that breaks off": bytes.fromhex("16030100c8010000c40303") + bytes(40),
    "alert of TLS": bytes.fromhex("15030300020228"),
    "heartbeat of TLS": bytes.fromhex("1803020003014000"),
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
    "preface of HTTP/2, and nonsense": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
    "PROXY protocol": b"PROXY TCP4 203.0.113.9 203.0.113.1 5555 443\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "PROXY protocol 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SMTP": b"EHLO evil.example\r\nMAIL FROM:<a@evil.example>\r\n",
    "uwsgi": b"\0\x20\0\0\x0e\0REQUEST_METHOD\x03\0GET\x09\0PATH_INFO\x01\0/",
    "HTTP/0.9": b"GET /\r\n",
    "an unknown host": b"GET / HTTP/1.1\r\nHost: nobody-lives-here.example\r\nConnection: close\r\n\r\n",
    "no host": b"GET / HTTP/1.0\r\n\r\n",
    **{f"noise {number}": CHANCE.randbytes(1000) for number in range(5)},
}  # fmt: skip

WAYS = {"port 80": (80, False), "port 443 without TLS": (443, False), "an unknown name in TLS": (443, True)}

STATE = """
ps -o pid=,lstart= --ppid "$(cat /run/nginx.pid)" | sort
grep -cE '\\[(emerg|alert|crit)\\]' /var/log/nginx/error.log || true
"""


@pytest.mark.parametrize("way", WAYS)
def test_stranger_and_noise_meet_no_page_no_fault_and_no_version(
    way: str, promised: Promised, findings: Findings
) -> None:
    port, tls = WAYS[way]
    address = promised.addresses[0]

    def one(sent: bytes) -> Exchange:
        return exchange(address, "nobody-lives-here.example", sent, port=port, tls=tls)

    with ThreadPoolExecutor(8) as pool:
        done = dict(zip(NOISE, pool.map(one, NOISE.values()), strict=True))
    statuses = sorted({status for outcome in done.values() for status in outcome.statuses})
    findings.add(
        "Strangers and noise", ["host", "way", "tried", "answered with"],
        [promised.host, way, len(done), ", ".join(map(str, statuses)) or "nothing"],
    )  # fmt: skip
    for what, outcome in done.items():
        text = outcome.text
        assert set(outcome.statuses) <= {400, 408, 414, 421, 431}, f"{what}: {text[:300]}"
        assert not REVEALING.search(text), f"{what}: {text[:300]}"
        if not outcome.statuses:
            # A server that speaks TLS or HTTP/2 may say in it that it won't: an alert, or settings and a farewell.
            # HTTP/0.9 has no status; the page alone says what is wrong.
            assert ("<" not in text and len(text) < 200) or "<h1>400 Bad Request" in text, f"{what}: {text[:300]}"


def test_noise_behind_a_good_handshake_is_the_clients_fault(promised: Promised, prober: App) -> None:
    def one(sent: bytes) -> Exchange:
        return exchange(promised.addresses[0], prober.canonical, sent)

    with ThreadPoolExecutor(8) as pool:
        done = dict(zip(NOISE, pool.map(one, NOISE.values()), strict=True))
    for what, outcome in done.items():
        if what == "no host":  # HTTP/1.0 needs none, and the handshake has named it
            continue
        assert set(outcome.statuses) <= {400, 408, 414, 421, 431}, f"{what}: {outcome.text[:300]}"
        assert not REVEALING.search(outcome.text), f"{what}: {outcome.text[:300]}"
        assert outcome.statuses or "<" not in outcome.text, f"{what}: a page, and no status: {outcome.text[:300]}"


def at_rest(host: Host) -> str:
    """Take the state once nothing more is logged: on a busy machine, what was sent before has its lines later."""
    state = as_root(host, STATE)
    for _ in range(20):
        time.sleep(0.5)
        if (now := as_root(host, STATE)) == state:
            break
        state = now
    return state


def test_server_has_taken_no_harm(host: Host, promised: Promised, prober: App) -> None:
    before = at_rest(host)
    with ThreadPoolExecutor(8) as pool:
        for port in (80, 443):
            for sent in NOISE.values():
                pool.submit(exchange, promised.addresses[0], None, sent, port=port, tls=False)
    assert at_rest(host) == before, "a worker of NGINX ended, or something grave was logged"
    assert ask(promised.addresses[0], prober.canonical, prober.health_path).status == 200


def test_answer_with_long_headers_reaches_the_client(promised, prober):
    # A session's cookie may be 4 KB long, and is not the only header.
    value = "x" * 6000
    answer = ask(promised.addresses[0], prober.canonical, f"/long-header?answer-X-Long={value}")
    assert (answer.status, answer.headers.get("x-long")) == (200, value)
