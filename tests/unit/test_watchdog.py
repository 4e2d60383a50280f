"""The watchdog that is rendered into each release's wsgi.py: a hanging request ends its worker, and only that one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.timed

WATCHDOG = Path(__file__).resolve().parents[2] / "roles" / "flask_app" / "files" / "watchdog.py"


def worker(script: str, seconds: float = 15) -> subprocess.CompletedProcess[str]:
    """Run a script as a worker would be: the watchdog's names are there, and a request can be made."""
    head = """
        def start(status, headers): pass
        def request(app, path, query=""):
            return app({"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query}, start)
        signal.signal(signal.SIGHUP, lambda *_: say("asked to end"))
    """
    text = "\n".join([WATCHDOG.read_text(), textwrap.dedent(head), textwrap.dedent(script)])
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=seconds, check=False, cwd="/"
    )


def test_request_that_hangs_is_named_with_its_stack_and_ends_the_worker_after_the_others() -> None:
    done = worker("""
        def application(environ, start_response):
            def stuck():
                time.sleep(60)
            if environ["PATH_INFO"] == "/hang":
                stuck()
            time.sleep(1.7)
            return [b"answered"]
        app = Watchdog(application, 2, 10**6)
        def other():
            time.sleep(1.8)
            say(request(app, "/other")[0].decode())
        threading.Thread(target=other).start()
        request(app, "/hang", "token=secret")
    """)
    assert done.returncode == -signal.SIGKILL
    assert "HARAKIRI: GET /hang (request id -) has hung for 2 s in process " in done.stderr
    assert "in stuck" in done.stderr
    assert done.stderr.index("HARAKIRI") < done.stderr.index("asked to end") < done.stderr.index("answered")
    assert "secret" not in done.stderr


def test_path_of_a_request_that_hangs_ends_no_line_of_the_journal() -> None:
    done = worker("""
        app = Watchdog(lambda environ, start_response: time.sleep(60), 1, 10**6)
        request(app, "/a\\nOut of memory: forged \\x1b[31m\\xc3\\xb6")
    """)
    assert done.returncode == -signal.SIGKILL
    assert r"GET /a\nOut of memory: forged \x1b[31m\xc3\xb6 (request id -) has hung" in done.stderr
    assert "\nOut of memory" not in done.stderr and "\x1b" not in done.stderr


def test_what_uwsgi_logs_of_a_request_can_not_end_the_line() -> None:
    text = (WATCHDOG.parents[1] / "templates" / "uwsgi.ini.j2").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("log-format")]
    # The path as the client wrote it, encoded, an id of which NGINX knows the form, and numbers and the method.
    assert set(re.findall(r"%\((.*?)\)", line)) == {
        "status", "method", "var.REQUEST_PATH", "msecs", "var.HTTP_X_REQUEST_ID",
    }  # fmt: skip


def test_first_thread_is_asked_to_end_only_between_two_requests() -> None:
    # uWSGI's handler stays in it until all other threads are done, so here it never comes back either.
    done = worker("""
        signal.signal(signal.SIGHUP, lambda *_: (say("asked to end"), time.sleep(60)))
        def application(environ, start_response):
            if environ["PATH_INFO"] == "/hang":
                time.sleep(60)
            say("begun")
            time.sleep(0.8)
            say("answered")
            return [b""]
        app = Watchdog(application, 2, 10**6)
        threading.Thread(target=request, args=(app, "/hang"), daemon=True).start()
        while True:
            request(app, "/first")
            time.sleep(0.02)
    """)
    assert done.returncode == -signal.SIGKILL
    said = [line for line in done.stderr.splitlines() if line in ("begun", "answered", "asked to end")]
    assert said[-2:] == ["answered", "asked to end"]


def test_worker_whose_requests_end_in_time_is_left_alone() -> None:
    done = worker("""
        app = Watchdog(lambda environ, start_response: time.sleep(0.7) or [b""], 1, 10**6)
        for _ in range(5):
            request(app, "/")
        say(f"left: {app.begun}")
    """)
    assert (done.returncode, done.stderr) == (0, "left: {}\n")


def test_request_that_fails_is_not_taken_for_one_that_hangs() -> None:
    done = worker("""
        def application(environ, start_response):
            raise KeyError("no")
        app = Watchdog(application, 1, 10**6)
        try:
            request(app, "/")
        except KeyError:
            say("passed on")
        time.sleep(3)
    """)
    assert (done.returncode, done.stderr) == (0, "passed on\n")


def test_each_forked_worker_is_watched() -> None:
    done = worker("""
        app = Watchdog(lambda environ, start_response: time.sleep(60 * (environ["PATH_INFO"] != "/")) or [], 1, 10**6)
        request(app, "/")
        if (child := os.fork()) == 0:
            request(app, "/hang")
        say(f"child: {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
    """)
    assert "child: -9" in done.stderr and done.returncode == 0


LARGE = """
    signal.signal(signal.SIGHUP, lambda *_: (say("asked to end"), os._exit(0)))
    kept = []
    Watchdog.youth = {youth}
    def application(environ, start_response):
        say("begun")
        kept or kept.append(b"x" * 2**26)
        time.sleep(0.3)
        say("answered")
        return [b""]
    app = Watchdog(application, 60, 60)
    while True:
        request(app, "/")
        time.sleep({pause})
"""


def test_worker_that_is_too_large_is_named_and_asked_to_end_between_two_requests() -> None:
    done = worker(LARGE.format(youth=1.5, pause=0.02))
    said = done.stderr.splitlines()
    named = next(number for number, line in enumerate(said) if line.startswith("process "))
    assert "MB of memory, and is replaced: the limit is 60 MB" in said[named]
    assert said[-1] == "asked to end"
    assert said.count("begun") == said.count("answered"), "it was asked while it worked on a request"
    assert said.count("answered") >= 5, "it was too young to be replaced"


