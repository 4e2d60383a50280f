"""What the benchmark runs on a host: one JSON request a line on stdin, one JSON answer a line on stdout.

The same file is on the host that is measured and on the one that sends the load. It needs Debian's Python and nothing
else, and it ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import platform
import re
import resource
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TICKS = os.sysconf("SC_CLK_TCK")
"""The unit of time in /proc/<pid>/stat, a second's part."""
OPEN_FILES = 65536
VERSIONS = {
    "nginx": ["/usr/sbin/nginx", "-v"],
    "uwsgi": ["/usr/bin/uwsgi-core", "--version"],
    "wrk": ["/usr/bin/wrk", "-v"],
    "openssl": ["/usr/bin/openssl", "version"],
}


# --- the machine


def facts() -> dict[str, Any]:
    """Tell what this machine is, and the versions of what it runs."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    # The same for a throw-away host and the machine it is on, which have one kernel.
    booted = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    versions = {"python": platform.python_version()}
    for name, command in VERSIONS.items():
        with contextlib.suppress(OSError):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
            if found := re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr):
                versions[name] = found[0]
    groups = Path("/proc/sys/kernel/sched_autogroup_enabled")
    return {
        # The kernel's, which share the CPU between sessions and not between programs.
        "automatic_groups": groups.exists() and groups.read_text().strip() == "1",
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu[1] if cpu else platform.machine(),
        "memory_mb": int(memory[1]) // 1024 if memory else 0,
        "booted": int(booted[1]) if booted else 0,
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


# --- the stacks


def systemctl(verb: str, units: list[str]) -> dict[str, Any]:
    """Start or stop units."""
    done = subprocess.run(["systemctl", verb, "--", *units], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"systemctl {verb} failed")
    return {}


def cpu(units: list[str]) -> dict[str, Any]:
    """Add up what the processes of each unit have used.

    The accounts of control groups would be simpler, and a throw-away host has none. Which unit a process belongs to
    stands in /proc all the same.
    """
    used = dict.fromkeys(units, 0.0)
    for unit, stat in read_processes(units, "stat"):
        used[unit] += stat_seconds(stat)
    return {"seconds": used, "machine": machine_seconds()}


def read_processes(units: list[str], name: str) -> Iterator[tuple[str, str]]:
    """Read the same file of /proc for each process of the units, with its unit."""
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            group = (folder / "cgroup").read_text()
            unit = next((unit for unit in units if f"/{unit}\n" in group or f"/{unit}/" in group), None)
            if unit:
                yield unit, (folder / name).read_text()


def machine_seconds() -> float:
    """Return the CPU seconds that all processes of the machine have used. A throw-away host counts with it."""
    user, nice, system = Path("/proc/stat").read_text().split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / TICKS


def stat_seconds(stat: str) -> float:
    """Read a process's CPU seconds, those of its children that have ended included, from its /proc/<pid>/stat."""
    # The name is in brackets and may hold anything; after it, utime is the twelfth field.
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def memory(units: list[str]) -> dict[str, Any]:
    """Add up the proportional set sizes of the units' processes, in MB: what is shared counts once."""
    sizes = [
        int(size)
        for _, rollup in read_processes(units, "smaps_rollup")
        for size in re.findall(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
    ]
    return {"mb": round(sum(sizes) / 1024, 1)}


# --- the load


GET_TIMEOUT = 5.0
"""Seconds that one question may take."""


def get(url: str, headers: dict[str, str], body: str | None = None) -> dict[str, Any]:
    """Ask once, and tell what came back."""
    parts = urlsplit(url)
    assert parts.hostname
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=GET_TIMEOUT, context=unverified())
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=GET_TIMEOUT)
    try:
        connection.request("GET" if body is None else "POST", parts.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "error": str(error) or type(error).__name__}
    finally:
        connection.close()
    return {
        "status": answer.status,
        "digest": hashlib.sha256(content).hexdigest(),
        "length": len(content),
        "made": answer.headers.get("X-Made", ""),
    }


