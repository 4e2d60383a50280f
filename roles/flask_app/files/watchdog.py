"""Ends a worker in which a single request hangs, or which has grown too large, and says in the journal why.

uWSGI's own deadline, harakiri, isn't used. On Debian 12 it is one for a whole worker, and each request that begins or
ends in another of its threads sets it anew or takes it back: in a busy worker a request may hang for ever. And it
counts until an answer is complete: a stream that lasts longer ends its worker, with all that it works on. uWSGI can
limit a worker's memory as well, but then reads it from /proc after each request; here it is read once a second.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


class Watchdog:
    """A WSGI application around another one."""

    youth = 10.0
    """Seconds before which a worker is not too large: an app that is so from its start still answers meanwhile."""

    def __init__(self, application: Callable[..., Iterable[bytes]], harakiri: float, worker_memory: int) -> None:
        """Note the seconds that a request may take, and the megabytes from which on a worker is replaced."""
        self.application = application
        self.harakiri, self.worker_memory = harakiri, worker_memory
        self.begun: dict[int, tuple[float, str]] = {}  # by thread: when, and what
        self.lock, self.watched = threading.Lock(), 0  # the process: this one is forked from the master
        self.opened = threading.Event()  # the door before the first thread's next request
        self.opened.set()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request. Of an answer that comes piece by piece, each piece may take as long."""
        if self.watched != os.getpid():
            self.watch()
        thread = threading.get_ident()
        # Without the query, which may hold a secret. NGINX's log has the id as well.
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        said = f"{request} (request id {environ.get('HTTP_X_REQUEST_ID', '-')})"
        self.begun[thread] = (time.monotonic(), said)
        answer: Iterable[bytes] = ()
        try:
            if not self.opened.is_set() and thread == threading.main_thread().ident:
                self.opened.wait()
            answer = self.application(environ, unbuffered(start_response))
            # A file goes as it is: uWSGI sends it by itself.
            if not isinstance(answer, list | tuple) and not hasattr(answer, "read"):
                answer = Pieces(answer, self.begun, thread, said)
            return answer
        finally:
            if not isinstance(answer, Pieces):
                del self.begun[thread]

    def watch(self) -> None:
        """Start to watch, once in each process: a thread doesn't outlive the fork that makes a worker."""
        with self.lock:
            if self.watched != os.getpid():
                if not self.watched:
                    # A child would wait for ever for the thread that it doesn't have.
                    os.register_at_fork(before=faulthandler.cancel_dump_traceback_later)
                self.watched = os.getpid()
                threading.Thread(target=self.look, args=(memory(),), name="watchdog", daemon=True).start()

    def look(self, began: int) -> None:
        """Look at the requests and the memory each second, and end this worker when there is a reason to.

        Args:
            began: megabytes of memory before the first request.
        """
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGHUP}
        )  # uWSGI's handler crashes in a thread that isn't its own
        start = time.monotonic()
        # Replaced by one that begins as large, it would be replaced for ever: it may grow by a quarter at least.
        limit = max(self.worker_memory, began * 5 // 4)
        if limit > self.worker_memory:
            say(
                f"process {os.getpid()} begins with {began} MB of memory, and is replaced from {limit} MB on:"
                f" there is no room for growth in worker_memory ({self.worker_memory} MB)"
            )
        while True:
            # Where not even this thread gets on, since another keeps Python's lock, this ends the worker all the same.
            faulthandler.dump_traceback_later(self.harakiri + 3, exit=True)
            time.sleep(1)
            for thread, (begun, request) in list(self.begun.items()):
                if time.monotonic() - begun > self.harakiri:
                    self.end_hung(thread, request)
            size = memory()
            if size >= limit and time.monotonic() - start >= self.youth:
                self.end_large(size, limit)

    def end_hung(self, thread: int, request: str) -> None:
        """End this worker for a request that hangs, once the others are answered."""
        stack = sys._current_frames().get(thread)
        # Decoded, a path may have anything in it, and a newline would begin another line of the journal.
        say(f"HARAKIRI: {ascii(request)[1:-1]} has hung for {self.harakiri:g} s in process {os.getpid()}, which ends:")
        say("".join(traceback.format_stack(stack)) if stack else "(it has just ended)")
        faulthandler.cancel_dump_traceback_later()
        self.ask_to_end()
        self.wait_for_others()
        os.kill(os.getpid(), signal.SIGKILL)

    def end_large(self, size: int, limit: int) -> None:
        """End this worker for its size, once its requests are answered."""
        say(f"process {os.getpid()} has {size} MB of memory, and is replaced: the limit is {limit} MB")
        faulthandler.cancel_dump_traceback_later()
        self.ask_to_end()
        time.sleep(self.harakiri + 1)
        os.kill(os.getpid(), signal.SIGKILL)

    def ask_to_end(self) -> None:
        """Have uWSGI's worker accept nothing more, and end when all threads are done, which is what SIGHUP means to it.

        The process's first thread takes the signal, and stays in uWSGI's handler until all others are done: a request
        that it works on would wait as long, and with Python's lock in its hands they never would be. So it gets the
        signal while it waits for a request; one that comes just then is kept at the door. Where that is never so, since
        its request hangs too or the next is always there, it gets it all the same in the end.
        """
        first = threading.main_thread().ident or 0
        end = time.monotonic() + self.harakiri
        while True:
            self.opened.clear()
            begun = self.begun.get(first)
            time.sleep(0.002)  # what it has answered is on its way
            hangs = begun and time.monotonic() - begun[0] > self.harakiri
            if not (begun or first in self.begun) or hangs or time.monotonic() > end:
                break
            self.opened.set()
            time.sleep(0.005)
        signal.pthread_kill(first, signal.SIGHUP)
        self.opened.set()

    def wait_for_others(self) -> None:
        """Wait until all requests that don't hang are answered, or have had their time too."""
        end = time.monotonic() + self.harakiri
        while time.monotonic() < end:
            time.sleep(0.1)
            latest = time.monotonic() - self.harakiri
            if all(begun < latest for begun, _ in list(self.begun.values())):
                return


class Pieces:
    """An answer that comes piece by piece: each of them is noted when it begins."""

    def __init__(self, answer: Iterable[bytes], begun: dict[int, tuple[float, str]], thread: int, request: str) -> None:
        """Note what is answered, where the request is noted, by which thread, and as what."""
        self.answer, self.pieces = answer, iter(answer)
        self.begun, self.thread, self.request = begun, thread, request

    def __iter__(self) -> Iterator[bytes]:
        """Begin."""
        return self

    def __next__(self) -> bytes:
        """Give the next piece."""
        self.begun[self.thread] = (time.monotonic(), self.request)
        return next(self.pieces)

    def close(self) -> None:
        """End, as uWSGI asks for whatever became of the answer."""
        try:
            if hasattr(self.answer, "close"):
                self.answer.close()
        finally:
            self.begun.pop(self.thread, None)


def unbuffered(start_response: Callable[..., Any]) -> Callable[..., Any]:
    """Have NGINX hand on server-sent events one by one, unless the app itself says whether it shall."""

    def start(status: str, headers: list[tuple[str, str]], *more: object) -> object:
        told = {name.lower(): value for name, value in headers}
        if told.get("content-type", "").startswith("text/event-stream") and "x-accel-buffering" not in told:
            headers = [*headers, ("X-Accel-Buffering", "no")]
        return start_response(status, headers, *more)

    return start


def memory() -> int:
    """Tell how many megabytes (2**20 bytes) of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


def say(text: str) -> None:
    """Write to the journal."""
    print(text, file=sys.stderr, flush=True)
