"""Runs scanners that this project did not write, and tells what they found."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent
from helpers import ROOT, private_folder

SCANNERS = ROOT / ".venv-scanners" / "bin"
PROFILES = Path(__file__).with_name("mozilla_tls_6.0.json")


def run(*words: str | Path, timeout: float, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program with the least of rights to this machine's processors: others measure meanwhile."""
    return subprocess.run(
        ["nice", *map(str, words)], input=text, capture_output=True, text=True, timeout=timeout, check=False
    )


# --- sslyze


@cache
def mozilla(name: str) -> dict[str, Any]:
    """Return one of Mozilla's configurations, of version 6.0."""
    return json.loads(PROFILES.read_text())["configurations"][name]


def as_sslyze_reads_it(configuration: dict[str, Any]) -> dict[str, Any]:
    """Convert a configuration to the format of version 5.7, which has the ciphers' names in two more writings.

    sslyze compares with IANA's names alone.
    """
    return configuration | {"ciphers": {"caddy": [], "go": [], **configuration["ciphers"]}}


@dataclass(frozen=True)
class Compared:
    """What sslyze finds different from a configuration, and all that it saw."""

    issues: dict[str, str]
    seen: dict[str, Any]


def sslyze(address: str, name: str, configuration: dict[str, Any]) -> Compared:
    """Scan what answers to a name at an address, and compare it with a configuration."""
    with private_folder() as folder:
        profile, report = folder / "profile.json", folder / "report.json"
        profile.write_text(json.dumps(as_sslyze_reads_it(configuration)))
        target = f"[{address}]:443" if ":" in address else f"{address}:443"
        done = run(
            SCANNERS / "sslyze", f"--custom_tls_config={profile}", f"--json_out={report}", f"--sni={name}",
            "--slow_connection", "--certinfo", "--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3",
            "--heartbleed", "--robot", "--openssl_ccs", "--fallback", "--compression", "--reneg", "--elliptic_curves",
            "--ems", "--early_data", "--resum", "--http_headers", target, timeout=120,
        )  # fmt: skip
        issues = dict(re.findall(r"^ +\* (\w+): (.+)$", done.stdout.partition("COMPLIANCE AGAINST")[2], re.MULTILINE))
        if not issues and "OK - Compliant." not in done.stdout:
            raise RuntimeError(f"sslyze gave no verdict on {target} ({name}):\n{done.stdout[-2000:]}{done.stderr}")
        (result,) = json.loads(report.read_text())["server_scan_results"]
        return Compared(issues, {part: found["result"] for part, found in result["scan_result"].items()})


# --- testssl.sh


@dataclass(frozen=True)
class Finding:
    """One finding of testssl.sh or gixy."""

    identity: str
    severity: str
    text: str


def tls_scan(address: str, name: str, *parts: str) -> list[Finding]:
    """Scan what answers to a name at an address; without parts, everything."""
    with private_folder() as folder:
        report = folder / "report.json"
        done = run(
            "testssl", "--quiet", "--color=0", "--warnings=off", "--nodns=none", f"--ip={address}",
            f"--jsonfile={report}", *parts, f"https://{name}", timeout=600,
        )  # fmt: skip
        # Its status counts the findings; a scan that was broken off has no time.
        found = json.loads(report.read_text()) if report.exists() else []
        if not any(one["id"] == "scanTime" and one["severity"] == "INFO" for one in found):
            raise RuntimeError(f"testssl.sh did not come to its end on {address} ({name}):\n{done.stdout[-2000:]}")
        return [Finding(one["id"], one["severity"], one["finding"]) for one in found]


# --- gixy


def gixy(dump: str) -> list[Finding]:
    """Read a whole configuration of NGINX, as `nginx -T` shows it."""
    done = run(SCANNERS / "gixy", "--format=json", "-", timeout=60, text=dump)
    if done.returncode not in (0, 1) or "Switched to parse nginx configuration dump" not in done.stderr:
        raise RuntimeError(f"gixy did not read the configuration:\n{done.stdout}{done.stderr}")
    return [
        Finding(one["plugin"], one["severity"], f"{one['file']}: {one['reason']} {one['config']}")
        for one in json.loads(done.stdout)
    ]


# --- load over HTTP/2


def h2load(address: str, name: str, path: str, *, requests: int, clients: int) -> dict[str, int]:
    """Send requests over HTTP/2, and count what became of them."""
    target = f"[{address}]:443" if ":" in address else f"{address}:443"
    done = run(
        "h2load", f"--requests={requests}", f"--clients={clients}", "--max-concurrent-streams=10",
        f"--connect-to={target}", f"https://{name}{path}", timeout=60,
    )  # fmt: skip
    line = re.search(r"^requests: (.+)$", done.stdout, re.MULTILINE)
    codes = re.search(r"^status codes: (.+)$", done.stdout, re.MULTILINE)
    if not line or not codes:
        raise RuntimeError(f"h2load said nothing of its requests:\n{done.stdout}{done.stderr}")
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", f"{line[1]}, {codes[1]}")}
    rate = re.search(r"([0-9.]+) req/s", done.stdout)
    return counts | {"h2": int("Application protocol: h2" in done.stdout), "rate": int(float(rate[1])) if rate else 0}


# --- HTTP/3


@dataclass(frozen=True)
class Http3Answer:
    """What was answered over QUIC."""

    status: int
    headers: dict[str, str]
    body: bytes
    early_data: bool


class _Http3Client(QuicConnectionProtocol):
    """Asks one question."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._http = H3Connection(self._quic)
        self._headers: dict[str, str] = {}
        self._body = b""
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask(self, name: str, path: str) -> Http3Answer:
        stream = self._quic.get_next_available_stream_id()
        headers = {":method": "GET", ":scheme": "https", ":authority": name, ":path": path}
        self._http.send_headers(stream, [(key.encode(), value.encode()) for key, value in headers.items()], True)
        self.transmit()
        await asyncio.wait_for(self._done, 10)
        early = bool(self._quic.tls.early_data_accepted)
        return Http3Answer(int(self._headers[":status"]), self._headers, self._body, early)

    def quic_event_received(self, event: QuicEvent) -> None:
        for one in self._http.handle_event(event):
            if isinstance(one, HeadersReceived):
                self._headers |= {key.decode(): value.decode() for key, value in one.headers}
            if isinstance(one, DataReceived):
                self._body += one.data
            if isinstance(one, HeadersReceived | DataReceived) and one.stream_ended and not self._done.done():
                self._done.set_result(None)


def http3(address: str, name: str, path: str) -> Http3Answer:
    """Ask over HTTP/3.

    Raises:
        ConnectionError: nobody speaks QUIC there.
        TimeoutError: or is too slow to.
    """
    # Any certificate is taken, as the tests over TCP do it.
    settings = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name=name, verify_mode=ssl.CERT_NONE, idle_timeout=5
    )

    async def question() -> Http3Answer:
        async with connect(address, 443, configuration=settings, create_protocol=_Http3Client) as client:
            return await cast(_Http3Client, client).ask(name, path)

    return asyncio.run(asyncio.wait_for(question(), 15))