def unverified() -> ssl.SSLContext:
    """Take any certificate: it is the speed that is looked at."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def wrk(
    url: str, headers: dict[str, str], seconds: int, connections: int, threads: int, script: str,
    post: bool = False, lead: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Send as many requests as get answered, over a number of connections.

    Args:
        url: What is asked for.
        headers: Of each request.
        seconds: How long is counted.
        connections: At a time.
        threads: Of the load generator.
        script: Path of wrk.lua.
        post: Whether documents are posted.
        lead: Seconds before that, in which the connections are made.
    """
    command = [
        "wrk",
        f"-t{min(threads, connections)}",
        f"-c{connections}",
        f"-d{lead + seconds}s",
        "--timeout=2s",
        "-s",
        script,
    ]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, url, "post" if post else "get", str(lead)],
        capture_output=True, text=True, check=False, timeout=lead + seconds + 60,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if not found:
        raise RuntimeError(f"wrk said: {(done.stderr or done.stdout).strip()[-400:]}")
    result: dict[str, Any] = json.loads(found[1])
    result["load_cpu_s"] = round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 3)
    return result


def steady(
    url: str,
    headers: dict[str, str],
    rate: float,
    seconds: float,
    slow_url: str = "",
    slow: int = 0,
    calm: float = 0,
    until_told: bool = False,
) -> dict[str, Any]:
    """Send fast requests at a fixed rate, and from some moment on keep a number of slow ones under way.

    Args:
        url: What is fast.
        headers: Of each request.
        rate: Fast requests a second, sent whether or not the ones before are answered.
        seconds: How long fast ones are sent, at most.
        slow_url: What is slow.
        slow: Slow requests under way at any time.
        calm: Seconds before the first slow one.
        until_told: Whether no more are sent once something stands in stdin, an empty line for one.
    """
    return asyncio.run(_steady(url, headers, rate, seconds, slow_url, slow, calm, until_told))


FAST_TIMEOUT = 5.0
"""Seconds after which a fast request is given up."""


async def _steady(
    url: str,
    headers: dict[str, str],
    rate: float,
    seconds: float,
    slow_url: str,
    slow: int,
    calm: float,
    until_told: bool,
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    begun = loop.time() + 0.1
    points: list[tuple[float, float, bool]] = []
    slow_statuses: list[int] = []

    async def fast(due: float) -> None:
        await asyncio.sleep(begun + due - loop.time())
        try:
            status = await asyncio.wait_for(plain_status(url, headers), FAST_TIMEOUT)
        except (OSError, TimeoutError, ValueError, EOFError):
            status = 0
        # From when it was due: a client that is late counts as well, and shows.
        points.append((round(due, 4), round((loop.time() - begun - due) * 1000, 3), status == 200))

    async def keep_slow() -> None:
        await asyncio.sleep(begun + calm - loop.time())
        while loop.time() < begun + seconds:
            try:
                slow_statuses.append(await asyncio.wait_for(plain_status(slow_url, headers), 30))
            except (OSError, TimeoutError, ValueError, EOFError):
                slow_statuses.append(0)
                await asyncio.sleep(0.1)

    slow_tasks = [asyncio.create_task(keep_slow()) for _ in range(slow)]
    fast_tasks = [asyncio.create_task(fast(number / rate)) for number in range(int(seconds * rate))]

    def told() -> None:
        """Leave out what isn't due yet; what is under way gets its answer."""
        loop.remove_reader(sys.stdin)
        for task in fast_tasks[int((loop.time() - begun) * rate) + 1 :]:
            task.cancel()

    if until_told:
        loop.add_reader(sys.stdin, told)
    await asyncio.gather(*fast_tasks, return_exceptions=True)
    if until_told:
        loop.remove_reader(sys.stdin)
    for task in slow_tasks:
        task.cancel()
    await asyncio.gather(*slow_tasks, return_exceptions=True)
    return {
        "points": sorted(points),
        "slow_answered": slow_statuses.count(200),
        "slow_failed": len(slow_statuses) - slow_statuses.count(200),
    }


CROWD_TIMEOUT = 10.0
"""Seconds after which a connection that doesn't come about, or a request without an answer, is given up."""


def crowd(url: str, headers: dict[str, str], connections: int, rate: float, seconds: float) -> dict[str, Any]:
    """Open many connections at once, and send requests over them once all stand.

    Args:
        url: What is asked for.
        headers: Of each request.
        connections: How many, each of one client.
        rate: Requests a second over all of them, sent when they are due.
        seconds: How long.

    Returns:
        made: of the phase of connecting, handshakes included: how many came about, and how long each took, in ms.
        points: of the other: when each request was due (s), how long it took from then (ms), whether it was a 200.
    """
    return asyncio.run(_crowd(url, headers, connections, rate, seconds))


class Client:
    """One connection, and one request at a time over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        """Take a connection that stands."""
        self.reader, self.writer, self.request = reader, writer, request
        self.turn = asyncio.Lock()

    async def ask(self) -> int:
        """Send the request once it is this one's turn, read the answer to its end, and return its status."""
        async with self.turn:
            self.writer.write(self.request)
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"^content-length: *(\d+)", head, re.MULTILINE | re.IGNORECASE)
            await self.reader.readexactly(int(length[1]) if length else 0)
            return int(head[9:12])


