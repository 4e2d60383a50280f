"""Sees a single request that hangs, and says in the journal why a worker ends.

uWSGI 2.0 has one deadline for a whole worker, and each request that begins or ends in another of its threads sets it
anew or takes it back: in a busy worker a request may hang for ever. Its harakiri still ends a worker in which no thread
gets on.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Watchdog:
    """A WSGI application around another one."""

    def __init__(self, application: Callable[..., Iterable[bytes]], harakiri: float, worker_memory: int) -> None:
        """Note the seconds that a request may take, and the megabytes above which uWSGI replaces a worker."""
        self.application = application
        self.harakiri, self.worker_memory = harakiri, worker_memory
        self.begun: dict[int, tuple[float, str]] = {}  # by thread: when, and what
        # The processes that are watched, and that were found too large: this one is forked from the master.
        self.lock, self.watched, self.too_large = threading.Lock(), 0, 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request. What a streaming response takes after that is not watched."""
        if self.watched != os.getpid():
            self.watch()
        thread = threading.get_ident()
        # Without the query, which may hold a secret. NGINX's log has the id as well.
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.begun[thread] = (time.monotonic(), f"{request} (request id {environ.get('HTTP_X_REQUEST_ID', '-')})")
        try:
            return self.application(environ, start_response)
        finally:
            self.weigh()
            del self.begun[thread]

    def watch(self) -> None:
        """Start to watch, once in each process: a thread doesn't outlive the fork that makes a worker."""
        with self.lock:
            if self.watched != os.getpid():
                self.watched = os.getpid()
                threading.Thread(target=self.look, name="watchdog", daemon=True).start()

    def look(self) -> None:
        """Look at the requests each second, and end this worker when one hangs."""
        while True:
            time.sleep(1)
            for thread, (begun, request) in list(self.begun.items()):
                if time.monotonic() - begun > self.harakiri:
                    stack = sys._current_frames().get(thread)
                    say(f"HARAKIRI: {request} has hung for {self.harakiri:g} s in process {os.getpid()}, which ends:")
                    say("".join(traceback.format_stack(stack)) if stack else "(it has just ended)")
                    self.wait_for_first()
                    # uWSGI's worker takes this as: accept nothing more, and end when all threads are done.
                    os.kill(os.getpid(), signal.SIGHUP)
                    self.wait_for_others()
                    os.kill(os.getpid(), signal.SIGKILL)

    def wait_for_first(self) -> None:
        """Wait until the process's first thread is between two requests, or its request hangs too.

        That thread is the one that takes the signal, and it stays in uWSGI's handler until all others are done, the
        hanging one as well: a request that it works on would be lost.
        """
        first = threading.main_thread().ident
        end = time.monotonic() + self.harakiri
        while time.monotonic() < end:
            begun = self.begun.get(first or 0)
            if begun is None or time.monotonic() - begun[0] > self.harakiri:
                return
            time.sleep(0.005)

    def wait_for_others(self) -> None:
        """Wait until all requests that don't hang are answered, or have had their time too."""
        end = time.monotonic() + self.harakiri
        while time.monotonic() < end:
            time.sleep(0.1)
            latest = time.monotonic() - self.harakiri
            if all(begun < latest for begun, _ in list(self.begun.values())):
                return

    def weigh(self) -> None:
        """Say once how large the worker is, if uWSGI is about to replace it for that: uWSGI itself doesn't say why."""
        size = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
        if size >= self.worker_memory and self.too_large != os.getpid():
            self.too_large = os.getpid()
            say(f"process {os.getpid()} has {size} MB of memory, and is replaced: the limit is {self.worker_memory} MB")


def say(text: str) -> None:
    """Write to the journal."""
    print(text, file=sys.stderr, flush=True)
