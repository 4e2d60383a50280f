"""Before a migration, each SQLite database is copied: into one whole file, and while the app goes on writing."""

from __future__ import annotations

# ruff: noqa: D102, D107  (stand-ins: their names say what they do)
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils import release as release_utils
from ansible.module_utils.release import App, Release

UNIT = Path(__file__).resolve().parents[2] / "roles" / "uwsgi" / "templates" / "app@.service.j2"


@pytest.fixture
def migrate(plugin: Callable[[str, str], ModuleType]) -> ModuleType:
    """Import release_migrate."""
    return plugin("modules", "release_migrate")


# --- the copy


def copied(migrate: ModuleType, source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Run the program as the module does, but as this account."""
    words = [sys.executable, "-I", "-c", migrate.COPY, str(source), str(target), "1"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def in_one_file(copy: Path) -> list[int]:
    """Read the copy's rows from that file and from no other, after a look at whether it is whole."""
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    # The 18th and the 19th byte say 2 where a write-ahead log belongs to the database.
    assert copy.read_bytes()[:20] == b"SQLite format 3\0" + copy.read_bytes()[16:18] + b"\1\1"
    with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in database.execute("SELECT number FROM news ORDER BY number")]


def database(path: Path, rows: int) -> sqlite3.Connection:
    """Make a database in WAL mode whose rows are in the log alone."""
    made = sqlite3.connect(path, check_same_thread=False)
    assert made.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    made.execute("PRAGMA wal_autocheckpoint = 0")
    made.execute("CREATE TABLE news (number INTEGER PRIMARY KEY, text TEXT)")
    made.executemany("INSERT INTO news VALUES (?, ?)", ((number, "x" * 500) for number in range(rows)))
    made.commit()
    return made