async def _crowd(url: str, headers: dict[str, str], connections: int, rate: float, seconds: float) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    fields = {"Host": parts.netloc, **headers}
    lines = [f"GET {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    request = "\r\n".join([*lines, "", ""]).encode()
    how: dict[str, Any] = {"ssl": unverified(), "server_hostname": parts.hostname} if secure else {}

    async def connect() -> tuple[Client, float]:
        begun = loop.time()
        opened = asyncio.open_connection(parts.hostname, parts.port or (443 if secure else 80), **how)
        reader, writer = await asyncio.wait_for(opened, CROWD_TIMEOUT)
        return Client(reader, writer, request), (loop.time() - begun) * 1000

    found = await asyncio.gather(*(connect() for _ in range(connections)), return_exceptions=True)
    made = [one for one in found if not isinstance(one, BaseException)]
    points: list[tuple[float, float, bool]] = []
    begun = loop.time() + 0.5

    async def send(number: int) -> None:
        due = number / rate
        await asyncio.sleep(begun + due - loop.time())
        try:
            status = await asyncio.wait_for(made[number % len(made)][0].ask(), CROWD_TIMEOUT)
        except (OSError, TimeoutError, ValueError, EOFError):
            status = 0
        points.append((round(due, 4), round((loop.time() - begun - due) * 1000, 3), status == 200))

    if made:
        await asyncio.gather(*(send(number) for number in range(int(rate * seconds))))
    for client, _ in made:
        client.writer.close()
    return {"made": [round(milliseconds, 3) for _, milliseconds in made], "points": sorted(points)}


async def plain_status(url: str, headers: dict[str, str]) -> int:
    """Ask over a connection of its own, read the answer to its end, close, and return its status.

    Its end is where its length says: a server may well wait for the client to close first.
    """
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close"]
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"^content-length: *(\d+)", head, re.MULTILINE | re.IGNORECASE)
        await (reader.readexactly(int(length[1])) if length else reader.read())
        return int(head[9:12])
    finally:
        writer.close()


# --- requests and answers


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "facts": facts,
    "systemctl": systemctl,
    "cpu": cpu,
    "memory": memory,
    "get": get,
    "wrk": wrk,
    "steady": steady,
    "crowd": crowd,
}


def answer(line: str) -> dict[str, Any]:
    """Do what one line asks for; an error is an answer too."""
    try:
        asked = json.loads(line)
        return ACTIONS[asked.pop("do")](**asked)
    except Exception as error:  # whatever it is, the other end has to know
        return {"error": f"{type(error).__name__}: {error}"}


def serve(lines: Iterable[str]) -> None:
    """Answer line by line; an empty one asks for nothing."""
    for line in lines:
        if line.strip():
            print(json.dumps(answer(line)), flush=True)


if __name__ == "__main__":
    # A thousand connections are more than the usual limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    serve(iter(sys.stdin.readline, ""))
