"""Connections: one engine per process, one writer at a time, and whether the schema fits the code."""

import enum
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import current_app
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

# The migrations that this code knows, oldest first; a test compares them with migrations/versions/. Written
# down rather than read at run time, so that serving needs neither Alembic in memory nor its files on disk.
REVISIONS = ("0001",)

# How long a writer waits for its turn before the request is answered 503.
WRITE_TIMEOUT_SECONDS = 5

# How long writes are tried anew since the first that met with no leader of PostgreSQL: one that hands over
# takes a second or two. After that it is an outage, and requests that hang would only make others wait.
LEADERLESS_SECONDS = 2.5

# A connection for each thread of a usual worker, and room for more threads. What people wrote, and the hashes
# of their passwords, stay out of the log when a statement fails.
_POOL: dict[str, Any] = {"pool_size": 8, "max_overflow": 24, "pool_timeout": 5, "hide_parameters": True}

# The number is "newsboar" in ASCII: any fixed one that no other program takes in the same database.
_TURN = text(
    f"SELECT set_config('lock_timeout', '{WRITE_TIMEOUT_SECONDS}s', true), "
    f"pg_advisory_xact_lock({0x6E657773626F6172})"
)


def leaderless(error: DBAPIError) -> bool:
    """Whether PostgreSQL may do the same in a moment: no server leads, or the connection was to one that did.

    Before its end a transaction that failed so is nowhere. One whose end nobody heard of may be stored, so
    that only what can be done twice may be tried anew.
    """
    if not hasattr(error.orig, "sqlstate"):  # an error of SQLite
        return False
    # Without a state: no connection. 25006: it leads no more. 57P01 and 57P03: it goes down, it starts.
    return error.connection_invalidated or error.orig.sqlstate in (None, "25006", "57P01", "57P03")


class Status(enum.Enum):
    """What `/status` answers."""

    ALIVE = "Alive"
    UPDATE = "Update"
    DOWN = "Down"


@dataclass
class _OfProcess:
    """What a process must never inherit from the one that it was forked from."""

    engine: Engine
    folder: int | None = None
    """Of an SQLite file: a descriptor of its folder, which serves as a lock between processes."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    leaderless_since: float | None = None
    """By time.monotonic(), since when each write met with no leader."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait for this thread's turn to write.

        SQLite has no queue: who finds it busy sleeps for up to 100 ms and asks again. Here the threads of a
        process queue for its turn, and the processes wait in the kernel, which wakes them at once. (At 200
        posts/s the slowest took 53 ms rather than 409 ms.) SQLite's own lock is still what keeps the file
        whole, also from programs that don't know of this one. On PostgreSQL, it spares waiting connections.
        """
        if not self.turn.acquire(timeout=WRITE_TIMEOUT_SECONDS):
            raise SQLAlchemyError(f"no turn to write within {WRITE_TIMEOUT_SECONDS} s")
        try:
            if self.folder is None:
                yield
                return
            fcntl.flock(self.folder, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self.folder, fcntl.LOCK_UN)
        finally:
            self.turn.release()


class Database:
    """The board's database, safe to use from any thread of any process.

    Creating one connects to nothing. The engine is made at first use in each process, told apart by pid
    (`os.register_at_fork` is not enough: uWSGI forks in C, and runs Python's hooks only when asked to).
    A parent's engine is kept in the child and never touched, because closing its connections there would
    end the parent's PostgreSQL sessions and drop its SQLite locks.
    """

    def __init__(self, url: URL, *, create: bool = False) -> None:
        """Remember the address.

        Args:
            url: as `Settings` gives it.
            create: make a missing SQLite file. Only migrations do; the app would serve an empty one.
        """
        self._url = url
        self._create = create
        self._processes: dict[int, _OfProcess] = {}

    @property
    def engine(self) -> Engine:
        """This process's engine."""
        return self._of_process().engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for queries. Posts are never changed or removed, so what it found stays true."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection whose changes are on disk when the block ends, and gone if it raises.

        There is one writer at a time, on either database, so what the block reads stays true until it
        commits: that keeps scores exact and lets replies arrive before what they reply to.
        """
        mine = self._of_process()
        with (
            mine.writing(),
            mine.engine.execution_options(newsboard_write=True).begin() as connection,
        ):
            if mine.engine.dialect.name == "postgresql":
                connection.execute(_TURN)
            yield connection
        mine.leaderless_since = None

    def may_pass(self, error: DBAPIError) -> bool:
        """Whether a write that failed so is worth trying anew, if it may be done twice."""
        if not leaderless(error):
            return False
        mine, now = self._of_process(), time.monotonic()
        if mine.leaderless_since is None:
            mine.leaderless_since = now
        return now - mine.leaderless_since < LEADERLESS_SECONDS

    def status(self) -> Status:
        """Ask the database for its revision: one indexed row, cheap enough for any health check.

        A revision that this code doesn't know is newer than it, and fine: while a release is rolled out or
        back, the older code runs on the newer schema, and must stay in service.
        """
        try:
            with self.engine.connect() as connection:
                found = connection.scalar(text("SELECT version_num FROM alembic_version"))
        except SQLAlchemyError:
            return Status.UPDATE if self._answers() else Status.DOWN
        return Status.UPDATE if found is None or found in REVISIONS[:-1] else Status.ALIVE

    def _answers(self) -> bool:
        """Whether the query failed only because nothing has been migrated yet."""
        try:
            with self.engine.connect() as connection:
                return not inspect(connection).has_table("alembic_version")
        except SQLAlchemyError:
            return False

    def close(self) -> None:
        """Let go of this process's connections. The next use makes new ones."""
        mine = self._processes.pop(os.getpid(), None)
        if mine is not None:
            mine.engine.dispose()
            if mine.folder is not None:
                os.close(mine.folder)

    def _of_process(self) -> _OfProcess:
        pid = os.getpid()
        if pid not in self._processes:
            # Two threads may come here at once; setdefault lets one win, and the other engine is never used.
            self._processes.setdefault(pid, self._start())
        return self._processes[pid]

    def _start(self) -> _OfProcess:
        if self._url.get_backend_name() == "sqlite":
            path = Path(self._url.database or "").absolute()
            try:
                folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:  # not there yet: SQLite's own lock will do, and /status says what is wrong
                folder = None
            return _OfProcess(_sqlite_engine(self._url, create=self._create), folder)
        # A server that has gone must cost seconds, not the minutes that TCP would wait.
        patience = {"connect_timeout": "3", "tcp_user_timeout": "5000"}
        url = self._url.update_query_dict({**patience, **self._url.query})
        return _OfProcess(create_engine(url, pool_pre_ping=True, **_POOL))


def current() -> Database:
    """The database of the app that handles this request."""
    database: Database = current_app.extensions["newsboard"]
    return database


def _sqlite_engine(url: URL, *, create: bool) -> Engine:
    path = Path(url.database or "").absolute()
    # mode=rw: without it, a mistyped path would be created, and look like an empty board.
    uri = f"file:{quote(str(path))}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=WRITE_TIMEOUT_SECONDS,
            check_same_thread=False,  # the pool hands a connection to one thread at a time
            isolation_level=None,  # transactions are begun below, not guessed by the driver
        )
        connection.execute("PRAGMA journal_mode = WAL")  # readers never wait for the writer
        connection.execute("PRAGMA synchronous = FULL")  # a 200 survives a power cut
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    engine = create_engine(url, creator=connect, **_POOL)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once ("database is locked") if another
        # process wrote in between. A writer therefore takes the lock when it begins, and waits for it there.
        options: Any = connection.get_execution_options()
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("newsboard_write") else "BEGIN")

    return engine
