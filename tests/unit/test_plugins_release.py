"""The logic of a release on its host: what is kept, what a queue holds, what an instance answers."""

from __future__ import annotations

# ruff: noqa: D102, D107  (stand-ins: their names say what they do)
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils import filesystem
from ansible.module_utils import release as release_utils
from ansible.module_utils.release import App, Release, queue_length, running_instances, stop_instance
from ansible.module_utils.unix_http import ask, ask_until_good

MINE = (os.getuid(), os.getgid())
IDS = [f"2026010{day}T000000Z-0123abcd" for day in range(1, 10)]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """Put /srv, /run and systemd's units below tmp_path."""
    for name in ("SERVED", "RUNTIME", "UNITS"):
        monkeypatch.setattr(release_utils, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()
    write = filesystem.write_atomically
    monkeypatch.setattr(release_utils, "write_atomically", lambda path, text, mode: write(path, text, mode, *MINE))
    return App("news")


def made(app: App, states: str) -> list[Release]:
    """Make a release for each letter: g(ood), f(ailed), b(oth: activated, then failed), u(nfinished)."""
    releases = []
    for identity, letter in zip(IDS, states, strict=False):
        release = Release(app, identity)
        release.folder.mkdir(parents=True)
        if letter in "gb":
            release.mark("activated")
        if letter in "fb":
            release.mark("failed")
        releases.append(release)
    return releases


# --- what is served and what is kept


def test_current_is_what_the_link_says(app: App) -> None:
    assert app.current() is None and app.releases() == []
    one, two = made(app, "gg")
    assert app.current() is None
    app.link.symlink_to(f"releases/{one.id}")
    assert app.current() == one != two
    assert app.releases() == [one, two]
    app.link.unlink()
    app.link.symlink_to("elsewhere")
    assert app.current() is None


def test_only_what_was_active_and_is_not_marked_failed_is_good(app: App) -> None:
    assert [release.good() for release in made(app, "gfbu")] == [True, False, False, False]


@pytest.mark.parametrize(
    ("states", "current", "keep", "stays"),
    [
        ("g", 0, 5, "0"),
        ("ggggggg", 6, 5, "23456"),  # the current one counts
        ("ggggggg", 6, 2, "56"),
        ("ggggggg", 6, 1, "56"),  # there is always a way back
        ("ggggggg", 6, 0, "56"),
        ("ggggg", 1, 2, "14"),  # after a rollback: the current one is not the newest
        ("ggggg", 0, 3, "034"),
        ("gfffg", 4, 2, "034"),  # the rollback target, however old, and the newest failed one for a look
        ("gbbbg", 4, 2, "034"),
        ("guuug", 4, 5, "04"),  # what a run left unfinished goes
        ("fffu", 3, 5, "23"),  # the first release that serves
        ("gggu", 3, 3, "123"),  # the current one is not marked yet
    ],
)
def test_surplus_releases_go_and_the_way_back_stays(
    app: App, plugin: Callable[[str, str], ModuleType], states: str, current: int, keep: int, stays: str
) -> None:
    releases = made(app, states)
    surplus = plugin("modules", "release_prune").surplus(releases, releases[current], keep)
    assert "".join(str(index) for index, release in enumerate(releases) if release not in surplus) == stays


# --- systemd


def test_instances_that_run_are_found_in_systemctls_table() -> None:
    table = f"""\
news@{IDS[0]}.service loaded active   running news
news@{IDS[0]}.socket  loaded active   running news: socket
news@{IDS[1]}.service loaded inactive dead    news
news@{IDS[2]}.service loaded failed   failed  news
news@{IDS[3]}.socket  loaded active   listening news: socket

"""
    found = running_instances(lambda *_: (0, table, ""), App("news"))
    assert found == {IDS[0], IDS[2], IDS[3]}


def test_service_and_socket_stop_in_one_order() -> None:
    seen: list[list[str]] = []

    def run(words: list[str]) -> tuple[int, str, str]:
        seen.append(words[1:])
        return 0, "", ""

    release = Release(App("news"), IDS[0])
    assert stop_instance(run, release) == ""
    # One by one, a connection in the queue would start the service again.
    assert [words for words in seen if words[0] == "stop"] == [["stop", release.service, release.socket]]


# --- the queue


def test_the_queue_of_a_listening_socket_is_counted(tmp_path: Path, fake_module: Any) -> None:
    path, run = tmp_path / "uwsgi.sock", fake_module().run_command
    assert queue_length(run, path) == 0
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as clients:
        server.bind(str(path))
        server.listen(16)
        assert queue_length(run, path) == 0
        for _ in range(3):
            clients.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        assert queue_length(run, path) == 3
        assert queue_length(run, tmp_path / "wsgi.sock") == 0
        server.accept()[0].close()
        assert queue_length(run, path) == 2


def test_a_queue_that_cannot_be_read_is_not_taken_for_an_empty_one() -> None:
    options: dict[str, Any] = {}

    def run(_: list[str], **given: Any) -> tuple[int, str, str]:
        options.update(given)
        return 0, "", ""

    queue_length(run, Path("/x"))
    assert options == {"check_rc": True}


# --- answers


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nAlive"


class Server:
    """A server on a unix socket that answers each connection with the next of its answers; the last one for ever."""

    def __init__(self, path: Path, answers: list[Callable[[socket.socket], object]]) -> None:
        self.answers, self.requests, self.stop = answers, list[bytes](), threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(16)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while not self.stop.is_set():
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                self.requests.append(client.recv(65536))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                answer(client)

    def close(self) -> None:
        self.stop.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., SimpleNamespace]]:
    """Serve answers on a unix socket: bytes, or a function that has the connection."""
    servers = []

    def start(*answers: bytes | Callable[[socket.socket], object]) -> SimpleNamespace:
        path = tmp_path / "probe.sock"
        calls = [
            answer if callable(answer) else (lambda client, text=answer: client.sendall(text)) for answer in answers
        ]
        servers.append(Server(path, calls))
        return SimpleNamespace(path=path, server=servers[-1])

    yield start
    for server in servers:
        server.close()


