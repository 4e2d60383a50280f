"""Room for a release: what it wants, what gives way, what stays free for the apps that run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils import disk_space, filesystem, release_lock, sandbox
from ansible.module_utils import release as release_utils
from ansible.module_utils.disk_space import MB, available, caches, empty_cache, shed, shortage, size, wanted, watched
from ansible.module_utils.release import App, Release
from ansible.module_utils.release_lock import Holder, Lock

RUN = "0123456789ab"
ENDLESS = 2**60
"""More bytes than any disk has."""


def fill(path: Path, megabytes: int = 1) -> Path:
    """Write a file that really takes so much."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(megabytes * MB))
    return path


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """Put /srv, /run and systemd's units below tmp_path, on a disk that has nothing to keep free."""
    monkeypatch.setattr(disk_space, "RESERVE", 0)
    for name in ("SERVED", "RUNTIME", "UNITS"):
        monkeypatch.setattr(release_utils, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()
    write, mine = filesystem.write_atomically, (os.getuid(), os.getgid())
    monkeypatch.setattr(release_utils, "write_atomically", lambda path, text, mode: write(path, text, mode, *mine))
    return App("news")


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this run the lock on the app's releases, and have its instances stop without a word."""
    monkeypatch.setattr(release_lock, "LOCKS", tmp_path / "locks")
    Lock("news").take(Holder(RUN, "me", "laptop", "deploy", "lock", time.time(), release_lock.now(), 600))
    monkeypatch.setattr(release_utils, "serving", lambda *_: False)
    for name in ("systemctl", "stop_instance"):
        monkeypatch.setattr(release_utils, name, lambda *_: "")


def made(app: App, *states: str) -> list[Release]:
    """Make a release for each state: good, unfinished, or current, which is good as well."""
    releases = []
    for day, state in enumerate(states, 1):
        release = Release(app, f"2026010{day}T000000Z-0123abcd")
        release.folder.mkdir(parents=True)
        if state != "unfinished":
            release.mark("activated")
        if state == "current":
            app.link.symlink_to(f"releases/{release.id}")
        releases.append(release)
    return releases


def test_a_release_is_taken_to_want_what_the_current_one_takes(app: App) -> None:
    assert wanted(app) == disk_space.FIRST
    old, current = made(app, "good", "current")
    fill(old.folder / "venv" / "old", 5)
    fill(current.folder / "venv" / "library", 2)
    fill(current.folder / "code" / "picture")
    assert 3 * MB <= wanted(app) < 4 * MB
    # What its build noted saves a walk.
    (current.folder / "size").write_text(f"{7 * MB}\n")
    assert wanted(app) == 7 * MB


def test_a_file_with_several_names_takes_its_room_once_and_links_lead_nowhere(tmp_path: Path) -> None:
    cached = fill(tmp_path / "cache" / "library")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "library").hardlink_to(cached)
    (tmp_path / "venv" / "again").hardlink_to(cached)
    (tmp_path / "venv" / "away").symlink_to(fill(tmp_path / "elsewhere" / "big", 3).parent)
    assert MB <= size(tmp_path / "venv") < 2 * MB


