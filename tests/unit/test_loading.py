"""How workers load an app, as each release's wsgi.py has it: the first one's import decides on the start."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jinja2
import pytest

ROLE = Path(__file__).resolve().parents[2] / "roles" / "flask_app"

# uWSGI's part: workers are forked, and told by SIGINT to end when one of them has no app (status 22).
MASTER = """
import signal
# Who started the tests may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
class Crash(Exception): pass
def worker(load):
    if (child := os.fork()) == 0:
        try:
            with Loading(Path(sys.argv[1])):
                load()
        except BaseException as error:
            say(f"passed on: {error!r}")
            os._exit(99)
        os._exit(0)
    return child
def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def say(text):
    os.write(2, (text + chr(10)).encode())
def slow():
    say("begun")
    time.sleep(0.4)
    say("done")
def fail():
    raise LookupError("no database")
"""


def run(folder: Path, script: str) -> list[str]:
    """Run a script with uWSGI's part; tell the lines that were said."""
    text = "\n".join([(ROLE / "files" / "loading.py").read_text(), MASTER, textwrap.dedent(script)])
    words = [sys.executable, "-c", text, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True, cwd="/")
    return done.stderr.splitlines()


def test_workers_wait_for_the_first_one_and_then_load_side_by_side(tmp_path: Path) -> None:
    said = run(tmp_path, "for child in [worker(slow) for _ in range(3)]: assert status(child) == 0")
    assert said[:4] == ["begun", "done", "begun", "begun"]
    assert (tmp_path / "loaded").exists(), "the unit waits for it"


@pytest.mark.timed
def test_first_failure_is_told_once_and_ends_the_instance(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        children = [worker(fail) for _ in range(3)]
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 22
        time.sleep(0.3)
        for child in children:
            try:
                os.kill(child, signal.SIGINT)
            except ProcessLookupError:
                pass
        assert {os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)} == {0}
        """,
    )
    assert said[0] == "Traceback (most recent call last):"
    assert said[-2] == "LookupError: no database"
    assert said[-1].startswith("the app could not be loaded (process ")
    assert not (tmp_path / "loaded").exists()


@pytest.mark.parametrize("load", ["lambda: sys.exit('no configuration')", "lambda: exec('raise KeyboardInterrupt')"])
def test_app_that_ends_its_process_is_a_failure_as_well(tmp_path: Path, load: str) -> None:
    said = run(tmp_path, f"assert status(worker({load})) == 22")
    assert said[-1].startswith("the app could not be loaded (process ")


def test_worker_that_dies_meanwhile_ends_the_instance(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        Loading.pause = 0.1
        assert status(worker(lambda: os.kill(os.getpid(), signal.SIGSEGV))) == -signal.SIGSEGV
        assert status(worker(slow)) == 22
        """,
    )
    (line,) = said
    assert line.startswith("the first worker died while it loaded the app (process ")


def test_later_failure_ends_that_worker_alone_and_its_successor_tries_again(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        Loading.pause = 0.1
        assert [status(worker(load)) for load in (slow, fail, fail, slow)] == [0, 1, 1, 0]
        """,
    )
    assert said.count("LookupError: no database") == 2
    assert sum("The next worker tries again" in line for line in said) == 2


def test_process_that_the_app_forks_at_its_import_holds_nobody_up(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        def forks():
            if os.fork() == 0:
                time.sleep(5)
                os._exit(0)
        assert status(worker(forks)) == 0
        start = time.monotonic()
        assert status(worker(slow)) == 0
        assert time.monotonic() - start < 4
        """,
    )
    assert said == ["begun", "done"]


# --- what is rendered of it


def rendered(name: str, **app: Any) -> str:
    """Render a template of a release as the role does."""
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    environment.filters["comment"] = lambda text: f"# {text}"
    names = ("processes", "threads", "harakiri", "worker_memory", "buffer_size", "stop_timeout", "start_timeout")
    return environment.from_string((ROLE / "templates" / name).read_text()).render(
        ansible_managed="managed",
        _flask_app={"name": "news", "wsgi": "news:create_app()", "preload": False, "relax": [], **app},
        _flask_app_tuning=dict.fromkeys(names, 60),
        _flask_app_relaxations={},
        lookup=lambda _, file: (ROLE / "files" / file).read_text().rstrip(),
    )


@pytest.mark.parametrize("preload", [False, True])
def test_each_worker_loads_the_app_unless_the_option_says_otherwise(preload: bool) -> None:
    code = rendered("wsgi.py.j2", preload=preload)
    compile(code, "wsgi.py", "exec")
    assert ("with Loading(" in code) is not preload
    assert ("\nlazy-apps = true\n" in rendered("uwsgi.ini.j2", preload=preload)) is not preload
    assert ("\nExecStartPost=" in rendered("release_drop_in.conf.j2", preload=preload)) is not preload


def test_start_is_over_when_a_worker_has_the_app_or_uwsgi_has_ended(tmp_path: Path) -> None:
    (line,) = [line for line in rendered("release_drop_in.conf.j2").splitlines() if line.startswith("ExecStartPost=")]
    words = ["/bin/sh", "-ec", line.partition("'")[2].rstrip("'")]
    assert line == f"ExecStartPost={words[0]} {words[1]} '{words[2]}'"
    with subprocess.Popen(["/bin/sleep", "60"]) as master:
        environment = {"RUNTIME_DIRECTORY": str(tmp_path), "MAINPID": str(master.pid), "PATH": "/usr/bin:/bin"}
        waits = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            waits.wait(0.5)
        (tmp_path / "loaded").touch()
        assert waits.wait(5) == 0
        (tmp_path / "loaded").unlink()
        waits = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
        master.kill()
        master.wait()
        assert waits.wait(5) != 0


def test_unit_gives_an_app_its_programs_a_home_and_utf_8_before_the_operators_environment() -> None:
    lines = (ROLE.parent / "uwsgi" / "templates" / "app@.service.j2").read_text().splitlines()
    assert "Environment=PATH=/srv/%p/releases/%i/venv/bin:/usr/local/bin:/usr/bin:/bin" in lines
    assert "Environment=HOME=/var/tmp LANG=C.UTF-8 LC_CTYPE=C.UTF-8" in lines
    assert "PrivateTmp=yes" in lines, "others would read what is in that home"


def test_app_that_starts_python_starts_that_of_its_venv() -> None:
    code = rendered("wsgi.py.j2")
    assert code.index("\nsys.executable = ") < code.index("    import news\n")
