#!/usr/bin/env python3
"""A cache for Debian packages, so that ten throw-away hosts fetch a package once, also when they all want it at once.

Why not one of the known ones: each set of hosts has a cache process of its own that listens on nothing but that set's
bridge, and all of them share one folder. Squid and apt-cacher-ng want a folder for each process.

Kept is only what can never change under its name: packages, and indexes named by their digest. All else (Release files)
is passed through. apt checks every file's digest and signature itself, so a damaged file can delay a host, not harm it.

Usage: package_cache.py ADDRESS PORT FOLDER
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

KEEP_DAYS = 60
TIMEOUT = 60


class Handler(BaseHTTPRequestHandler):
    """One connection of a host's apt, which sends many requests over it."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        """Answer from the folder, from the archive by way of the folder, or from the archive."""
        url = self.path
        if urlsplit(url).scheme != "http":
            self.send_error(400, "this is a cache for apt, and takes http URLs only")
            return
        try:
            if url.endswith((".deb", ".udeb")) or "/by-hash/" in url:
                self.from_folder(url)
            else:
                self.from_archive(url)
        except urllib.error.HTTPError as error:
            self.empty(error.code, error.reason)
        except (OSError, http.client.HTTPException) as error:
            # Half an answer may be on its way already: then the connection is all that is left to end.
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.empty(502, f"{type(error).__name__}: {error}"[:200])

    def from_folder(self, url: str) -> None:
        """Send a file that never changes, fetching it first if need be.

        Who wants the same one meanwhile waits for it.
        """
        digest = hashlib.sha256(url.encode()).hexdigest()
        path = self.folder / digest[:2] / digest
        try:
            kept = path.open("rb")
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            with locked(path.with_suffix(".lock")):
                if not path.exists():
                    fetch(url, path)
                kept = path.open("rb")
        with kept:
            os.utime(path)  # last used: see prune
            self.send_body(kept, os.fstat(kept.fileno()).st_size)

    def from_archive(self, url: str) -> None:
        """Pass a request through, and with it the host's question whether there is anything new."""
        request = urllib.request.Request(url)
        for header in ("If-Modified-Since", "Cache-Control"):
            if self.headers.get(header):
                request.add_header(header, self.headers[header])
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
            self.send_body(answer, int(length) if length else None, answer.headers.get("Last-Modified"))

    def send_body(self, body: IO[bytes], length: int | None, modified: str | None = None) -> None:
        """Send a file; without a length its end is the connection's."""
        self.send_response(200)
        if modified:
            self.send_header("Last-Modified", modified)
        if length is None:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        shutil.copyfileobj(body, self.wfile, 256 * 1024)

    def empty(self, code: int, reason: str) -> None:
        """Send an answer that is only a status."""
        self.send_response(code, reason.replace("\n", " "))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log failures only; a good run needs no lines."""
        if not str(args[1:2]).startswith(("('2", "('3")):
            sys.stderr.write(f"{time.strftime('%FT%TZ', time.gmtime())} {self.path}: {format % args}\n")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one fetch a file, of all threads of all cache processes on this folder."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fetch(url: str, path: Path) -> None:
    """Get a file from the archive; it has its name only when all of it is there."""
    partial = path.with_suffix(".partial")
    for attempt in (1, 2, 3):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, partial.open("wb") as file:
                shutil.copyfileobj(answer, file, 256 * 1024)
                length = answer.headers.get("Content-Length")
                if length and file.tell() != int(length):
                    raise OSError(f"{file.tell()} of {length} bytes came")
            partial.replace(path)
            return
        except urllib.error.HTTPError:
            raise
        except OSError:
            if attempt == 3:
                raise
            time.sleep(attempt)


def prune(folder: Path) -> None:
    """Remove what no host has asked for in a long time."""
    oldest = time.time() - KEEP_DAYS * 86400
    for file in folder.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mtime < oldest:
                file.unlink()


def main() -> None:
    """Serve until killed."""
    address, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    prune(folder)
    Handler.folder = folder
    ThreadingHTTPServer.daemon_threads = True
    # Ten hosts connect in the same moment.
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer((address, port), Handler).serve_forever()


if __name__ == "__main__":
    main()