def test_what_is_missing_is_told_with_its_numbers(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    (release,) = made(app, "current")
    (release.folder / "size").write_text(f"{300 * MB}")
    assert shortage(app) == ""
    # As much as there is, and the reserve besides.
    monkeypatch.setattr(disk_space, "RESERVE", available(app.folder) - 100 * MB)
    problem = shortage(app)
    for words in (
        "news has no room for a release",
        f"{app.folder}/releases",
        "300 MB",
        "as the current one takes",
        "flask_app_keep",
    ):
        assert words in problem
    assert shortage(app, spare=1000 * MB) == ""


def test_a_failed_release_keeps_its_small_files_alone(
    app: App,
    stopped: None,
    run_module: Any,
) -> None:
    old, new = made(app, "current", "unfinished")
    shared = fill(app.folder / "shared" / "uploads" / "photo", 2)
    venv = fill(new.folder / "venv" / "lib" / "library.so", 2)
    model, small = fill(new.folder / "code" / "model.bin", 2), new.folder / "code" / "app.py"
    small.write_text("import nothing")
    (new.folder / "code" / "uploads").symlink_to(shared.parent)
    copy = fill(new.folder / "before_migration" / "news.db", 2)
    arguments = {"step": "Probe", "reason": "no 200", "next": "deploy.yml"}
    answer = run_module("release_abandon", app="news", id=new.id, run=RUN, **arguments)
    assert answer["failed"] is True and "Its environment is removed" in answer["msg"], answer
    assert not venv.exists() and not model.exists()
    # What it may have taken a database to is seen by the copy alone; what is shared isn't the release's.
    assert small.exists() and copy.exists() and shared.exists()
    assert new.state() == "failed" and old.folder.exists()


def test_what_served_before_keeps_all_of_it(
    app: App,
    stopped: None,
    run_module: Any,
) -> None:
    old, _ = made(app, "good", "current")
    venv = fill(old.folder / "venv" / "lib" / "library.so", 2)
    arguments = {"step": "Probe", "reason": "no 200", "next": "rollback.yml", "served_before": True}
    assert run_module("release_abandon", app="news", id=old.id, run=RUN, **arguments)["failed"] is True
    assert venv.exists() and old.good()


def test_what_nobody_needs_gives_way_before_a_build_and_no_more_than_must(
    app: App,
    plugin: Callable[[str, str], ModuleType],
    fake_module: Any,
    module_failed: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    build = plugin("modules", "release_build")
    module = fake_module(keep=2)
    module.answers = {"systemctl": (0, "", "")}
    monkeypatch.setattr(sandbox, "CACHES", tmp_path / "caches")
    # Of this app, of one that left the inventory, and what has nothing to do with uv.
    cached = [fill(tmp_path / "caches" / name / "archive" / "library") for name in ("news-990", "old-990", "other")]
    for path in cached[:2]:
        (path.parents[1] / ".lock").touch()
    assert sorted(caches()) == [tmp_path / "caches" / name for name in ("news-990", "old-990")]
    oldest, killed, kept, current, new = made(app, "good", "unfinished", "good", "current", "unfinished")
    (current.folder / "size").write_text("0")
    build.Build(module, new, None).make_room()
    assert oldest.folder.exists() and killed.folder.exists() and all(path.exists() for path in cached)
    monkeypatch.setattr(disk_space, "RESERVE", ENDLESS)
    with pytest.raises(module_failed, match="news has no room for a release"):
        build.Build(module, new, None).make_room()
    assert app.releases() == [kept, current, new]
    assert [path.exists() for path in cached] == [False, False, True]


def test_uvs_cache_begins_anew_above_its_limit_and_not_while_uv_works_with_it(tmp_path: Path) -> None:
    library, lock = fill(tmp_path / "archive" / "library", 3), tmp_path / ".lock"
    empty_cache(tmp_path)  # without the lock it isn't uv's
    assert library.exists()
    lock.touch()
    empty_cache(tmp_path, limit=4 * MB)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)  # as uv does
        empty_cache(tmp_path, limit=2 * MB)
        assert library.exists()
    empty_cache(tmp_path, limit=2 * MB)
    assert not library.exists() and lock.exists()


def test_a_lock_of_a_cache_that_leads_elsewhere_or_waits_is_left_alone(tmp_path: Path) -> None:
    library, lock = fill(tmp_path / "archive" / "library"), tmp_path / ".lock"
    other = tmp_path / "other"
    other.touch()
    lock.symlink_to(other)
    empty_cache(tmp_path)
    assert library.exists()
    lock.unlink()
    os.mkfifo(lock)
    empty_cache(tmp_path)  # comes back


@pytest.mark.parametrize("low", [True, False])
def test_a_build_is_ended_before_the_apps_that_run_lack_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: bool
) -> None:
    monkeypatch.setattr(disk_space, "RESERVE", ENDLESS if low else 0)
    begun = time.monotonic()
    with watched(tmp_path) as watch:
        # As uv is run through a shell or sudo: what writes is the child of a child.
        done = subprocess.run(["/bin/sh", "-c", "sleep 20; true" if low else "sleep 0.5; true"], check=False)
    assert watch.low is low
    assert (done.returncode != 0) is low
    assert time.monotonic() - begun < 10


def test_the_watch_ends_with_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(tmp_path):
        pass
    monkeypatch.setattr(disk_space, "RESERVE", ENDLESS)
    assert subprocess.run(["sleep", "0.3"], check=False).returncode == 0


def test_shedding_a_release_twice_or_without_parts_is_no_failure(app: App) -> None:
    shed(Release(app, "20260101T000000Z-0123abcd"))


def test_a_database_is_not_copied_where_the_apps_would_lack_room(
    app: App,
    plugin: Callable[[str, str], ModuleType],
    fake_module: Any,
    module_failed: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migrate = plugin("modules", "release_migrate")
    (release,) = made(app, "unfinished")
    database = fill(app.folder / "shared" / "news.db", 2)
    fill(app.folder / "shared" / "news.db-wal", 3)
    monkeypatch.setattr(migrate, "RESERVE", 0)
    assert migrate.no_room_for_copy(release.folder, database) == ""
    monkeypatch.setattr(migrate, "RESERVE", available(release.folder) - 4 * MB)
    with pytest.raises(module_failed, match=r"news\.db has 5 MB"):
        migrate.Migration(fake_module(), release).copy(database)
    assert not (release.folder / "before_migration").exists()
