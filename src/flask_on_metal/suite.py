"""bin/test: runs its parts one after the other, each within its time, and ends with a table of what each took.

It needs nothing but Python: bin/setup, which brings the rest, is its first step.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "build" / "test"
RUNNING: set[subprocess.Popen[bytes]] = set()
"""Leaders of the sessions that this process has started."""

# ansible-lint takes as long as all others, and one processor.
LINTERS = """
ansible-lint & slow=$!
failed=0
ruff check . || failed=1
ruff format --check . || failed=1
mypy || failed=1
yamllint --strict . || failed=1
shellcheck bin/* .ci/run roles/*/files/*.sh || failed=1
wait "$slow" || failed=1
exit "$failed"
"""
LINT = (("bash", "-c", LINTERS),)
# What counts seconds is mostly asleep: the others take the processors meanwhile, and leave them when it wakes up.
UNIT_TESTS = """
pytest -q -m timed tests/unit >build/test/timed.log 2>&1 & timed=$!
failed=0
nice -n 19 pytest -q app/tests || failed=1  # by themselves: one conftest would be taken for the other
nice -n 19 pytest -q -n 4 -m 'not timed' tests/unit || failed=1
wait "$timed" || failed=1
cat build/test/timed.log
exit "$failed"
"""
UNIT = (("bash", "-c", UNIT_TESTS),)

LAYER = (("ansible-playbook", "-i", "molecule/layer/inventory", "molecule/layer/layer.yml"),)
CONVERGED = ("roles", "plugins", "playbooks", "molecule/layer", "ansible.cfg", "requirements.txt")
"""What a layer follows from: where one of these files differs, it is another layer."""
LAYER_DAYS = 7.0
"""Days after which a layer is made anew, for Debian's updates since."""
AT_ONCE = ("lint", "unit")
"""Parts that run side by side where both are asked for: neither has a host, and each leaves processors idle."""
FROM_BARE = ("default",)
"""Scenarios that never begin with a layer."""
CHECKED_APART = ("database",)
"""Scenarios with check mode on clean hosts in the full matrix alone; that of web hosts is a step of default."""

USUAL = {
    "layer": (50, 50),
    "lint": (85, 85),
    "unit": (160, 160),
    "benchmark": (145, 430),
    "cluster": (570, 2060),
    "database": (145, 320),
    "default": (285, 500),
    "release": (590, 3700),
    "security": (415, 1250),
}
"""Seconds of a part, its hosts made and taken away, on two cores of a shared virtual machine: short form, full form.

Lint and unit tests beside each other."""

PATIENCE = 3.0
"""A part has so many times its usual time: these machines were seen 2.5 times slower than on other days."""

CALLBACKS = {
    "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callback_plugins"),
    "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks,assembled",
}
"""What Ansible has beside ansible.cfg's own where Molecule calls it."""

STATE = Path("/var/lib/flask-on-metal-test")
"""Where role test_host keeps the hosts (test_host_state_dir)."""

LOOK = """
systemctl list-units --failed --plain --no-legend
echo "--- journal"; journalctl --no-pager --lines=80 --output=short-precise
echo "--- unix sockets"; ss -xlp
echo "--- NGINX's error log"; tail -n 40 /var/log/nginx/error.log 2>/dev/null
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    part: str
    state: str
    """passed, failed or out of time."""
    seconds: float
    limit: float
    """Seconds that it had."""
    closing: list[str]
    """pytest's closing lines."""

    @property
    def tests(self) -> int:
        """How many tests ran."""
        counted = re.compile(r"(\d+) (?:passed|failed|errors?)\b")
        return sum(int(number) for line in self.closing for number in counted.findall(line))

    @property
    def share(self) -> float:
        """How much of its time it took: 1 is all."""
        return self.seconds / self.limit


def scenarios(root: Path = ROOT) -> list[str]:
    """List the scenarios of Molecule."""
    return sorted(path.parent.name for path in root.glob("molecule/*/molecule.yml"))


def commands(part: str, full: bool) -> Sequence[Sequence[str]]:
    """Return the commands of a part, of which the first that fails ends it."""
    # Molecule takes the hosts away at its end, and after a failure as well. Ansible's own lines, not boxed and folded.
    words = ("--no-command-borders", "-s", part)
    scenario = [("rm", "-rf", f"build/molecule/{part}"), ("molecule", "test", *words)]
    if full and part in CHECKED_APART:
        scenario.insert(1, ("molecule", "check", *words))
    return {"lint": LINT, "unit": UNIT, "layer": LAYER}.get(part, scenario)


