"""The logic of a release on its host: what is kept, what a queue holds, what an instance answers."""

from __future__ import annotations

# ruff: noqa: D102, D107  (stand-ins: their names say what they do)
import contextlib
import json
import os
import pwd
import re
import socket
import sqlite3
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils import filesystem, front_door, kept_pages, release_lock, unix_sockets
from ansible.module_utils import release as release_utils
from ansible.module_utils.release import (
    App,
    Release,
    open_again,
    running_instances,
    stop_first,
    stop_instance,
    stopped_first,
    wait_for_empty_queue,
)
from ansible.module_utils.release_lock import Holder, Lock
from ansible.module_utils.unix_http import Answer, ask, ask_app, until_good
from ansible.module_utils.unix_sockets import connected, queue_length

MINE = (os.getuid(), os.getgid())
IDS = [f"2026010{day}T000000Z-0123abcd" for day in range(1, 10)]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """Put /srv, /run and systemd's units below tmp_path."""
    for name in ("SERVED", "RUNTIME", "UNITS", "CLOSED"):
        monkeypatch.setattr(release_utils, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()
    write = filesystem.write_atomically
    monkeypatch.setattr(release_utils, "write_atomically", lambda path, text, mode: write(path, text, mode, *MINE))
    return App("news")


def made(app: App, states: str) -> list[Release]:
    """Make a release for each letter.

    They are g(ood), f(ailed), b(oth: activated, then failed), u(nfinished) and w(ithdrawn: activated, and then gone
    back from).
    """
    releases = []
    for identity, letter in zip(IDS, states, strict=False):
        release = Release(app, identity)
        release.folder.mkdir(parents=True)
        for mark, letters in (("activated", "gbw"), ("failed", "fb"), ("withdrawn", "w")):
            if letter in letters:
                release.mark(mark)
        releases.append(release)
    return releases


def serve(app: App, current: Release | None, previous: Release | None = None) -> None:
    """Have the links name these releases."""
    for link, release in ((app.link, current), (app.previous_link, previous)):
        link.unlink(missing_ok=True)
        if release:
            link.symlink_to(f"releases/{release.id}")


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


def test_previous_is_what_the_other_link_says(app: App) -> None:
    one, _, three = made(app, "ggg")
    serve(app, three)
    assert app.previous() is None
    serve(app, three, one)
    assert app.previous() == one and app.current() == three
    app.previous_link.unlink()
    app.previous_link.symlink_to("elsewhere")
    assert app.previous() is None


def test_only_what_was_active_and_is_not_marked_failed_nor_withdrawn_is_good(app: App) -> None:
    releases = made(app, "gfbuw")
    assert [release.good() for release in releases] == [True, False, False, False, False]
    # By name one can go back to what somebody went back from.
    assert [release.startable() for release in releases] == [True, False, False, False, True]
    releases[4].unmark("withdrawn")
    releases[3].unmark("withdrawn")
    assert releases[4].good()


@pytest.mark.parametrize(
    ("states", "current", "back"),
    [
        ("ggg", 2, 1),
        ("ggg", 1, 0),
        ("ggg", 0, None),
        ("gfbuwg", 5, 0),
        ("fuwb", 3, None),
        ("ggu", 2, 1),  # the current one is not marked yet
        ("ggww", 1, 0),  # after a rollback a rollback goes further back, and not forth
        ("ggg", None, None),
    ],
)
def test_the_way_back_is_the_newest_good_release_older_than_the_current_one(
    app: App, states: str, current: int | None, back: int | None
) -> None:
    releases = made(app, states)
    serve(app, None if current is None else releases[current], releases[0])
    assert app.way_back() == (None if back is None else releases[back])


def test_the_state_of_each_release_is_told_in_a_word(app: App) -> None:
    releases = made(app, "gfbuwg")
    serve(app, releases[5])
    assert [release.state() for release in releases] == [
        "good",
        "failed",
        "failed",
        "unfinished",
        "withdrawn",
        "current",
    ]
    # What is served is current, whatever marks it bears.
    for release in releases:
        serve(app, release)
        assert release.state() == "current"


def test_what_an_operator_asks_for_is_told_of_each_release(app: App) -> None:
    good, failed, withdrawn, unfinished = made(app, "gbwu")
    for number, (release, mark) in enumerate([(good, "activated"), (failed, "failed"), (withdrawn, "withdrawn")]):
        (release.folder / mark).write_text(f"2026-01-0{number + 1}T00:00:00Z\n")
    health = {"host": "news.example.org", "path": "/status"}
    records: dict[Release, dict[str, Any]] = {
        good: {"version": "v1", "source": "a" * 64, "by": "me on laptop", "health": health},
        failed: {"version": "", "source": "b" * 64, "by": "me on laptop"},
        withdrawn: {},
    }
    for release, record in records.items():
        (release.folder / "release.json").write_text(json.dumps(record))
    common = {"by": "me on laptop", "health": {}}
    assert good.told() == {
        "id": good.id, "state": "good", "version": "v1", "when": "2026-01-01T00:00:00Z", **common, "health": health,
    }  # fmt: skip
    # A directory has no version.
    assert failed.told() == {
        "id": failed.id, "state": "failed", "version": "b" * 12, "when": "2026-01-02T00:00:00Z", **common,
    }  # fmt: skip
    assert withdrawn.told()["when"] == "2026-01-03T00:00:00Z"
    nothing = {"version": "", "when": "", "by": "", "health": {}}
    assert unfinished.told() == {"id": unfinished.id, "state": "unfinished", **nothing}
    serve(app, good)
    assert (good.told()["state"], good.told()["when"]) == ("current", "2026-01-01T00:00:00Z")


@pytest.mark.parametrize("text", ["", "{", '{"version": "v1"', "[1]", "null", "\xff"])
def test_a_record_that_is_not_whole_is_none(app: App, text: str) -> None:
    (release,) = made(app, "g")
    (release.folder / "release.json").write_bytes(text.encode("latin-1"))
    assert release.record() == {} and release.told()["version"] == ""


@pytest.mark.parametrize(
    ("states", "current", "previous", "keep", "stays"),
    [
        ("g", 0, None, 5, "0"),
        ("ggggggg", 6, 5, 5, "23456"),  # the current one counts
        ("ggggggg", 6, 5, 2, "56"),
        ("ggggggg", 6, 5, 1, "56"),  # there is always a way back
        ("ggggggg", 6, 5, 0, "56"),
        ("ggggg", 1, None, 2, "01"),  # the current one is not the newest
        ("ggggg", 0, None, 3, "034"),
        ("gfffg", 4, None, 2, "034"),  # the way back, however old, and the newest failed one for a look
        ("gbbbg", 4, None, 2, "034"),
        ("guuug", 4, 0, 5, "04"),  # what a run left unfinished goes
        ("fffu", 3, None, 5, "23"),  # the first release that serves
        ("gggu", 3, 2, 3, "123"),  # the current one is not marked yet
        ("gggwwg", 5, 2, 4, "2345"),  # withdrawn ones count among those kept
        ("gggwwg", 5, 2, 3, "245"),
        ("wwwwwg", 5, None, 2, "45"),
        ("gggww", 2, 4, 2, "124"),  # after a rollback: what was gone back from was served before
        ("gggww", 2, 4, 4, "1234"),
        ("ggggggg", 6, 0, 2, "056"),  # pages that were sent before still find their static files
        ("ggggggg", 6, 0, 4, "0456"),
        ("bgggg", 4, 0, 2, "034"),
        ("gwwwwg", 5, None, 2, "05"),  # newer withdrawn ones don't push the way back out
        ("gwwwwg", 5, 4, 2, "045"),
        ("gwwwwg", 5, None, 3, "045"),
    ],
)
def test_surplus_releases_go_and_the_way_back_and_the_previous_one_stay(
    app: App,
    plugin: Callable[[str, str], ModuleType],
    states: str,
    current: int,
    previous: int | None,
    keep: int,
    stays: str,
) -> None:
    releases = made(app, states)
    serve(app, releases[current], None if previous is None else releases[previous])
    surplus = plugin("modules", "release_prune").surplus(app, keep)
    assert "".join(str(index) for index, release in enumerate(releases) if release not in surplus) == stays
    assert surplus == [release for release in releases if release in surplus]


def test_a_previous_release_that_is_no_longer_there_takes_nobodys_place(
    app: App, plugin: Callable[[str, str], ModuleType]
) -> None:
    releases = made(app, "ggggg")
    serve(app, releases[4], Release(app, IDS[8]))
    assert plugin("modules", "release_prune").surplus(app, 3) == releases[:2]


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


def test_what_serves_is_stopped_at_once_and_visitors_are_told(app: App) -> None:
    (old,) = made(app, "g")
    seen: list[str] = []

    def run(words: list[str]) -> tuple[int, str, str]:
        seen.append(" ".join(words[1:]))
        assert stopped_first(app), "closed before anything stops"
        return 0, "", ""

    assert stop_first(run, old) == ""
    # Nothing is disabled: after a boot in the middle it is back.
    assert seen == [
        f"stop --no-block {old.service} {old.socket}",
        f"kill --signal=SIGKILL {old.service}",
        f"stop {old.service} {old.socket}",
    ]
    open_again(app)
    assert not list(release_utils.CLOSED.iterdir())


def test_what_an_account_has_left_running_ends_as_well(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        pytest.skip("only root ends others' processes")
    monkeypatch.setattr(release_utils, "account_ids", lambda *_: (54321, 54321))
    # One of them can't be read, as whoever hides from a look at /proc makes itself.
    hidden = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0); time.sleep(60)"
    left = [
        subprocess.Popen(words, user=54321, group=54321, extra_groups=[], cwd="/")
        for words in (["sleep", "60"], ["/usr/bin/python3", "-c", hidden])
    ]
    time.sleep(0.3)
    (old,) = made(app, "g")
    assert stop_first(lambda _: (0, "", ""), old) == ""
    assert [process.wait(timeout=5) for process in left] == [-9, -9]


def test_app_that_an_operator_has_closed_stays_closed(app: App) -> None:
    (old,) = made(app, "g")
    (release_utils.CLOSED / "news").write_text("Closed for maintenance; maintenance.yml -e maintenance=off opens it.\n")
    assert stop_first(lambda _: (0, "", ""), old) == ""
    assert not stopped_first(app)
    open_again(app)
    assert (release_utils.CLOSED / "news").exists()


def stopped_with(release: Release, seconds: float) -> None:
    """Stop a release whose units take some time to end."""

    def run(words: list[str]) -> tuple[int, str, str]:
        time.sleep(seconds if words[1] == "stop" else 0)
        return 0, "", ""

    assert stop_instance(run, release) == ""


def test_master_that_stops_is_kept_awake(app: App) -> None:
    release = Release(app, IDS[0])
    fifo = release.runtime / "private" / "master.fifo"
    fifo.parent.mkdir(parents=True)
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        stopped_with(release, 0.2)
        heard = os.read(reader, 100)
        # Nothing that uWSGI would take for a command.
        assert set(heard) == {ord("\n")}
        time.sleep(0.1)
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


def test_what_an_app_puts_in_the_fifos_place_is_not_written(app: App, tmp_path: Path) -> None:
    release = Release(app, IDS[0])
    fifo = release.runtime / "private" / "master.fifo"
    fifo.parent.mkdir(parents=True)
    fifo.write_text("untouched")
    stopped_with(release, 0.1)
    assert fifo.read_text() == "untouched"
    fifo.unlink()
    # Another app's, say.
    others = tmp_path / "master.fifo"
    os.mkfifo(others)
    fifo.symlink_to(others)
    reader = os.open(others, os.O_RDONLY | os.O_NONBLOCK)
    try:
        stopped_with(release, 0.1)
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


# --- the queue


@contextlib.contextmanager
def listening(path: Path, connections: int = 0) -> Iterator[socket.socket]:
    """Listen at a path, with so many connections in the queue."""
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as clients:
        server.bind(str(path))
        server.listen(16)
        for _ in range(connections):
            clients.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        yield server


def test_the_queue_of_a_listening_socket_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "uwsgi.sock"
    assert queue_length(path) == 0
    with listening(path):
        assert queue_length(path) == 0
    path.unlink()
    with listening(path, 3) as server:
        assert queue_length(path) == 3
        assert queue_length(tmp_path / "wsgi.sock") == 0
        server.accept()[0].close()
        assert queue_length(path) == 2
    # The file is still there, and nobody listens.
    assert queue_length(path) == 0


def test_who_is_connected_to_a_socket_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "uwsgi.sock"
    assert not connected(path)
    with listening(path, 1) as server, listening(tmp_path / "other.sock", 1) as other:
        other.accept()
        client = server.accept()[0]
        assert connected(path)
        client.close()
        assert not connected(path)


def test_sockets_of_others_are_no_lines_of_the_answer_whatever_their_names_are() -> None:
    folder = tempfile.TemporaryDirectory()  # a name has 107 bytes, and is to hold a path and more
    path = Path(folder.name) / "x"
    names = [
        f"\0x\nu_str LISTEN 77 128 {path} 5 * 0\n",
        f"\0x\nu_str LISTEN many 128 {path} 5 * 0\n",
        f"\0\nu_str ESTAB 0 0 {path} 1 * 2\n",
    ]
    with folder, contextlib.ExitStack() as others:
        for name in names:
            others.enter_context(socket.socket(socket.AF_UNIX)).bind(name)
            listener = others.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(name.replace("x", "y").replace("\0\n", "\0z\n"))
            listener.listen(4)
            others.enter_context(socket.socket(socket.AF_UNIX)).connect(listener.getsockname())
            others.enter_context(listener.accept()[0])
        assert queue_length(path) == 0 and not connected(path)
        with listening(path, 2):
            assert queue_length(path) == 2 and not connected(path)
            # A name that is not a path's, though it reads like one.
            with socket.socket(socket.AF_UNIX) as same:
                same.bind(f"\0{path}")
                same.listen(4)
                assert queue_length(path) == 2


def test_many_sockets_take_more_than_one_answer(tmp_path: Path) -> None:
    path = tmp_path / "uwsgi.sock"
    with contextlib.ExitStack() as others:
        for number in range(400):
            other = others.enter_context(socket.socket(socket.AF_UNIX))
            other.bind(f"\0{'n' * 90}{os.getpid()}-{number}")
            other.listen(1)
        others.enter_context(listening(path, 2))
        assert queue_length(path) == 2


def test_a_queue_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(tmp_path / "uwsgi.sock"):
        monkeypatch.setattr(unix_sockets, "SOCK_DIAG_BY_FAMILY", 99)
        with pytest.raises(OSError, match="the kernel doesn't tell of unix sockets"):
            queue_length(tmp_path / "uwsgi.sock")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], list[int]]:
    """Have the queue's length be each time the next one, the last one for ever. Tells what was answered."""

    def script(lengths: list[int]) -> list[int]:
        looks: list[int] = []

        def look(_: Path) -> int:
            looks.append(lengths[min(len(looks), len(lengths) - 1)])
            return looks[-1]

        monkeypatch.setattr(release_utils, "queue_length", look)
        return looks

    return script