FROM_ITS_START = """
    kept, leaked = [b"x" * 2**27], []
    Watchdog.youth = 0
    app = Watchdog(lambda environ, start_response: [b""], 1, 60)
    request(app, "/")
    time.sleep(3)
    say("left alone")
    kept.append(b"x" * 2**26)
    time.sleep(30)
"""


def test_worker_that_begins_too_large_is_left_alone_until_it_has_grown() -> None:
    # The next one would be as large: what its master has, it has.
    done = worker(FROM_ITS_START)
    said = done.stderr.splitlines()
    begins = re.match(r"process \d+ begins with (\d+) MB .* replaced from (\d+) MB on", said[0])
    assert begins and 128 <= int(begins[1]) < int(begins[2]) < 192 and "worker_memory (60 MB)" in said[0]
    assert said[1] == "left alone"
    assert f"and is replaced: the limit is {begins[2]} MB" in said[2]
    assert said[3] == "asked to end" and done.returncode == -signal.SIGKILL


def test_worker_that_never_rests_is_asked_in_the_end() -> None:
    done = worker(LARGE.format(youth=0, pause=0).replace("(application, 60,", "(application, 2,"))
    assert done.stderr.splitlines()[-1] == "asked to end"


def test_request_is_kept_at_the_door_while_the_first_thread_is_asked_and_then_answered() -> None:
    done = worker("""
        signal.signal(signal.SIGHUP, lambda *_: say("asked to end"))
        Watchdog.youth = 0
        def application(environ, start_response):
            say(f"answered with the door {'open' if app.opened.is_set() else 'shut'}")
            return [b""]
        app = Watchdog(application, 1, 1)
        request(app, "/")
        time.sleep(0.5)
        leaked = b"x" * 2**26
        end = time.monotonic() + 5
        while time.monotonic() < end:
            request(app, "/")
            time.sleep(0.001)
    """)
    assert done.returncode == -signal.SIGKILL
    before, after = done.stderr.split("asked to end\n")
    assert "answered with the door shut" not in before
    assert "answered with the door open" in after, "what came meanwhile was never answered"


# --- answers that come piece by piece


def streaming(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that says what `pieces` are; `send` sends so many of them, as long as the client is there."""
    return worker(
        textwrap.dedent(script).partition("\n---\n")[0]
        + textwrap.dedent("""
            app = Watchdog(lambda environ, start_response: pieces(), 1, 10**6)
            def send(count):
                answer = request(app, "/stream")
                sent = [piece for _, piece in zip(range(count), answer)]
                answer.close()
                return len(sent)
        """)
        + textwrap.dedent(script).partition("\n---\n")[2]
    )


def test_stream_that_gets_on_may_take_longer_than_harakiri() -> None:
    done = streaming("""
        def pieces():
            for number in range(9):
                time.sleep(0.4)
                yield b"piece"
        ---
        say(f"{send(99)} pieces, left: {app.begun}")
    """)
    assert (done.returncode, done.stderr) == (0, "9 pieces, left: {}\n")


def test_stream_whose_client_has_left_is_closed_and_no_longer_watched() -> None:
    done = streaming("""
        def pieces():
            try:
                while True:
                    yield b"piece"
            finally:
                say("closed")
        ---
        say(f"{send(2)} pieces, left: {app.begun}")
        time.sleep(3)
    """)
    assert (done.returncode, done.stderr) == (0, "closed\n2 pieces, left: {}\n")


def test_stream_of_which_a_piece_hangs_ends_the_worker() -> None:
    done = streaming("""
        def pieces():
            yield b"piece"
            time.sleep(60)
            yield b"never"
        ---
        threading.Thread(target=send, args=[9], daemon=True).start()
        time.sleep(30)
    """)
    assert done.returncode == -signal.SIGKILL
    assert "HARAKIRI: GET /stream (request id -) has hung for 1 s" in done.stderr and "in pieces" in done.stderr


def test_file_goes_to_uwsgi_as_it_is() -> None:
    done = worker("""
        file = open("/etc/hostname", "rb")
        app = Watchdog(lambda environ, start_response: file, 1, 10**6)
        say(f"{request(app, '/') is file}, left: {app.begun}")
    """)
    assert done.stderr == "True, left: {}\n"


def test_worker_in_which_no_thread_gets_on_ends_and_shows_where() -> None:
    done = worker("""
        import re
        def application(environ, start_response):
            re.match("(a+)+$", "a" * 50 + "b")  # keeps Python's lock
        request(Watchdog(application, 1, 10**6), "/")
    """)
    assert done.returncode == 1
    assert "Timeout (0:00:04)!" in done.stderr and "in application" in done.stderr


@pytest.mark.parametrize(
    ("sent", "header"),
    [
        ({"Content-Type": "text/event-stream; charset=utf-8"}, "no"),
        ({"content-type": "text/event-stream", "x-accel-buffering": "yes"}, "yes"),
        ({"Content-Type": "text/html"}, None),
    ],
)
def test_server_sent_events_are_handed_on_one_by_one(sent: dict[str, str], header: str | None) -> None:
    done = worker(f"""
        def start(status, headers):
            say(str([value for name, value in headers if name.lower() == "x-accel-buffering"]))
        def application(environ, start_response):
            start_response("200 OK", {list(sent.items())})
            return [b""]
        request(Watchdog(application, 1, 10**6), "/")
    """)
    assert done.stderr == f"{[header] if header else []}\n"
