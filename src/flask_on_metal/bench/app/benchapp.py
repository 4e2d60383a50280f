"""What the benchmark asks for: one route for each kind of request, and next to no work of its own.

A real app spends more time in its own code, so what differs between servers weighs less there than it does here.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

from flask import Flask, Response, request

DATABASE = os.environ.get("BENCH_DATABASE", "/tmp/benchapp.db")
STORIES = 1000
"""Rows that the database page chooses from."""
POSTS = 10_000
"""Rows that posts are written over, so that a fast server doesn't meet a larger table than a slow one."""
LONGEST_SLEEP = 5.0

PAGE = (Path(__file__).parent / "static" / "page.html").read_text(encoding="utf-8")
"""1 KB. NGINX serves the same file as /static/page.html."""

app = Flask(__name__, static_folder=None)
threads = threading.local()
one_writer = threading.Lock()
"""SQLite lets one connection write at a time, and has the others poll: within a process they stand in line instead."""


@app.get("/page")
def page() -> str:
    """Return the same 1 KB each time."""
    return PAGE


@app.get("/cached")
def cached() -> Response:
    """Return the same 1 KB, which a cache may keep for a second; when it was made tells whether one did."""
    made = {"Cache-Control": "public, max-age=1", "X-Made": str(time.monotonic_ns())}
    return Response(PAGE, mimetype="text/html", headers=made)


@app.get("/json")
def small_json() -> dict[str, object]:
    """Return what an API typically does."""
    return {"id": 4711, "title": "A story", "by": "somebody", "score": 42, "comments": [1, 2, 3, 5, 8, 13, 21]}


@app.get("/database")
def database() -> str:
    """Return a page of ten rows."""
    first = time.monotonic_ns() // 1000 % (STORIES - 10)
    rows = connection().execute("SELECT title, score FROM stories WHERE id > ? ORDER BY id LIMIT 10", (first,))
    items = "".join(f"<li>{title} ({score})</li>" for title, score in rows)
    return f"<!doctype html><title>Stories</title><ol>{items}</ol>"


@app.post("/post")
def post() -> dict[str, bool]:
    """Store a JSON document: committed, and not waited for until it is on the disk, whose speed is no server's."""
    document = request.get_json()
    row = (int(document["id"]) % POSTS, str(document["title"]), str(document["text"]))
    with one_writer:
        connection().execute("REPLACE INTO posts VALUES (?, ?, ?)", row)
    return {"stored": True}


@app.get("/slow")
def slow() -> str:
    """Wait, as for another service."""
    time.sleep(min(request.args.get("seconds", 1.0, float), LONGEST_SLEEP))
    return "slow\n"


def connection() -> sqlite3.Connection:
    """Return this thread's connection. None is opened at import: it must not be carried over a fork."""
    opened: sqlite3.Connection | None = getattr(threads, "connection", None)
    if opened is None:
        # isolation_level: each statement is its own transaction.
        opened = threads.connection = sqlite3.connect(DATABASE, timeout=10, isolation_level=None)
        opened.execute("PRAGMA synchronous=NORMAL")
    return opened


def prepare() -> None:
    """Make the database, once for all processes: those that come later find it done."""
    database = sqlite3.connect(DATABASE, timeout=30, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("BEGIN IMMEDIATE")
        database.execute("CREATE TABLE IF NOT EXISTS stories (id INTEGER PRIMARY KEY, title TEXT, score INTEGER)")
        database.execute("CREATE TABLE IF NOT EXISTS posts (id INTEGER PRIMARY KEY, title TEXT, text TEXT)")
        if not database.execute("SELECT count(*) FROM stories").fetchone()[0]:
            stories = [(number, f"Story number {number}", number * 37 % 500) for number in range(1, STORIES + 1)]
            database.executemany("INSERT INTO stories VALUES (?, ?, ?)", stories)
        database.execute("COMMIT")
    finally:
        database.close()


prepare()