@contextmanager
def writer(connection: sqlite3.Connection, first: int) -> Iterator[list[int]]:
    """Write row by row from a thread, as an app does; tell which are committed."""
    committed, stop = list[int](), threading.Event()

    def write() -> None:
        number = first
        while not stop.is_set():
            connection.execute("INSERT INTO news VALUES (?, ?)", (number, "y" * 500))
            connection.commit()
            committed.append(number)
            number += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield committed
    finally:
        stop.set()
        thread.join(30)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Make the folder of copies."""
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


def test_a_copy_made_while_the_app_writes_is_whole_and_has_all_that_was_committed_before(
    migrate: ModuleType, tmp_path: Path, kept: Path
) -> None:
    with closing(database(tmp_path / "news.db", 2000)) as connection, writer(connection, 2000) as committed:
        while len(committed) < 50:
            time.sleep(0.01)
        before = len(committed)
        done = copied(migrate, tmp_path / "news.db", kept / "news.db")
        after = len(committed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert after > before, "the app went on writing"
    found = in_one_file(kept / "news.db")
    # All from before, and of those that came meanwhile no one without those before it.
    assert found == list(range(len(found))) and 2000 + before <= len(found) <= 2000 + after + 1


def test_a_copy_of_a_database_without_a_write_ahead_log_is_whole_too(
    migrate: ModuleType, tmp_path: Path, kept: Path
) -> None:
    with closing(database(tmp_path / "news.db", 100)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    assert copied(migrate, tmp_path / "news.db", kept / "news.db").returncode == 0
    assert in_one_file(kept / "news.db") == list(range(100))


@pytest.mark.parametrize("name", ["news?mode=ro.db", "two words.db", "a#b%20c&d.db", "größe.db", "-x.db", "it's.db"])
def test_any_name_of_a_database_works(migrate: ModuleType, tmp_path: Path, kept: Path, name: str) -> None:
    (tmp_path / "shared").mkdir()
    with closing(database(tmp_path / "shared" / name, 10)):
        done = copied(migrate, tmp_path / "shared" / name, kept / name)
    assert done.returncode == 0, done.stderr
    assert in_one_file(kept / name) == list(range(10))
    assert {path.name.removesuffix("-wal").removesuffix("-shm") for path in (tmp_path / "shared").iterdir()} == {name}


def test_the_database_itself_stays_as_it_is(migrate: ModuleType, tmp_path: Path, kept: Path) -> None:
    with closing(database(tmp_path / "news.db", 100)) as connection:
        # By another process: a file that this one closes loses the locks that SQLite has on it.
        look = ["sha256sum", str(tmp_path / "news.db"), str(tmp_path / "news.db-wal")]
        before = subprocess.run(look, capture_output=True, check=True).stdout
        assert copied(migrate, tmp_path / "news.db", kept / "news.db").returncode == 0
        assert subprocess.run(look, capture_output=True, check=True).stdout == before
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_is_no_database_is_not_taken_for_a_copied_one(
    migrate: ModuleType, tmp_path: Path, kept: Path
) -> None:
    (tmp_path / "news.db").write_text("no database\n" * 1000)
    done = copied(migrate, tmp_path / "news.db", kept / "news.db")
    assert done.returncode != 0 and "not a database" in done.stderr


def test_a_database_that_is_not_there_is_not_made(migrate: ModuleType, tmp_path: Path, kept: Path) -> None:
    done = copied(migrate, tmp_path / "news.db", kept / "news.db")
    assert done.returncode != 0 and "unable to open database file" in done.stderr
    assert not (tmp_path / "news.db").exists()


def test_a_database_that_is_not_whole_is_found_out(migrate: ModuleType, tmp_path: Path, kept: Path) -> None:
    with closing(database(tmp_path / "news.db", 10)) as connection:
        connection.execute("INSERT INTO news VALUES (99, NULL)")
        connection.commit()
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'text TEXT', 'text TEXT NOT NULL')")
        connection.commit()
    done = copied(migrate, tmp_path / "news.db", kept / "news.db")
    assert done.returncode != 0
    assert "the copy is not whole: NULL value in news.text" in done.stderr


# --- copies, then the command


class Host:
    """Stands in for the accounts of a host: notes what is run and who owns what, and really makes the copies."""

    def __init__(self, migrate: ModuleType, patch: pytest.MonkeyPatch) -> None:
        self.migrate, self.steps = migrate, list[str]()
        self.fails = ""  # what a program that fails has among its words
        patch.setattr(migrate, "account_ids", lambda *_: (12345, 12346))
        patch.setattr(os, "chown", self.chown)
        patch.setattr(migrate.Migration, "as_app", self.as_app)

    def chown(self, path: Path, uid: int, gid: int, **_: Any) -> None:
        owners = {(12345, 12346): "the app's", (0, 0): "root's"}
        self.steps.append(f"{path.name} is {owners[uid, gid]}")

    def as_app(
        self, words: list[str], *, where: Path, writes: Path | None = None, size: int | None = None
    ) -> tuple[int, str]:
        if words[0] == "/bin/sh":
            assert writes is None
            self.steps.append(f"{words[2]} in {where.name}")
        else:
            assert writes and size and words[6] == "30"
            assert words[:4] == ["/usr/bin/python3", "-I", "-c", self.migrate.COPY] and writes == where
            self.steps.append(f"copy {Path(words[4]).name} to {writes.name}")
        if self.fails and self.fails in " ".join(words):
            return 1, "said why"
        if words[0] != "/bin/sh":
            assert copied(self.migrate, Path(words[4]), Path(words[5])).returncode == 0
        return 0, "said a lot"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Make a release whose app has two databases."""
    monkeypatch.setattr(release_utils, "SERVED", tmp_path)
    release = Release(App("news"), "20260101T000000Z-0123abcd")
    (release.folder / "code").mkdir(parents=True)
    shared = release.app.folder / "shared"
    (shared / "instance").mkdir(parents=True)
    for name in ("news.db", "instance/users.db"):
        database(shared / name, 3).close()
    return release