def test_a_release_that_nobody_listens_for_is_not_waited_for(app: App) -> None:
    release, start = Release(app, IDS[0]), time.monotonic()
    assert wait_for_empty_queue(release, 60) == 0
    assert time.monotonic() - start < 5


def test_a_queue_is_taken_for_empty_after_three_empty_looks_in_a_row(app: App, scripted: Any) -> None:
    looks = scripted([4, 0, 0, 2, 0, 0, 0])
    assert wait_for_empty_queue(Release(app, IDS[0]), 60) == 0
    assert looks == [4, 0, 0, 2, 0, 0, 0]


def test_those_left_in_the_queue_are_counted_when_the_time_is_over(app: App, scripted: Any) -> None:
    release, start = Release(app, IDS[0]), time.monotonic()
    looks = scripted([5, 3])
    assert wait_for_empty_queue(release, 0.3) == 3
    assert 0.25 < time.monotonic() - start < 5 and len(looks) > 2
    # Two empty looks are no empty queue.
    scripted([0])
    assert wait_for_empty_queue(release, 0) == 1


# --- a refused release


def test_the_lock_is_given_back_though_the_kernel_does_not_tell_who_waits(
    app: App, run_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_lock, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(unix_sockets, "SOCK_DIAG_BY_FAMILY", 99)
    monkeypatch.setattr(filesystem, "write_atomically", lambda *_: None)
    (tmp_path / "locks").mkdir()
    (release,) = made(app, "u")
    with_socket = release.runtime / "uwsgi.sock"
    with_socket.parent.mkdir(parents=True)
    with_socket.touch()
    lock, run = Lock("news"), "0123456789ab"
    times = {"since": 0, "renewed": release_lock.now(), "limit": 600}
    lock.path.write_text(json.dumps(dict.fromkeys(("who", "origin", "what", "phase"), "x") | {"run": run} | times))
    answer = run_module(
        "release_abandon", app="news", id=release.id, run=run, step="Probe", reason="it is ill", next="deploy.yml"
    )
    assert answer["failed"] and lock.holder() is None
    said = answer["msg"].splitlines()
    assert said[0].endswith("was refused at the step “Probe”: it is ill")
    assert "It could not be put out of the way ([Errno" in answer["msg"] and said[-1].endswith("deploy.yml")


# --- what a release shares with the next ones


ACCOUNT = (12345, 12346) if os.getuid() == 0 else MINE


@pytest.fixture
def fetch(app: App, plugin: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import release_fetch, on a host that has the app's account and its folder shared."""
    account = SimpleNamespace(pw_uid=ACCOUNT[0], pw_gid=ACCOUNT[1])
    monkeypatch.setattr(pwd, "getpwnam", {"news": account}.__getitem__)
    (app.folder / "shared").mkdir(parents=True)
    return plugin("modules", "release_fetch")


def with_code(app: App) -> tuple[Release, Path, Path]:
    """Make a release with code; returns it, its code's folder, and the app's folder shared."""
    (release,) = made(app, "u")
    (release.folder / "code").mkdir()
    return release, release.folder / "code", app.folder / "shared"


def owner(path: Path) -> tuple[int, int]:
    return path.lstat().st_uid, path.lstat().st_gid


def test_a_shared_path_is_a_link_to_a_folder_of_the_apps_own(app: App, fetch: ModuleType, fake_module: Any) -> None:
    release, code, shared = with_code(app)
    (code / "instance").mkdir()
    (code / "instance" / "settings.py").touch()
    for name in ("uploads", "instance/media/large"):
        fetch.share(fake_module(), release, name)
        assert (code / name).readlink() == shared / name
        assert (code / name).is_dir()
    assert (code / "instance" / "settings.py").is_file()
    for folder in ("uploads", "instance", "instance/media", "instance/media/large"):
        assert owner(shared / folder) == ACCOUNT
        assert (shared / folder).stat().st_mode & 0o777 == 0o750 & ~current_umask()


def current_umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


@pytest.mark.skipif(os.getuid() != 0, reason="what another account owns only root can make")
def test_what_is_shared_already_stays_as_it_is(app: App, fetch: ModuleType, fake_module: Any) -> None:
    release, code, shared = with_code(app)
    (shared / "uploads").mkdir()
    (shared / "uploads" / "photo").write_text("x")
    (shared / "instance").mkdir()
    (shared / "instance" / "news.db").write_text("rows")
    (shared / "uploads").chmod(0o700)
    (shared / "instance").chmod(0o711)
    for name in ("uploads", "instance/news.db"):
        fetch.share(fake_module(), release, name)
    assert (code / "uploads" / "photo").read_text() == "x"
    assert (code / "instance" / "news.db").read_text() == "rows"
    assert [(shared / name).stat().st_mode & 0o777 for name in ("uploads", "instance")] == [0o700, 0o711]
    assert owner(shared / "uploads") == owner(shared / "instance") == owner(shared / "instance" / "news.db") == (0, 0)


def test_what_is_not_for_everybody_is_the_apps_to_read(app: App, fetch: ModuleType, tmp_path: Path) -> None:
    release, code, _ = with_code(app)
    (code / "instance").mkdir()
    outside = tmp_path / "outside"
    for path, mode in ((code / ".env", 0o640), (code / "instance" / "config.py", 0o640), (code / "app.py", 0o644)):
        path.touch()
        path.chmod(mode)
    outside.touch()
    outside.chmod(0o600)
    (code / "link").symlink_to(outside)
    before = owner(outside)
    fetch.close(release)
    mine = owner(code)
    assert owner(code / ".env") == owner(code / "instance" / "config.py") == (mine[0], ACCOUNT[1])
    assert owner(code / "app.py") == mine
    assert owner(outside) == before


def test_what_keeps_an_empty_folder_in_a_repository_gives_way(app: App, fetch: ModuleType, fake_module: Any) -> None:
    release, code, shared = with_code(app)
    for name in ("uploads/.gitkeep", "uploads/large/photos/.keep", "uploads/small/.gitignore"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).touch()
    fetch.share(fake_module(), release, "uploads")
    assert (code / "uploads").readlink() == shared / "uploads"
    # The app counts on its folders, and the next release finds them there.
    found = sorted(path.relative_to(shared).as_posix() for path in shared.rglob("*"))
    assert found == ["uploads", "uploads/large", "uploads/large/photos", "uploads/small"]
    assert {owner(shared / name) for name in found} == {ACCOUNT}


@pytest.mark.parametrize("name", ["data.db", "instance/news.sqlite3", "settings.JSON"])
def test_a_shared_file_is_the_apps_to_make(app: App, fetch: ModuleType, fake_module: Any, name: str) -> None:
    release, code, shared = with_code(app)
    fetch.share(fake_module(), release, name)
    assert (code / name).readlink() == shared / name and not (shared / name).exists()
    with contextlib.closing(sqlite3.connect(code / name)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE posts (id)")
        assert (shared / f"{name}-wal").exists()
    assert (shared / name).is_file() and (code / name).is_symlink()


@pytest.mark.parametrize("name", [".well-known", "v1.2", "example.org", "conf.d", "db", "a.db/inner"])
def test_a_shared_folder_may_have_a_dot_in_its_name(app: App, fetch: ModuleType, fake_module: Any, name: str) -> None:
    release, _, shared = with_code(app)
    fetch.share(fake_module(), release, name)
    assert (shared / name).is_dir()


def test_an_empty_folder_of_the_source_gives_way(app: App, fetch: ModuleType, fake_module: Any) -> None:
    release, code, shared = with_code(app)
    (code / "uploads").mkdir()
    fetch.share(fake_module(), release, "uploads")
    assert (code / "uploads").readlink() == shared / "uploads"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: (path.mkdir(), (path / "photo").touch()),
        lambda path: ((path / "a").mkdir(parents=True), (path / "a" / ".gitkeep").symlink_to("x")),
        lambda path: path.touch(),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to("."),
    ],
    ids=["a folder with a file", "a folder with a link", "a file", "a link to nothing", "a link to a folder"],
)
def test_what_the_source_has_at_a_shared_path_is_refused_and_stays(
    app: App, fetch: ModuleType, fake_module: Any, module_failed: Any, make: Callable[[Path], object]
) -> None:
    release, code, shared = with_code(app)
    make(code / "uploads")
    before = (code / "uploads").lstat().st_ino
    with pytest.raises(module_failed, match="the source has uploads, which is to be shared"):
        fetch.share(fake_module(), release, "uploads")
    assert (code / "uploads").lstat().st_ino == before
    assert list(shared.iterdir()) == []


def test_a_link_of_the_source_that_leads_to_what_the_app_may_change_is_not_followed(
    app: App, fetch: ModuleType, fake_module: Any, module_failed: Any, tmp_path: Path
) -> None:
    # Through the first shared path the second would be made, by root, where the app puts it.
    release, code, shared = with_code(app)
    (tmp_path / "etc").mkdir()
    (shared / "trap").symlink_to(tmp_path / "etc")
    (code / "way").symlink_to("uploads/../trap")
    fetch.share(fake_module(), release, "uploads")
    with pytest.raises(module_failed, match="the link on the way to way/x, which is to be shared"):
        fetch.share(fake_module(), release, "way/x")
    assert list((tmp_path / "etc").iterdir()) == []


def test_a_link_of_the_source_to_a_folder_of_its_own_is_followed(app: App, fetch: ModuleType, fake_module: Any) -> None:
    release, code, shared = with_code(app)
    (code / "data").mkdir()
    (code / "instance").symlink_to("data")
    fetch.share(fake_module(), release, "instance/media")
    assert (code / "data" / "media").readlink() == shared / "instance" / "media"


@pytest.mark.parametrize("name", ["instance/media", "instance/media/large"])
def test_a_link_on_the_way_below_shared_is_not_followed(app: App, fetch: ModuleType, tmp_path: Path, name: str) -> None:
    # The app may write there, and this is root.
    release, _, shared = with_code(app)
    (tmp_path / "etc").mkdir()
    (shared / "instance").symlink_to(tmp_path / "etc")
    before = owner(tmp_path / "etc")
    with pytest.raises(OSError) as caught:
        fetch.make_folder(release, shared / name)
    assert caught.value.filename == "instance"
    assert list((tmp_path / "etc").iterdir()) == [] and owner(tmp_path / "etc") == before


def test_a_link_in_place_of_shared_itself_is_not_followed(app: App, fetch: ModuleType, tmp_path: Path) -> None:
    release, _, shared = with_code(app)
    (tmp_path / "etc").mkdir()
    shared.rmdir()
    shared.symlink_to(tmp_path / "etc")
    with pytest.raises(OSError):
        fetch.make_folder(release, shared / "uploads")
    assert list((tmp_path / "etc").iterdir()) == []


def test_folders_are_made_without_a_handle_left_open(app: App, fetch: ModuleType, tmp_path: Path) -> None:
    release, _, shared = with_code(app)
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir()))
    for name in ("a/b/c", "a/b/c", "a/b/d"):
        fetch.make_folder(release, shared / name)
    (shared / "link").symlink_to(tmp_path)
    with contextlib.suppress(OSError):
        fetch.make_folder(release, shared / "link/x")
    assert len(list(handles.iterdir())) == before