def hang(client: socket.socket) -> None:
    client.recv(1)


def drip(client: socket.socket) -> None:
    """One byte now and then: each read succeeds, and the answer never comes."""
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 230:
        client.sendall(bytes([byte]))
        time.sleep(0.02)


def test_a_good_answer_is_told_with_its_text(served: Any) -> None:
    found = served(GOOD)
    answer = ask(found.path, "[2001:db8::7]", "/status?x=1", 5)
    assert (answer.good, answer.status, answer.text) == (True, 200, "Alive")
    request = found.server.requests[0]
    assert request.startswith(b"GET /status?x=1 HTTP/1.1\r\n") and b"\r\nHost: [2001:db8::7]\r\n" in request


@pytest.mark.parametrize("status", [204, 301, 404, 500, 503])
def test_any_other_answer_is_not_good(served: Any, status: int) -> None:
    found = served(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
    answer = ask(found.path, "x", "/", 5)
    assert (answer.good, answer.status) == (False, status)


@pytest.mark.parametrize("text", [b"", b"\x00\xff\x15\x03garbage\r\n\r\n", b"HTTP/1.1 2oo OK\r\n\r\n", b"\r\n" * 9])
def test_garbage_is_no_answer(served: Any, text: bytes) -> None:
    answer = ask(served(text).path, "x", "/", 5)
    assert answer.status == 0 and answer.text.startswith("no answer (")


@pytest.mark.parametrize("path", ["/größe", "/a b"])
def test_a_path_that_http_does_not_know_is_no_answer_and_no_traceback(served: Any, path: str) -> None:
    assert ask(served(GOOD).path, "x", path, 5).text.startswith("no answer (")


@pytest.mark.parametrize("answer", [hang, drip])
def test_a_server_that_hangs_or_drips_costs_no_more_than_the_time_given(served: Any, answer: Any) -> None:
    path, start = served(answer).path, time.monotonic()
    assert ask(path, "x", "/", 0.3).text == "no answer (timed out)"
    assert 0.25 < time.monotonic() - start < 3


def test_nobody_there_is_no_answer(tmp_path: Path) -> None:
    assert "No such file" in ask(tmp_path / "probe.sock", "x", "/", 5).text
    assert ask(tmp_path / ("long" * 40), "x", "/", 5).status == 0


def test_an_instance_is_asked_until_it_is_good(served: Any) -> None:
    found = served(b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\nDown", b"", GOOD)
    assert ask_until_good(found.path, "x", "/", 10).text == "Alive"
    assert len(found.server.requests) == 3


def test_the_last_answer_is_told_when_the_time_is_over(served: Any) -> None:
    found, start = served(b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\nDown"), time.monotonic()
    answer = ask_until_good(found.path, "x", "/", 0.5)
    assert (answer.status, answer.text) == (503, "Down")
    assert time.monotonic() - start < 3


# --- dependencies


def test_a_change_in_an_included_requirements_file_is_seen(
    tmp_path: Path, plugin: Callable[[str, str], ModuleType]
) -> None:
    with_included = plugin("modules", "release_build").with_included
    main, more, limits = (tmp_path / name for name in ("requirements.txt", "more.txt", "limits.txt"))
    main.write_text("-r more.txt\n--constraint=limits.txt\nflask\n")
    more.write_text("-r requirements.txt\nrich\n")  # in a circle
    limits.write_text("flask<4\n")
    found = {with_included(main, main.read_text())}
    for path in (more, limits):
        path.write_text(path.read_text() + "# changed\n")
        found.add(with_included(main, main.read_text()))
    assert len(found) == 3