def layer_name(root: Path = ROOT) -> str:
    """Name the layer that web hosts begin with: a digest of the files that it follows from."""
    digest = hashlib.sha256()
    for name in CONVERGED:
        for path in sorted(found for found in (root / name, *(root / name).rglob("*")) if found.is_file()):
            if "__pycache__" not in path.parts and path.name != "addresses.yml":
                digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def has_layers(name: str) -> bool:
    """Tell whether the layers of both Debian releases are there, over the trees that they were made from, and young."""
    # As roles/test_host/defaults/main.yml has it.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flask-on-metal" / "layers"
    for release in ("bookworm", "trixie"):
        try:
            record = cache / f"{release}-{name}" / "layer.json"
            tree = json.loads(record.read_text())["tree"]
            if time.time() - record.stat().st_mtime > LAYER_DAYS * 86400 or not Path(tree).is_dir():
                return False
        except OSError:
            return False
    return True


def closing_lines(text: str) -> list[str]:
    """Find what pytest said last, once for each of its runs, wherever Ansible moved it to."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    found = re.findall(
        r"(?:=+ )?\d+ (?:passed|failed|skipped|errors?)\b[^\n]* in [0-9.]+s(?: \([0-9:]+\))?(?: =+)?", plain
    )
    # Ansible shows the output of a run again where it failed.
    return list(dict.fromkeys(found))


def begins_with_layer(part: str) -> bool:
    """Tell whether the web hosts of a part need not be bare."""
    return part in scenarios() and part not in FROM_BARE


def run(words: Sequence[str], log: Path, deadline: float, shown: bool = True) -> int | None:
    """Run a command in a session of its own, with its output on this terminal and at the end of a log.

    Args:
        words: the command.
        log: file that its output is added to.
        deadline: time.monotonic() at which it is ended, with all that it started.
        shown: whether its output comes to this terminal as well.

    Returns:
        Its exit status, or None if it was ended.
    """
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip

    RUNNING.add(process)

    def show() -> None:
        assert process.stdout
        with log.open("ab") as file:
            while piece := os.read(process.stdout.fileno(), 65536):
                file.write(piece)
                file.flush()
                if shown:
                    sys.stdout.buffer.write(piece)
                    sys.stdout.buffer.flush()

    reading = threading.Thread(target=show, daemon=True)
    reading.start()
    try:
        return process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Also where somebody pressed Ctrl-C: what was started doesn't go on without this.
        if process.poll() is None:
            end_session(process)
        RUNNING.discard(process)
        reading.join(timeout=10)


def end_session(process: subprocess.Popen[bytes], patience: float = 15) -> None:
    """End a process that leads a session, and all that is in it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)