# --- the switch


class Switch:
    """A host on which release_activate runs: notes what has become of links and marks at each of its steps."""

    def __init__(self, app: App, old: Release | None, new: Release, patch: pytest.MonkeyPatch) -> None:
        self.app, self.old, self.new = app, old, new
        self.answer, self.complaint = Answer(200, "Alive"), ""
        self.door = ["", ""]
        """What NGINX is silent of, before the switch and after it."""
        self.steps: list[tuple[str, str, str]] = []  # what, the release served then, the marks of both then
        self.link = filesystem.link_atomically
        patch.setattr(release_utils, "systemctl", self.systemctl)
        patch.setattr(release_utils, "probe", self.probe)
        patch.setattr(release_utils, "journal", lambda *_: "Traceback of the app")
        patch.setattr(front_door, "silence", lambda _: self.door[self.app.current() == self.new])
        patch.setattr(filesystem, "link_atomically", self.move)
        patch.setattr(kept_pages, "forget", lambda name: self.note(f"pages of {name} are forgotten"))

    def note(self, what: str) -> None:
        names = {None: "nothing", self.old: "old", self.new: "new"}
        marks = [
            f"{names[release]} {mark}"
            for release in (self.old, self.new)
            for mark in ("activated", "withdrawn", "failed")
            if release and release.marked(mark)
        ]
        self.steps.append((what, names[self.app.current()], ", ".join(marks)))

    def systemctl(self, _: object, *words: str) -> str:
        self.note(words[0])
        assert words[-2:] == (self.new.socket, self.new.service)
        return self.complaint

    def probe(self, path: Path, params: dict[str, Any]) -> Answer:
        self.note("probe")
        # Through the link: what NGINX will ask.
        assert path == self.app.link / "run"
        assert (params["host"], params["path"], params["seconds"]) == ("news.example.org", "/status", 30)
        return self.answer

    def move(self, path: Path, target: str) -> None:
        self.note(f"{path.name} is moved")
        self.link(path, target)