@pytest.fixture
def host(migrate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Stand in for the host's accounts."""
    return Host(migrate, monkeypatch)


def migration(migrate: ModuleType, fake_module: Any, release: Release, *names: str) -> Any:
    shared = release.app.folder / "shared"
    module = fake_module(command="alembic upgrade head", seconds=60, sqlite=[str(shared / name) for name in names])
    module.answers["systemctl"] = (
        0,
        UNIT.read_text() + "# /etc/x.conf\n[Service]\nInaccessiblePaths=\nLimitNOFILE=5\n",
        "",
    )
    return migrate.Migration(module, release)


def test_a_migration_has_the_sandbox_of_the_app_and_nothing_of_its_server(migrate: ModuleType) -> None:
    lines = [line for line in UNIT.read_text().splitlines() if line and line[0] not in "#{["]
    service = lines[lines.index("Type=notify") : lines.index("WantedBy=multi-user.target")]
    units = UNIT.read_text() + "[Service]\n# jit\nMemoryDenyWriteExecute=no\nExecStartPost=/bin/true\n[Unit]\nAfter=x\n"
    taken = migrate.sandbox(units, "news", "20260101T000000Z-0123abcd")
    own = [line.replace("%p", "news").replace("%i", "20260101T000000Z-0123abcd") for line in service]
    assert [line for line in own if line not in taken] == [
        "Type=notify", "NotifyAccess=main", "WorkingDirectory=/srv/news/releases/20260101T000000Z-0123abcd/code",
        "ExecStart=/usr/bin/uwsgi-core --ini /srv/news/releases/20260101T000000Z-0123abcd/uwsgi.ini",
        "RuntimeDirectory=news/20260101T000000Z-0123abcd/private", "RuntimeDirectoryMode=0700",
        "Restart=on-failure", "RestartSec=200ms",
        "KillMode=mixed", "KillSignal=SIGTERM", "TimeoutStartSec=120s",
    ]  # fmt: skip
    assert [line for line in taken if line not in own] == ["MemoryDenyWriteExecute=no"]
    # What an operator's drop-in says comes after what it changes.
    assert taken[-1] == "MemoryDenyWriteExecute=no"


def test_a_line_that_goes_on_is_one(migrate: ModuleType) -> None:
    assert migrate.sandbox("[Service]\nUser=a\nExecStart=/x \\\n  UMask=7\n", "a", "b") == ["User=a"]


def test_each_database_is_copied_before_the_command_runs(
    migrate: ModuleType, fake_module: Any, release: Release, host: Host
) -> None:
    copies = migration(migrate, fake_module, release, "news.db", "instance/users.db").run()
    kept = release.folder / "before_migration"
    assert copies == [f"{kept}/news.db", f"{kept}/instance%2Fusers.db"]
    # The folder is the app's for the time of a copy; the copies are never the app's afterwards.
    assert host.steps == [
        "before_migration is the app's", "copy news.db to before_migration",
        "before_migration is root's", "news.db is root's",
        "before_migration is the app's", "copy users.db to before_migration",
        "before_migration is root's", "instance%2Fusers.db is root's",
        "alembic upgrade head in code",
    ]  # fmt: skip
    assert kept.stat().st_mode & 0o077 == 0
    for path in copies:
        with closing(sqlite3.connect(path)) as copy:
            assert copy.execute("SELECT count(*) FROM news").fetchone() == (3,)


def test_a_database_that_is_not_there_yet_needs_no_copy(
    migrate: ModuleType, fake_module: Any, release: Release, host: Host
) -> None:
    assert migration(migrate, fake_module, release, "later.db").run() == []
    assert migration(migrate, fake_module, release).run() == []
    assert host.steps == ["alembic upgrade head in code"] * 2
    assert not (release.folder / "before_migration").exists()


def test_nothing_is_migrated_when_a_copy_fails(
    migrate: ModuleType, fake_module: Any, module_failed: Any, release: Release, host: Host
) -> None:
    host.fails = "users.db"
    with pytest.raises(module_failed, match=r"users\.db could not be copied, and is not migrated .*\nsaid why"):
        migration(migrate, fake_module, release, "news.db", "instance/users.db", "news.db").run()
    assert host.steps[4:] == [
        "before_migration is the app's", "copy users.db to before_migration", "before_migration is root's",
    ]  # fmt: skip


def test_a_migration_that_fails_tells_what_it_said_and_where_the_copies_are(
    migrate: ModuleType, fake_module: Any, module_failed: Any, release: Release, host: Host
) -> None:
    host.fails = "alembic"
    with pytest.raises(module_failed) as failed:
        migration(migrate, fake_module, release, "news.db", "later.db").run()
    assert str(failed.value) == (
        "`alembic upgrade head` ended with status 1:\nsaid why\n"
        f"The database as it was before is in {release.folder}/before_migration/news.db"
    )


@pytest.fixture
def systemd_run(migrate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Stand in for systemd-run: notes its words, and then does what a script says."""

    def stand_in(script: str) -> Path:
        program, words = tmp_path / "bin" / "systemd-run", tmp_path / "words"
        program.parent.mkdir(exist_ok=True)
        copied = f"cp {tmp_path}/units/*/sandbox.conf {tmp_path}/drop-in"
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {words}\n{copied}\n{script}\n")
        program.chmod(0o755)
        (tmp_path / "units").mkdir(exist_ok=True)
        monkeypatch.setattr(migrate, "RUNTIME_UNITS", tmp_path / "units")
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return words

    return stand_in


def test_the_command_runs_as_the_app_and_may_write_where_the_app_may(
    migrate: ModuleType, fake_module: Any, release: Release, systemd_run: Callable[[str], Path], tmp_path: Path
) -> None:
    it, noted = migration(migrate, fake_module, release), systemd_run("exit 0")
    it.module.params["command"] = "echo ${PATH} $$"
    assert it.run() == []
    words = noted.read_text().splitlines()
    properties = dict(
        word.removeprefix("--property=").split("=", 1) for word in words if word.startswith("--property=")
    )
    assert properties["WorkingDirectory"] == f"{release.folder}/code"
    # systemd ends it, with all that it started.
    assert (properties["RuntimeMaxSec"], properties["TimeoutStopSec"]) == ("60s", "10s")
    assert "LimitFSIZE" not in properties and "BindPaths" not in properties
    drop_in = (tmp_path / "drop-in").read_text().splitlines()
    assert drop_in[:3] == ["[Service]", "User=news", "Group=news"]
    assert f"EnvironmentFile={release.folder}/environment".replace(str(tmp_path), "/srv") in drop_in
    assert not list(migrate.RUNTIME_UNITS.iterdir()), "the next migration would begin with it"
    # systemd makes $ of $$.
    assert words[-3:] == ["/bin/sh", "-c", "echo $${PATH} $$$$"]


# --- what a taken-over app can hold up


def test_a_database_that_somebody_keeps_locked_is_not_waited_for_for_ever(
    migrate: ModuleType, tmp_path: Path, kept: Path
) -> None:
    with closing(database(tmp_path / "news.db", 10)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        done = copied(migrate, tmp_path / "news.db", kept / "news.db")
        assert 0.9 < time.monotonic() - start < 10
    assert (done.returncode, done.stderr) == (1, "it is locked: for 1 s somebody let nobody else read it\n")


def test_a_database_whose_copy_would_fill_the_disk_is_not_copied(
    migrate: ModuleType, fake_module: Any, module_failed: Any, release: Release, host: Host
) -> None:
    # It has no blocks, and any size: the app may write what it likes.
    with (release.app.folder / "shared" / "news.db").open("r+b") as file:
        file.truncate(2**42)
    with pytest.raises(module_failed, match=r"news\.db has 4194304 MB, and isn't migrated .* Make room there"):
        migration(migrate, fake_module, release, "news.db").run()
    assert host.steps == []


def test_a_copy_leaves_room_on_the_disk_however_the_database_grows_meanwhile(
    migrate: ModuleType, fake_module: Any, release: Release, systemd_run: Callable[[str], Path], monkeypatch: Any
) -> None:
    noted = systemd_run("exit 0")
    monkeypatch.setattr(migrate, "account_ids", lambda *_: (os.getuid(), os.getgid()))
    monkeypatch.setattr(os, "chown", lambda *_, **__: None)
    migration(migrate, fake_module, release).copy(release.app.folder / "shared" / "news.db")
    (limit,) = [line for line in noted.read_text().splitlines() if line.startswith("--property=LimitFSIZE=")]
    free = os.statvfs(release.folder).f_bavail * os.statvfs(release.folder).f_frsize
    assert abs(int(limit.rpartition("=")[2]) - (free - 200 * 2**20)) < 100 * 2**20


@pytest.mark.parametrize(
    "script",
    [
        "exec sleep 60",
        "yes flood",  # more than fits into memory, if somebody kept it
        "exec >&- 2>&-; exec sleep 60",
        "sleep 60 & exec sleep 60",
    ],
)
def test_a_migration_that_does_not_end_is_stopped_and_says_so(
    migrate: ModuleType,
    fake_module: Any,
    module_failed: Any,
    release: Release,
    systemd_run: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    script: str,
) -> None:
    bounded = migrate.run_bounded
    monkeypatch.setattr(migrate, "run_bounded", lambda words, seconds: bounded(words, seconds - 30))
    systemd_run(script)
    it, start = migration(migrate, fake_module, release), time.monotonic()
    it.module.params["seconds"] = 1
    with pytest.raises(module_failed) as failed:
        it.run()
    assert 1 <= time.monotonic() - start < 5
    said = str(failed.value)
    assert said.startswith("`alembic upgrade head` did not end in time:\n") and len(said) < 20000
    assert said.endswith("It took longer than 1 s, and was stopped (option migrate_timeout).")


def test_who_holds_the_pipe_of_a_migration_that_has_ended_holds_up_nobody(
    migrate: ModuleType, fake_module: Any, release: Release, systemd_run: Callable[[str], Path]
) -> None:
    systemd_run("(while echo drip; do sleep 0.01; done) & exit 0")
    start = time.monotonic()
    assert migration(migrate, fake_module, release).run() == []
    assert time.monotonic() - start < 5
