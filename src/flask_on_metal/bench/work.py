"""How long the operator's own work takes: a bare host until it serves, a run with nothing to do, a release, a rollback.

python -m flask_on_metal.bench ansible <inventory> <folder> runs the playbooks as an operator would, on hosts that serve
nobody, and writes ansible.json.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from flask_on_metal.bench.agent import facts

ROOT = Path(__file__).resolve().parents[3]


class WorkError(Exception):
    """A playbook failed, or did what it should not."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that an operator does."""

    name: str
    playbook: str
    all_hosts: bool = False
    """On all hosts of the inventory at once, or on the first alone."""
    settings: tuple[str, ...] = ()
    times: int = 1
    """How often it is done; what can be repeated gives a median."""
    changes: bool = True
    """Whether it may change something."""


def steps(rounds: int) -> tuple[Step, ...]:
    """List what is done, in that order."""
    return (
        Step("a bare host until it serves", "site.yml"),
        Step("a host with nothing to do", "site.yml", times=rounds, changes=False),
        Step("a release", "deploy.yml", settings=("force=true",), times=rounds),
        Step("a rollback", "rollback.yml", times=rounds),
        Step("all hosts until they serve", "site.yml", all_hosts=True),
        Step("all hosts with nothing to do", "site.yml", all_hosts=True, times=rounds, changes=False),
    )


@dataclass(slots=True)
class Outcome:
    """What came of a step."""

    step: Step
    hosts: int
    seconds: list[float] = field(default_factory=list)
    """Wall time of each run, from the command to its prompt."""
    tasks: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each task, by its name, of each run."""

    def slowest(self, number: int) -> list[tuple[str, float]]:
        """List the slowest tasks with their median seconds."""
        found = ((name, median(seconds)) for name, seconds in self.tasks.items())
        return sorted(found, key=lambda one: -one[1])[:number]


TASK = re.compile(r"^(\S.*?) -+ (\d+\.\d+)s$", re.MULTILINE)
RECAP = re.compile(r"^\S+ +: ok=\d+ +changed=(\d+)", re.MULTILINE)


def task_seconds(output: str) -> dict[str, float]:
    """Read the list of ansible.posix.profile_tasks; tasks of one name, as in a loop over roles, are added up."""
    found: dict[str, float] = defaultdict(float)
    for name, seconds in TASK.findall(output.partition("TASKS RECAP")[2]):
        found[name] += float(seconds)
    return dict(found)


def changed(output: str) -> int:
    """Count the changes of all hosts, from the recap."""
    return sum(map(int, RECAP.findall(output)))


def surroundings() -> dict[str, str]:
    """Return the environment in which Ansible lists all tasks, and without colours, whoever asked for them."""
    return {**os.environ, "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}


def hosts_of(inventory: Path) -> list[str]:
    """List the hosts in the group web."""
    done = subprocess.run(
        ["ansible", "-i", str(inventory), "web", "--list-hosts"],
        cwd=ROOT, env=surroundings(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line.strip() for line in done.stdout.splitlines()[1:]]
    if done.returncode or not found:
        raise WorkError(f"{inventory} has no host in the group web: {done.stderr.strip()}")
    return found


def measure(inventory: Path, rounds: int, console: Console) -> Iterator[Outcome]:
    """Do each step, and tell what came of it.

    Args:
        inventory: Whose first host is bare, and the others too.
        rounds: How often what can be repeated is done.
        console: Where progress is shown.

    Raises:
        WorkError: A playbook failed, or a run with nothing to do changed something.
    """
    hosts = hosts_of(inventory)
    for step in steps(rounds):
        if step.all_hosts and len(hosts) == 1:
            continue
        outcome = Outcome(step, len(hosts) if step.all_hosts else 1)
        words = ["ansible-playbook", "-i", str(inventory), f"playbooks/{step.playbook}"]
        words += [] if step.all_hosts else ["--limit", f"{hosts[0]},localhost"]
        words += [word for setting in step.settings for word in ("-e", setting)]
        for _ in range(step.times):
            begun = time.monotonic()
            done = subprocess.run(words, cwd=ROOT, env=surroundings(), text=True, capture_output=True, check=False)
            outcome.seconds.append(time.monotonic() - begun)
            if done.returncode:
                raise WorkError(f"{' '.join(words)} failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
            if not step.changes and (number := changed(done.stdout)):
                raise WorkError(f"{' '.join(words)} changed {number} things, where there was nothing to do")
            for name, seconds in task_seconds(done.stdout).items():
                outcome.tasks.setdefault(name, []).append(seconds)
        console.print(f"{step.name}, {outcome.hosts} host(s): {median(outcome.seconds):.1f} s")
        yield outcome


def report(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print how long each step took, and its slowest tasks."""
    for outcome in outcomes:
        title = f"{outcome.step.name}, {outcome.hosts} host(s): {median(outcome.seconds):.1f} s; slowest tasks"
        table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left", show_header=False)
        table.add_column(justify="right")
        table.add_column(no_wrap=True)
        for name, seconds in outcome.slowest(5):
            table.add_row(f"{seconds:.2f} s", name)
        console.print(table)


def main(inventory: Path, output: Path, rounds: int) -> None:
    """Measure, report, and write ansible.json.

    Raises:
        WorkError: See measure().
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    outcomes = list(measure(inventory, rounds, console))
    report(outcomes, console)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "ansible.json"
    found: dict[str, Any] = {"machine": facts(), "steps": [asdict(outcome) for outcome in outcomes]}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    console.print(f"{path} has each run.")