RUN = "0123456789ab"


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """Give this run the lock on the app's releases."""
    monkeypatch.setattr(release_lock, "LOCKS", tmp_path / "locks")
    # Its thread would outlive the test.
    monkeypatch.setattr(Lock, "keep", lambda *_: None)
    lock = Lock("news")
    lock.take(Holder(RUN, "me", "laptop", "deploy", "lock", time.time(), release_lock.now(), 600))
    return lock


def activated(run_module: Any, new: Release, **more: Any) -> dict[str, Any]:
    arguments = {"host": "news.example.org", "path": "/status", "seconds": 30, **more}
    answer: dict[str, Any] = run_module("release_activate", app="news", id=new.id, run=RUN, **arguments)
    return answer


def test_a_release_is_enabled_before_the_link_moves_and_marked_after_the_probe(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, old, new = made(app, "ggu")
    serve(app, old, oldest)
    switch = Switch(app, old, new, monkeypatch)
    answer = activated(run_module, new)
    assert (answer["changed"], answer["previous"]) == (True, old.id), answer
    assert switch.steps == [
        ("enable", "old", "old activated"),
        ("current is moved", "old", "old activated"),
        ("probe", "new", "old activated"),
        ("previous is moved", "new", "old activated, new activated"),
        ("pages of news are forgotten", "new", "old activated, new activated"),
    ]
    assert (app.current(), app.previous(), old.good(), new.good()) == (new, old, True, True)


def test_a_rollback_marks_what_it_goes_back_from_before_the_link_moves(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Killed in between, the next deploy would repeat what was gone back from.
    new, old = made(app, "gg")
    new.mark("withdrawn")  # went back from it once, and goes there by name now
    serve(app, old)
    switch = Switch(app, old, new, monkeypatch)
    answer = activated(run_module, new, withdraw=True)
    assert answer["changed"] is True, answer
    assert switch.steps == [
        ("enable", "old", "old activated, new activated, new withdrawn"),
        ("current is moved", "old", "old activated, old withdrawn, new activated, new withdrawn"),
        ("probe", "new", "old activated, old withdrawn, new activated, new withdrawn"),
        ("previous is moved", "new", "old activated, old withdrawn, new activated"),
        ("pages of news are forgotten", "new", "old activated, old withdrawn, new activated"),
    ]
    assert (app.current(), app.previous(), old.state(), new.good()) == (new, old, "withdrawn", True)


@pytest.mark.parametrize("noted", [True, False])
def test_what_goes_forward_withdraws_nothing_and_takes_back_what_a_killed_rollback_noted(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    old, new = made(app, "gg")
    if noted:
        old.mark("withdrawn")
    serve(app, old)
    Switch(app, old, new, monkeypatch)
    assert activated(run_module, new, withdraw=True)["changed"] is True
    assert app.current() == new and old.good() and app.way_back() == old


@pytest.mark.parametrize("withdraw", [True, False])
def test_link_and_mark_are_taken_back_when_the_probe_fails(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch, withdraw: bool
) -> None:
    oldest, old, new = made(app, "ggu")
    serve(app, old, oldest)
    switch = Switch(app, old, new, monkeypatch)
    switch.answer = Answer(503, "no database")
    answer = activated(run_module, new, withdraw=withdraw)
    assert answer["failed"] is True
    for text in ("so the link was moved back", "/status got no 200", "503", "no database", "Traceback of the app"):
        assert text in answer["msg"]
    assert [step[:2] for step in switch.steps] == [
        ("enable", "old"),
        ("current is moved", "old"),
        ("probe", "new"),
        ("current is moved", "new"),
        ("pages of news are forgotten", "old"),
    ]
    assert (app.current(), app.previous()) == (old, oldest)
    assert old.good() and not new.marked("activated")


def test_nothing_is_moved_where_nginx_is_dead_already(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = made(app, "gu")
    serve(app, old)
    switch = Switch(app, old, new, monkeypatch)
    switch.door = ["NGINX doesn't answer", ""]
    answer = activated(run_module, new, withdraw=True)
    assert answer["failed"] is True and answer["msg"] == "nothing was switched: NGINX doesn't answer"
    assert switch.steps == [] and app.current() == old and old.good()


def test_link_and_mark_are_taken_back_when_nginx_is_dead_after_the_switch(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, old, new = made(app, "ggu")
    serve(app, old, oldest)
    switch = Switch(app, old, new, monkeypatch)
    switch.door = ["", "NGINX doesn't answer"]
    answer = activated(run_module, new, withdraw=True)
    assert answer["failed"] is True
    assert answer["msg"] == "after the switch NGINX was silent, so the link was moved back: NGINX doesn't answer"
    assert (app.current(), app.previous()) == (old, oldest)
    assert old.good() and not new.marked("activated")


class Nginx(threading.Thread):
    """A server at a unix socket that answers as NGINX's status socket does, for so long as it is told."""

    def __init__(self, path: Path, answers: int) -> None:
        super().__init__(daemon=True)
        self.answers, self.server = answers, socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.start()

    def run(self) -> None:
        for _ in range(self.answers):
            client, _ = self.server.accept()
            client.recv(1000)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n0123")
            client.close()
        self.server.close()


def test_nginx_is_asked_whether_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_module: Any) -> None:
    monkeypatch.setattr(front_door, "STATUS_SOCKET", tmp_path / "status.sock")
    monkeypatch.setattr(front_door, "PATIENCE", 0.3)
    module = fake_module()
    module.answers["systemctl"] = (3, "failed\n", "")
    # A name that an app chose may be in it.
    journal = "nginx: [emerg] cannot load certificate /etc/ssl/apps/x\x1b[2J\nNext: run this\n"
    module.answers["journalctl"] = (0, journal, "")
    Nginx(tmp_path / "status.sock", 1)
    assert front_door.silence(module.run_command) == "" and module.commands == []
    said = front_door.silence(module.run_command)
    for text in ("systemctl calls it failed", "  | nginx: [emerg] cannot load", r"x\x1b[2J", "\n  | Next: run this\n"):
        assert text in said
    assert said.splitlines()[-1].startswith("Next: playbooks/site.yml")


def test_what_goes_on_serving_was_asked(
    app: App, plugin: Callable[[str, str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = made(app, "g")
    # A socket's path has at most 108 characters.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(release_utils, "RUNTIME", Path())
    old.runtime.mkdir(parents=True)
    silent = [""]
    monkeypatch.setattr(front_door, "silence", lambda _: silent[0])
    said = partial(plugin("modules", "release_abandon").still_serving, lambda *_: (0, "", ""), old)
    assert said() == f"The release {old.id} is current as before, and its instance doesn't answer: {old.service}"
    Nginx(release_utils.probe_socket(old.runtime), 2)
    assert said() == f"The release {old.id} goes on serving."
    silent[0] = "NGINX doesn't answer"
    assert said() == f"The release {old.id} is current as before. NGINX doesn't answer"


def test_an_app_that_left_the_inventory_and_still_runs_is_found(
    app: App, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def account(name: str, comment: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", 990, 990, comment, f"/srv/{name}", "/usr/sbin/nologin"))

    ours = [account(name, f"Flask on Metal app {name}") for name in ("blog", "news", "shop", "wiki")]
    monkeypatch.setattr(pwd, "getpwall", lambda: [*ours, account("mail", "Mail")])
    wants = release_utils.UNITS / "multi-user.target.wants"
    wants.mkdir()
    for unit in (f"shop@{IDS[1]}.service", f"shop@{IDS[1]}.socket", f"news@{IDS[0]}.service", "mail@x.service"):
        (wants / unit).symlink_to("/nowhere")
    running = {"blog": {IDS[0]}}
    monkeypatch.setattr(release_utils, "running_instances", lambda _, app: running.get(app.name, set()))
    answer = run_module("release_state", apps=[], known=["news"])
    # One that is stopped and disabled, as wiki, is nobody's concern.
    assert answer["left"] == {"blog": [IDS[0]], "shop": [IDS[1]]}
    assert run_module("release_state", apps=[], known=["news", "blog", "shop"])["left"] == {}
    assert run_module("release_state", apps=[])["left"] == {}


@pytest.mark.parametrize(("prepared", "asked"), [(True, 1), (False, 0)])
def test_a_release_alone_is_refused_where_nginx_is_dead(
    app: App, run_module: Any, monkeypatch: pytest.MonkeyPatch, prepared: bool, asked: int
) -> None:
    asks: list[object] = []

    def silence(run: object) -> str:
        asks.append(run)
        return "NGINX doesn't answer"

    monkeypatch.setattr(front_door, "silence", silence)
    answer = run_module("release_state", apps=[], prepared=prepared)
    assert len(asks) == asked
    assert answer.get("failed", False) is prepared
    assert not prepared or answer["msg"] == "NGINX doesn't answer"


def test_nothing_is_served_again_when_the_first_releases_probe_fails(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (new,) = made(app, "u")
    switch = Switch(app, None, new, monkeypatch)
    switch.answer = Answer(0, "no answer")
    assert activated(run_module, new, withdraw=True)["failed"] is True
    assert not app.link.is_symlink() and not new.marked("activated")
    switch.answer = Answer(200, "")
    answer = activated(run_module, new)
    assert (answer["changed"], answer["previous"]) == (True, "")
    assert app.current() == new and new.good() and not app.previous_link.is_symlink()


def test_nothing_is_moved_nor_marked_when_the_release_cannot_be_enabled(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = made(app, "gu")
    serve(app, old)
    switch = Switch(app, old, new, monkeypatch)
    switch.complaint = "unit is masked"
    answer = activated(run_module, new, withdraw=True)
    assert answer["failed"] is True and answer["msg"] == "it can't be enabled: unit is masked"
    assert [step[0] for step in switch.steps] == ["enable"]
    assert app.current() == old and old.good()


@pytest.mark.parametrize("good", [True, False])
def test_app_is_open_again_once_the_release_serves(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch, good: bool
) -> None:
    old, new = made(app, "gu")
    serve(app, old)
    assert stop_first(lambda _: (0, "", ""), old) == ""
    switch = Switch(app, old, new, monkeypatch)
    switch.answer = Answer(200 if good else 500, "")
    activated(run_module, new)
    assert stopped_first(app) is not good, "where it failed, it is closed until what was stopped runs again"


def test_the_next_run_opens_what_a_killed_one_had_closed(app: App, locked: Lock, run_module: Any) -> None:
    (old,) = made(app, "g")
    serve(app, old)
    assert stop_first(lambda _: (0, "", ""), old) == ""
    locked.give_back(RUN)
    answer = run_module("release_lock", app="news", run="fedcba987654", current=old.id)
    assert answer["refused"] == "" and not stopped_first(app)


def test_a_refused_release_brings_back_what_was_stopped_first(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = made(app, "gu")
    serve(app, old)
    assert stop_first(lambda _: (0, "", ""), old) == ""
    seen: list[tuple[str, ...]] = []

    def systemctl(_: object, *words: str) -> str:
        seen.append(words)
        return ""

    monkeypatch.setattr(release_utils, "systemctl", systemctl)
    said = run_module(
        "release_abandon", app="news", id=new.id, run=RUN, step="Start", reason="it is ill", next="deploy.yml"
    )
    assert f"{old.id} was stopped first, and runs again." in said["msg"]
    # The socket first: it must be systemd that holds it.
    assert [words for words in seen if words[0] == "start"] == [("start", old.socket), ("start", old.service)]
    assert not stopped_first(app)


def test_check_mode_and_the_release_that_serves_already_move_nothing(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = made(app, "gg")
    serve(app, old)
    switch = Switch(app, old, new, monkeypatch)
    assert activated(run_module, new, check=True, withdraw=True)["changed"] is True
    assert activated(run_module, old, withdraw=True)["changed"] is False
    assert switch.steps == [] and app.current() == old and old.good() and new.good()


def test_a_run_that_lost_its_lock_moves_nothing(
    app: App, locked: Lock, run_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = made(app, "gu")
    serve(app, old)
    switch = Switch(app, old, new, monkeypatch)
    locked.give_back(RUN)
    answer = activated(run_module, new)
    assert answer["failed"] is True and answer["lock_lost"] is True
    assert switch.steps == [] and app.current() == old


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
        path = tmp_path / "private" / "uwsgi.sock"
        path.parent.mkdir(exist_ok=True)
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


@pytest.mark.parametrize(
    ("host", "header"),
    [
        ("[2001:db8::7]", b"[2001:db8::7]"),
        ("2001:db8::7", b"[2001:db8::7]"),
        ("2001:DB8::cafe", b"[2001:db8::cafe]"),
        ("192.0.2.7", b"192.0.2.7"),
        ("news.example.org", b"news.example.org"),
    ],
)
def test_a_good_answer_is_told_with_its_text(served: Any, host: str, header: bytes) -> None:
    found = served(GOOD)
    answer = ask(found.path, host, "/status?x=1", 5)
    assert (answer.good, answer.status, answer.text) == (True, 200, "Alive")
    request = found.server.requests[0]
    assert request.startswith(b"GET /status?x=1 HTTP/1.1\r\n") and b"\r\nHost: %b\r\n" % header in request


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


def for_ever(text: bytes, first: bytes = b"") -> Callable[[socket.socket], None]:
    """Send something without an end, and each piece at once, so that there is always something to read."""

    def answer(client: socket.socket) -> None:
        client.sendall(first)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            client.sendall(text)

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "100 Continue": for_ever(b"HTTP/1.1 100 Continue\r\n\r\n" * 9),
    "headers of a 100 Continue": for_ever(b"X: y\r\n", b"HTTP/1.1 100 Continue\r\n"),
    "trailers": for_ever(b"X: y\r\n", CHUNKED + b"0\r\n"),
    "chunk extension": for_ever(b"x", CHUNKED + b"1;"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_answer_without_an_end_costs_no_more_than_the_time_given(served: Any, name: str) -> None:
    path, start = served(ENDLESS[name]).path, time.monotonic()
    answer = ask(path, "x", "/", 0.5)
    assert time.monotonic() - start < 3
    assert not answer.good and answer.text.startswith("no answer (")


@pytest.mark.parametrize("start", [b"HTTP/1.1 100 Continue\r\n", CHUNKED + b"0\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_an_answer_without_an_end_costs_no_more_than_its_size(served: Any, start: bytes) -> None:
    flood = b"HTTP/1.1 100 Continue\r\n\r\n" * 4000 if b"100" in start else b"X: y\r\n" * 10000
    found = served(for_ever(flood, start))
    begun = time.monotonic()
    answer = ask(found.path, "x", "/", 15)
    assert time.monotonic() - begun < 5 and answer.status == 0


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
    assert until_good(partial(ask, found.path, "x", "/"), 10).text == "Alive"
    assert len(found.server.requests) == 3


def test_the_last_answer_is_told_when_the_time_is_over(served: Any) -> None:
    found, start = served(b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\nDown"), time.monotonic()
    answer = until_good(partial(ask, found.path, "x", "/"), 0.5)
    assert (answer.status, answer.text) == (503, "Down")
    assert time.monotonic() - start < 3


# --- an app is asked by the uwsgi protocol


def variables(packet: bytes) -> dict[str, str]:
    """Read a uwsgi packet as uWSGI does."""
    modifier1, size, modifier2 = struct.unpack("<BHB", packet[:4])
    assert (modifier1, size, modifier2) == (0, len(packet) - 4, 0)
    words, at = [], 4
    while at < len(packet):
        (length,) = struct.unpack_from("<H", packet, at)
        words.append(packet[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return dict(zip(words[::2], words[1::2], strict=True))


# NGINX's own, from Debian's uwsgi_params; DOCUMENT_ROOT is of no use to an app.
UWSGI_PARAMS = """
    QUERY_STRING REQUEST_METHOD CONTENT_TYPE CONTENT_LENGTH REQUEST_URI PATH_INFO SERVER_PROTOCOL REQUEST_SCHEME HTTPS
    REMOTE_ADDR REMOTE_PORT SERVER_PORT SERVER_NAME HTTP_HOST"""


def passed_on_by_nginx() -> set[str]:
    """Name the variables that NGINX always passes: its own, and those of the app's site."""
    site = (Path(__file__).parents[2] / "roles/flask_app/templates/nginx_app.conf.j2").read_text()
    return {*UWSGI_PARAMS.split(), *re.findall(r"^uwsgi_param (\S+) (?!.*if_not_empty)", site, re.MULTILINE)}


def test_app_is_asked_as_nginx_asks_for_a_visitor_who_came_by_https(served: Any) -> None:
    found = served(GOOD)
    assert ask_app(found.path, "news.example.org", "/gr%C3%BCn?a=%20", 5) == Answer(200, "Alive")
    told = variables(found.server.requests[0])
    assert set(told) >= passed_on_by_nginx()
    assert (told["REQUEST_METHOD"], told["PATH_INFO"], told["QUERY_STRING"]) == ("GET", "/grün", "a=%20")
    assert told["REQUEST_URI"] == "/gr%C3%BCn?a=%20"
    assert told["HTTP_HOST"] == told["SERVER_NAME"] == told["HTTP_X_FORWARDED_HOST"] == "news.example.org"
    assert (told["HTTPS"], told["REQUEST_SCHEME"], told["HTTP_X_FORWARDED_PROTO"]) == ("on", "https", "https")
    assert (told["REMOTE_ADDR"], told["SERVER_PORT"]) == ("127.0.0.1", "443")


def test_app_at_an_ipv6_address_is_asked_by_its_host_header(served: Any) -> None:
    found = served(GOOD)
    assert ask_app(found.path, "[2001:db8::7]", "/", 5).good
    assert variables(found.server.requests[0])["HTTP_HOST"] == "[2001:db8::7]"


@pytest.mark.parametrize("answer", [hang, drip])
def test_app_that_hangs_or_drips_costs_no_more_than_the_time_given(served: Any, answer: Any) -> None:
    path, start = served(answer).path, time.monotonic()
    assert ask_app(path, "x", "/", 0.3).text == "no answer (timed out)"
    assert time.monotonic() - start < 3


def test_app_cannot_be_asked_for_what_is_no_path(served: Any) -> None:
    assert ask_app(served(GOOD).path, "x", "/größe", 5).text.startswith("no answer (")


@pytest.mark.parametrize("status", [301, 302, 308, 401, 403, 404, 405, 410])
def test_probe_ends_at_once_with_an_answer_that_stays(
    served: Any, app: App, status: int, fake_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = served(b"HTTP/1.1 %d X\r\nLocation: /login\r\nContent-Length: 4\r\n\r\nGone" % status)
    params, start = {"host": "x", "path": "/", "seconds": 20}, time.monotonic()
    answer = release_utils.probe(found.path.parent.parent, params)
    assert (answer.status, answer.good) == (status, False)
    assert time.monotonic() - start < 5
    monkeypatch.setattr(release_utils, "journal", lambda _: "its journal")
    said = release_utils.probe_failure(fake_module(**params), made(app, "g")[0], answer)
    assert said.startswith(f"/ got no 200, but {status} (to /login), which no waiting changes. Set health_path to ")
    assert said.endswith("it is /. The answer was:\n  | Gone\nThe last lines of its journal:\n  | its journal")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_probe_goes_on_after_an_answer_that_may_change(served: Any, status: int) -> None:
    found = served(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status, GOOD)
    assert release_utils.probe(found.path.parent.parent, {"host": "x", "path": "/", "seconds": 20}).good


def test_release_without_a_socket_for_the_probe_is_asked_where_nginx_asks(served: Any) -> None:
    found = served(GOOD)
    found.path.rename(found.path.parents[1] / "uwsgi.sock")
    assert release_utils.probe(found.path.parents[1], {"host": "x", "path": "/", "seconds": 20}).good


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 X\r\nContent-Length: 4\r\n\r\nGone", "news isn't well: /status got no 200, but 404, which no"),
        (b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\nDown", "news isn't well: /status got no 200, but 503:\nDown"),
        (GOOD, None),
    ],
)
def test_app_that_is_served_is_asked_for_its_health(
    run_module: Any, served: Any, app: App, monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str | None
) -> None:
    found = served(answer)
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has to fit in 107 characters
        monkeypatch.setattr(release_utils, "SERVED", Path(short))
        (release,) = made(app, "g")
        filesystem.link_atomically(app.link, f"releases/{release.id}")
        (release.folder / "run").symlink_to(found.path.parents[1])
        entry = {"name": "news", "domains": ["2001:DB8::7"], "health_path": "/status", "health_timeout": 1}
        told = run_module("app_health", apps=[entry])
        assert told.get("msg", "").startswith(said) if said else told["changed"] is False
    assert variables(found.server.requests[0])["HTTP_HOST"] == "[2001:db8::7]"


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
