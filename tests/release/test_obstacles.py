"""What gets in a release's way before it serves: it is refused, what served goes on, and the next run succeeds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from zlib import crc32

import pytest
from helpers import as_root
from helpers_http import ask
from stage import APP, Stage, assert_nothing_failed


@pytest.fixture
def stage(stage: Stage, request: pytest.FixtureRequest) -> Stage:
    """Put each obstacle in the way of one host: a refusal is the same on both."""
    return stage.either(request.node.name)


# The releases move to a file system with few free inodes: that is full without gigabytes being written. What runs keeps
# the old one, which its namespace has; NGINX finds the same links in the copy.
FILL = """
mkdir /srv/full
mount -t tmpfs -o size=2g,nr_inodes=$(($(find "/srv/$1/releases" | wc -l) + $2)),mode=755 none /srv/full
cp --archive "/srv/$1/releases/." /srv/full
mount --bind /srv/full "/srv/$1/releases"
"""
EMPTY = 'umount --lazy "/srv/$1/releases" /srv/full; rmdir /srv/full; systemctl daemon-reload'


@contextmanager
def full_disk(stage: Stage, free: int) -> Iterator[None]:
    """Leave room for so many files where the releases are."""
    for host in stage.hosts.values():
        as_root(host, FILL, APP, str(free))
    try:
        yield
    finally:
        for host in stage.hosts.values():
            as_root(host, EMPTY, APP)


def assert_refused_and_then_made(stage: Stage, name: str, step: str, words: str, **obstacle: object) -> None:
    """Deploy with an obstacle in the way, and then without it."""
    before = stage.look()
    version = f"{crc32(name.encode()) & 0xFFFFFF:x}"
    wanted = stage.variables(stage.source(version, library=next_library(stage)))
    with stage.load(name) as sent:
        run = stage.deploy(wanted, **obstacle)
    assert run.status != 0
    assert_nothing_failed(sent)
    assert f"was refused at the step “{step} | " in run.output
    assert words in run.output
    for host, look in stage.look().items():
        assert look.current == before[host].current
        assert look.loaded == look.instance
        assert look.lock == ""
    if "full" in name:
        return
    run = stage.deploy(wanted)
    assert run.status == 0, run.output
    for look in stage.look().values():
        look.assert_settled()


def next_library(stage: Stage) -> str:
    """Choose the other libraries than those that are served, so that the environment has to be built."""
    current = as_root(
        next(iter(stage.hosts.values())), 'grep -o "iniconfig==[0-9.]*" "/srv/$1/current/code/requirements.txt"', APP
    )
    return "2.0.0" if current.strip().endswith("2.1.0") else "2.1.0"


@pytest.mark.parametrize(("free", "step"), [pytest.param(3, "Fetch", marks=pytest.mark.full_matrix), (300, "Build")])
def test_disk_full(stage: Stage, free: int, step: str) -> None:
    with full_disk(stage, free):
        assert_refused_and_then_made(stage, f"disk full at {step}", step, "No space left on device")
    run = stage.deploy(stage.variables(stage.source("d" + str(free))))
    assert run.status == 0, run.output
    for look in stage.look().values():
        look.assert_settled()


@pytest.mark.full_matrix
def test_package_index_that_cannot_be_reached(stage: Stage) -> None:
    # The discard port of the host itself, where nobody listens; and a cache that knows nothing.
    nowhere = {
        "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple",
        "UV_CACHE_DIR": "/tmp/empty-cache",
        "UV_HTTP_TIMEOUT": "3",
    }
    assert_refused_and_then_made(
        stage, "package index unreachable", "Build", "127.0.0.1:9", flask_app_build_environment=nowhere
    )


def test_requirement_that_cannot_be_had(stage: Stage) -> None:
    before = stage.look()
    source = stage.source("e0")
    with (source / "requirements.txt").open("a") as requirements:
        requirements.write("iniconfig==0.0.0 --hash=sha256:" + "0" * 64 + "\n")
    with stage.load("environment cannot be built") as sent:
        run = stage.deploy(stage.variables(source))
    assert run.status != 0
    assert_nothing_failed(sent)
    assert "was refused at the step “Build | " in run.output and "iniconfig" in run.output
    assert {name: look.current for name, look in stage.look().items()} == {
        name: look.current for name, look in before.items()
    }


# As the account of what serves: it ends whatever else of the account starts.
KILLER = """
old=$(basename "$(readlink "/srv/$1/current")")
kill_others='while :; do for pid in $(pgrep -u "$1" -x uwsgi-core); do
  grep -q "$2" "/proc/$pid/cmdline" 2>/dev/null || kill -KILL "$pid" 2>/dev/null
done; sleep 0.02; done'
exec </dev/null >/dev/null 2>&1
setsid --fork setpriv --reuid="$1" --regid="$1" --clear-groups bash -c "$kill_others" killer "$1" "$old"
"""


@pytest.mark.full_matrix
def test_release_that_the_old_one_kills_is_made_once_that_is_stopped_first(stage: Stage) -> None:
    wanted = stage.variables(stage.source("51"))
    for host in stage.hosts.values():
        as_root(host, KILLER, APP)
    before = stage.look()
    refused = stage.deploy(wanted)
    assert refused.status != 0 and "was refused at the step “Start | " in refused.output, refused.output
    # One that can't serve: what was stopped for it is back.
    broken = stage.deploy(stage.variables(stage.source("52", fault="import")), stop_first=True)
    assert broken.status != 0
    for name, look in stage.look().items():
        assert look.current == before[name].current
        assert f"{look.current} was stopped first, and runs again." in broken.output
        assert ask(stage.address(name), stage.address(name), "/status").status == 200
    for host in stage.hosts.values():
        as_root(host, KILLER, APP)
    assert stage.deploy(wanted).status != 0, "the killer is at work again"
    run = stage.deploy(wanted, stop_first=True)
    assert run.status == 0, run.output
    for name, look in stage.look().items():
        look.assert_settled()
        assert stage.version(name) == "51"
        assert (
            as_root(
                stage.hosts[name],
                "pgrep -fx 'bash -c while.* killer .*' || true; ls /var/lib/flask-on-metal/maintenance",
            )
            == ""
        )


@pytest.mark.full_matrix
def test_visitors_are_told_while_what_serves_is_stopped_first(stage: Stage) -> None:
    met: set[int] = set()
    over = threading.Event()

    def visit() -> None:
        name = next(iter(stage.hosts))
        while not over.wait(0.05):
            met.add(ask(stage.address(name), stage.address(name), "/newest").status)

    with ThreadPoolExecutor() as pool:
        visiting = pool.submit(visit)
        run = stage.deploy(stage.variables(stage.source("53")), stop_first=True)
        over.set()
        visiting.result()
    assert run.status == 0, run.output
    assert met == {200, 503}
