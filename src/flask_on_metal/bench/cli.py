"""Options, progress and the exit status of the benchmark's engine, which playbooks/benchmark.yml runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from flask_on_metal.bench import plan as plans
from flask_on_metal.bench import plots, report, results, work
from flask_on_metal.bench.measure import Bench, MeasureError, Run, Tell
from flask_on_metal.bench.plan import Plan, PlanError
from flask_on_metal.bench.wire import Agent, AgentError
from flask_on_metal.bench.work import WorkError

TERMINAL = "FLASK_ON_METAL_TERMINAL"
"""Environment variable with the terminal to show progress on: a playbook's tasks have none of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a plan, or make the pictures and the page of a results.json anew; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flask_on_metal.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure", help="measure what a plan says, then report")
    measure.add_argument("plan", type=Path, help="plan.json, as playbooks/benchmark.yml writes it")
    measure.add_argument("output", type=Path, help="folder for results.json, the pictures and report.html")
    again = commands.add_parser("report", help="make the pictures and report.html from results.json")
    again.add_argument("output", type=Path, help="folder that holds results.json")
    own = commands.add_parser("ansible", help="measure the operator's own work on hosts that serve nobody")
    own.add_argument("inventory", type=Path, help="folder of the inventory")
    own.add_argument("output", type=Path, help="folder for ansible.json")
    own.add_argument("--rounds", type=int, default=3, help="how often what can be repeated is done")
    given = parser.parse_args(arguments)
    try:
        if given.command == "ansible":
            work.main(given.inventory, given.output, given.rounds)
            return 0
        if given.command == "measure":
            result = run(plans.read(given.plan))
            write(result, given.output)
        make_report(given.output)
        result = load(given.output)
        show(result, Console(highlight=False, width=None if sys.stdout.isatty() else 140))
        if result["problem"]:
            raise MeasureError(
                f"it ended early, and {given.output} has what was measured until then: {result['problem']}"
            )
    except (AgentError, MeasureError, WorkError, PlanError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    return 0


def run(plan: Plan) -> dict[str, Any]:
    """Do all runs of a plan, and return what results.json holds; of a benchmark that ends early, what there is.

    Raises:
        AgentError: Nothing was measured.
        MeasureError: Nothing was measured.
    """
    web, load = Agent(plan.address, plan.web), Agent(plan.load_name, plan.load)
    runs: list[Run] = []
    problem = ""
    started = datetime.now(UTC)
    try:
        with progress(plans.run_count(plan)) as tell:
            bench = Bench(plan, web, load, tell)
            for one in bench.run():
                runs.append(one)
    except (AgentError, MeasureError) as error:
        if not runs:
            raise
        problem = str(error)
    finally:
        web.close()
        load.close()
    machines = bench.machines
    return {
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": asdict(plan.settings),
        "machines": machines,
        "load_on": plan.load_name,
        "same_machine": bench.same_machine,
        "versions": {
            **machines["web"]["versions"],
            **plan.versions,
            "wrk": machines["load"]["versions"].get("wrk", ""),
        },
        "stacks": [{"name": one.name, "label": one.label, "about": one.about} for one in plan.stacks],
        "missing": bench.missing,
        "problem": problem,
        **results.summary(runs),
        "runs": runs,
    }


def write(result: dict[str, Any], output: Path) -> None:
    """Write results.json."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def load(output: Path) -> dict[str, Any]:
    """Read results.json, with its figures worked out anew.

    Raises:
        PlanError: There is none.
    """
    path = output / "results.json"
    if not path.exists():
        raise PlanError(f"there is no {path}; bin/bench makes it")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result | results.summary(result["runs"])


def make_report(output: Path) -> None:
    """Make the pictures and the page."""
    result = load(output)
    pictures = plots.draw(result, output)
    (output / "report.html").write_text(report.page(result, pictures), encoding="utf-8")


@contextmanager
def progress(total: int) -> Iterator[Tell]:
    """Show how the runs go: a bar on a terminal, a line for each run elsewhere."""
    name = os.environ.get(TERMINAL)
    if not name:

        def say(text: str, run: Run | None) -> None:
            print(outcome(run) if run else text, end="\n" if run else ": ", flush=True)

        yield say
        return
    # O_NOCTTY, which Path.open has no word for: the terminal stays whose it is.
    with open(name, "w", opener=lambda path, flags: os.open(path, flags | os.O_NOCTTY)) as terminal:
        console = Console(file=terminal, force_terminal=True)
        columns = (BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True, refresh_per_second=2) as bar:
            task = bar.add_task("", total=total)

            def draw(text: str, run: Run | None) -> None:
                if run:
                    bar.advance(task)
                else:
                    bar.update(task, description=text)

            yield draw


def outcome(run: Run) -> str:
    """Put a run in a few words."""
    if run["case"] == plans.CROWD:
        met = results.crowd_figure(run["stack"], [run])
        return (
            f"{met.lost} not made, {met.late} late, the longest {met.connect_longest_ms:,.0f} ms; "
            f"over those that stand {met.failed} of {met.requests} failed, p99 {met.p99_ms.median:,.1f} ms"
        )
    if run["case"] in plans.STEADY:
        found = results.steady_figure(run["case"], run["stack"], [run])
        return f"p99 {found.p99_ms.median:,.1f} ms, {found.failed} of {found.fast} failed"
    return f"{results.rate(run):,.0f}/s, p99 {run['latency_ms']['p99']:,.1f} ms, {results.failed(run)} failed"


def show(result: dict[str, Any], console: Console) -> None:
    """Print the 1 KB page's figures and the ratios."""
    labels = {one["name"]: one["label"] for one in result["stacks"]}
    levels = result["settings"]["connections"]
    table = Table(box=None, padding=(0, 2, 0, 0), title="1 KB page, requests/s (p99 in ms)", title_justify="left")
    table.add_column(no_wrap=True)
    for level in levels:
        table.add_column(f"{level} connections", justify="right", no_wrap=True)
    found = {(one["stack"], one["connections"]): one for one in result["figures"] if one["case"] == "page"}
    for name, label in labels.items():
        cells = []
        for level in levels:
            one = found.get((name, level))
            text = "" if one is None else f"{one['rate']['median']:,.0f} ({one['p99_ms']['median']:,.0f})"
            if one and one["failed"]:
                text += f", {one['failed'] / one['requests']:.1%} failed"
            cells.append(Text(text, style="red" if one and one["failed"] else ""))
        if any(cell.plain for cell in cells):
            table.add_row(label, *cells)
    console.print(table)
    for name, levels_of in result["ratios"].items():
        console.print(f"{name:22}" + "  ".join(f"{level}: {value:.2f}" for level, value in levels_of.items()))