def leaders(part: str) -> dict[str, int]:
    """Find the first process of each host of a scenario that is up, by the host's name."""
    # As roles/test_host/vars/main.yml names a set.
    inventory = os.path.realpath(ROOT / "molecule" / part / "inventory")
    folder = STATE / hashlib.sha256(inventory.encode()).hexdigest()[:6]
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # One that ends in between is none.
        with contextlib.suppress(OSError, IndexError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            roots = [word.removeprefix("--directory=") for word in words if word.startswith(f"--directory={folder}/")]
            if roots and words[0].endswith("systemd-nspawn"):
                children = path.parent / "task" / path.parent.name / "children"
                found[Path(roots[0]).parent.name] = int(children.read_text().split()[0])
    return found


def aftermath(part: str) -> str:
    """Tell what the hosts of a scenario say of themselves: failed units, journal, sockets, NGINX's errors."""
    become = [] if os.geteuid() == 0 else ["sudo", "-n"]
    said = []
    for name, leader in sorted(leaders(part).items()):
        words = [*become, "nsenter", "--all", f"--target={leader}", "timeout", "20", "sh", "-c", LOOK]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        said.append(f"\n=== {name}, when the time was over\n{done.stdout}{done.stderr}")
    return "".join(said)


def try_part(part: str, full: bool, limit: float, shown: bool = True) -> Outcome:
    """Run a part; where its time is over, tell what its hosts say, and take them away."""
    log = LOGS / f"{part}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    begin = time.monotonic()
    state = "passed"
    for words in commands(part, full):
        status = run(words, log, begin + limit, shown)
        if status != 0:
            state = "failed" if status is not None else "out of time"
            break
    if state == "out of time" and (inventory := ROOT / "molecule" / part / "inventory").is_dir():
        text = aftermath(part)
        with log.open("a") as file:
            file.write(text)
        print(text, flush=True)
        gone = ("playbooks/test_hosts.yml", "-e", "test_host_state=absent")
        run(("ansible-playbook", "-i", str(inventory), *gone), log, time.monotonic() + 120)
    closing = closing_lines(log.read_text(errors="replace"))
    return Outcome(part, state, time.monotonic() - begin, limit, closing)


def table(outcomes: Iterable[Outcome], took: float) -> str:
    """Lay out what each part took, and all together; name the one that is nearest to its limit.

    Args:
        outcomes: of the parts.
        took: seconds that all of them took: fewer than their sum, where some ran at once.
    """
    rows = list(outcomes)
    lines = [f"{'part':<12}{'tests':>7}{'seconds':>9}{'limit':>7}{'of it':>7}  "]
    for one in rows:
        state = "" if one.state == "passed" else one.state
        lines.append(f"{one.part:<12}{one.tests:>7}{one.seconds:>9.0f}{one.limit:>7.0f}{one.share:>7.0%}  {state}")
    lines.append(f"{'all':<12}{sum(one.tests for one in rows):>7}{took:>9.0f}")
    first = max(rows, key=lambda one: one.share)
    lines.append(
        f"On a slower day {first.part} would be the first out of time: it took {first.share:.0%} of its limit."
    )
    return "\n".join(line.rstrip() for line in lines)


def with_layer(parts: Iterable[str], wanted: bool) -> Iterator[str]:
    """Add the making of layers, where it is wanted, before the first part that begins with one."""
    for part in parts:
        if wanted and begins_with_layer(part):
            yield "layer"
            wanted = False
        yield part


def side_by_side(parts: Iterable[str]) -> list[list[str]]:
    """Put the parts together that run at once."""
    groups: list[list[str]] = []
    for part in parts:
        if part in AT_ONCE and groups and groups[-1][-1] in AT_ONCE:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def try_all(parts: Sequence[str], full: bool, limits: Sequence[float]) -> list[Outcome]:
    """Run a part; or several at once, of which each one's output is shown when all have ended."""
    if len(parts) == 1:
        return [try_part(parts[0], full, limits[0])]
    with ThreadPoolExecutor(len(parts)) as pool:
        try:
            done = list(pool.map(lambda part, limit: try_part(part, full, limit, shown=False), parts, limits))
        except KeyboardInterrupt:
            for process in list(RUNNING):
                end_session(process)
            raise
    for part in parts:
        print((LOGS / f"{part}.log").read_text(errors="replace"), flush=True)
    return done


def suite(
    parts: Iterable[str],
    full: bool,
    patience: float,
    trying: Callable[[Sequence[str], bool, Sequence[float]], list[Outcome]] = try_all,
) -> int:
    """Run parts until one fails, and print the table; pytest's closing lines come last.

    Args:
        parts: their names.
        full: whether this is the full matrix.
        patience: how many times its usual time a part has.
        trying: runs parts, given their names, whether in full, and the limit of each in seconds.

    Returns:
        The exit status: 0 where all passed.
    """
    outcomes: list[Outcome] = []
    begin = time.monotonic()
    layer = "" if full else layer_name()
    for group in side_by_side(with_layer(parts, wanted=bool(layer) and not has_layers(layer))):
        os.environ["FLASK_ON_METAL_LAYER"] = layer if group[0] == "layer" or begins_with_layer(group[0]) else ""
        if group[0] == "layer" or group[0] in scenarios():
            os.environ |= CALLBACKS
        print(f"\n=== {' and '.join(group)} ({time.strftime('%H:%M:%S')})", flush=True)
        outcomes += trying(group, full, [patience * USUAL[part][full] for part in group])
        if not all(one.state == "passed" for one in outcomes):
            break
    last = next((one for one in outcomes if one.state != "passed"), outcomes[-1])
    print(f"\n{table(outcomes, time.monotonic() - begin)}\n")
    if last.state == "passed":
        print(f"=== passed: {' '.join(one.part for one in outcomes)}")
    else:
        why = f"took longer than {last.limit:.0f} s and was ended" if last.state == "out of time" else "failed"
        print(f"bin/test: {last.part} {why}; its output is in {LOGS.relative_to(ROOT)}/{last.part}.log")
        if last.state == "out of time":
            print("On a slow machine give all parts more time: bin/test --patience 6")
    for one in outcomes:
        print("\n".join(one.closing), end="\n" * bool(one.closing), flush=True)
    return int(last.state != "passed")


def main(words: Sequence[str] | None = None) -> int:
    """Take the words of the command line."""
    known = ["lint", "unit", *scenarios()]
    parser = argparse.ArgumentParser(
        prog="bin/test", description="Lint, unit tests, and every scenario in its short form."
    )
    parser.add_argument("--all", action="store_true", help="the full matrix instead of the short form, which CI runs")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        metavar="TIMES",
        help="a part has so many times its usual time (%(default)s)",
    )
    parser.add_argument("part", nargs="*", help=f"of {', '.join(known)}; all of them unless named")
    given = parser.parse_args(words)
    for part in given.part:
        if part not in known:
            parser.error(f"there is no part {part}; there are: {' '.join(known)}")
    if subprocess.run(["bin/setup", "--tests"], cwd=ROOT, check=False).returncode:
        return 1
    os.environ["PATH"] = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    os.environ["FLASK_ON_METAL_FULL"] = "1" if given.all else ""
    # A browser that isn't there must not turn a test into a skip.
    os.environ["FLASK_ON_METAL_REQUIRE_BROWSER"] = "1"
    return suite(given.part or known, given.all, given.patience)


if __name__ == "__main__":
    sys.exit(main())
