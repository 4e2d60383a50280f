"""The pictures of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from flask_on_metal.bench.plan import CASES, OURS

Result = Mapping[str, Any]

COLOURS = {
    OURS: "#0b6e4f",
    "granian": "#d1495b",
    "granian_keepalive": "#e58b97",
    "gunicorn_sync": "#e08e2b",
    "gunicorn_threads": "#b9770e",
    "uwsgi_stock": "#5b7db1",
    "flask_threaded": "#8a8a8a",
    "flask_single": "#b5b5b5",
}
"""Ours stands out; relatives are alike."""
OTHER_COLOURS = ("#7b4fa3", "#3a9bb0", "#a34f7b", "#4f6fa3")
FAILED = "#c00000"
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.dpi": 130,
    "savefig.bbox": "tight",
}
COMPARED = ("page", "json", "database", "post")
OWN = ("static", "cached", "page", "https", "https_new")


def draw(result: Result, folder: Path) -> dict[str, Path]:
    """Draw all pictures that the result has figures for.

    Args:
        result: As results.json holds it.
        folder: Where they go.

    Returns:
        The files by name: rate, own, latency, slow, deploy, cpu.
    """
    pictures: dict[str, Callable[[Result], Figure | None]] = {
        "rate": draw_rate,
        "own": draw_own,
        "latency": draw_latency,
        "slow": draw_slow,
        "deploy": draw_deploy,
        "cpu": draw_cpu,
    }
    files = {}
    with pyplot.rc_context(STYLE):  # type: ignore[arg-type]
        for name, picture in pictures.items():
            drawn = picture(result)
            if drawn is not None:
                files[name] = folder / f"{name}.png"
                drawn.savefig(files[name])
                pyplot.close(drawn)
    return files


def labels(result: Result) -> dict[str, str]:
    """Return the stacks' labels by name, in their order."""
    return {one["name"]: one["label"] for one in result["stacks"]}


def colour(name: str, names: Sequence[str]) -> str:
    """Return the colour of a stack, also of one that was added later."""
    return COLOURS.get(name) or OTHER_COLOURS[list(names).index(name) % len(OTHER_COLOURS)]


def figures_of(result: Result, case: str, stack: str) -> list[Mapping[str, Any]]:
    """Return the figures of a stack in a case, by connections."""
    found = [one for one in result["figures"] if one["case"] == case and one["stack"] == stack]
    return sorted(found, key=lambda one: int(one["connections"]))


def thousands(value: float, _position: int | None = None) -> str:
    """Write a number as people do."""
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}"


def connection_axis(axes: Axes, levels: Sequence[int]) -> None:
    """Mark the connections on an axis, evenly although they multiply."""
    axes.set_xticks(range(len(levels)), [str(level) for level in levels])
    axes.set_xlim(-0.3, len(levels) - 0.7)
    axes.set_xlabel("connections")


def line(
    axes: Axes, found: Sequence[Mapping[str, Any]], levels: Sequence[int], shade: str, label: str, bold: bool
) -> None:
    """Draw the rate of a stack: medians, the spread of the rounds, and a cross where requests failed."""
    places = [levels.index(one["connections"]) for one in found]
    rates = [one["rate"]["median"] for one in found]
    below = [one["rate"]["median"] - one["rate"]["low"] for one in found]
    above = [one["rate"]["high"] - one["rate"]["median"] for one in found]
    axes.errorbar(
        places, rates, [below, above], color=shade, label=label, marker="o", markersize=5 if bold else 4,
        linewidth=2.6 if bold else 1.5, elinewidth=1, capsize=2, zorder=3 if bold else 2,
    )  # fmt: skip
    bad = [(place, value) for place, value, one in zip(places, rates, found, strict=True) if one["failed"]]
    if bad:
        axes.plot(*zip(*bad, strict=True), "x", color=FAILED, markersize=9, markeredgewidth=2, zorder=4)


def draw_rate(result: Result) -> Figure | None:
    """Draw requests a second against connections, a panel for each case that stacks are compared in."""
    names, levels = labels(result), list(result["settings"]["connections"])
    titles = {case.name: case.label for case in CASES}
    cases = [case for case in COMPARED if any(one["case"] == case for one in result["figures"])]
    if not cases:
        return None
    columns = min(len(cases), 2)
    rows = -(-len(cases) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(5.2 * columns + 1.2, 3.5 * rows), squeeze=False)
    failures = False
    for axes, case in zip(grid.flat, cases, strict=False):
        for name, label in names.items():
            if found := figures_of(result, case, name):
                line(axes, found, levels, colour(name, list(names)), label, name == OURS)
                failures = failures or any(one["failed"] for one in found)
        axes.set_title(titles[case])
        axes.set_ylabel("requests/s")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(thousands))
        connection_axis(axes, levels)
    for axes in list(grid.flat)[len(cases) :]:
        axes.set_visible(False)
    legend_below(figure, grid.flat[0], failures)
    return figure


def legend_below(figure: Figure, axes: Axes, failures: bool = False) -> None:
    """Put one legend for all panels below them, with the cross of failures where there is one."""
    figure.tight_layout()
    handles, words = axes.get_legend_handles_labels()
    if failures:
        handles += axes.plot([], [], "x", color=FAILED, markersize=9, markeredgewidth=2)
        words.append("requests failed")
    figure.legend(handles, words, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3)


def draw_own(result: Result) -> Figure | None:
    """Draw what our own site does with the same page: as a file, cached, uncached, and over HTTPS."""
    levels = list(result["settings"]["connections"])
    titles = {case.name: case.label for case in CASES}
    shades = {
        "static": "#999999",
        "cached": "#3a9bb0",
        "page": COLOURS[OURS],
        "https": "#7b4fa3",
        "https_new": "#c39bd3",
    }
    found = {case: figures_of(result, case, OURS) for case in OWN}
    if sum(map(bool, found.values())) < 2:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    for case, ones in found.items():
        if ones:
            line(axes, ones, levels, shades[case], titles[case], case == "page")
    axes.set_title("Flask on Metal: the same page in other ways")
    axes.set_ylabel("requests/s")
    axes.set_yscale("log")
    # From a power of ten, so that the scale can be read.
    lowest = min(one["rate"]["low"] for ones in found.values() for one in ones)
    axes.set_ylim(bottom=10 ** math.floor(math.log10(max(lowest, 1))))
    axes.yaxis.set_major_formatter(FuncFormatter(thousands))
    axes.yaxis.set_minor_formatter(NullFormatter())
    connection_axis(axes, levels)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_latency(result: Result) -> Figure | None:
    """Draw latency percentiles of the 1 KB page, a panel for each number of connections."""
    names, levels = labels(result), list(result["settings"]["connections"])
    page = [one for one in result["figures"] if one["case"] == "page"]
    if not page:
        return None
    figure, grid = pyplot.subplots(1, len(levels), figsize=(3.7 * len(levels) + 1, 3.6), sharey=True, squeeze=False)
    for axes, level in zip(grid.flat, levels, strict=True):
        shares: list[str] = []
        for name, label in names.items():
            one = next((one for one in page if (one["stack"], one["connections"]) == (name, level)), None)
            if one:
                shares = list(one["percentiles_ms"])
                values = [max(value, 0.01) for value in one["percentiles_ms"].values()]
                axes.plot(
                    range(len(shares)), values, color=colour(name, list(names)), label=label, marker="o",
                    markersize=3.5, linewidth=2.6 if name == OURS else 1.5, zorder=3 if name == OURS else 2,
                )  # fmt: skip
        axes.set_xticks(range(len(shares)), [share.removeprefix("p") for share in shares])
        axes.set_xlabel("percentile")
        axes.set_title(f"{level} connections")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(thousands))
        axes.yaxis.set_minor_formatter(NullFormatter())
    grid.flat[0].set_ylabel("latency, ms")
    legend_below(figure, grid.flat[0])
    return figure


def draw_slow(result: Result) -> Figure | None:
    """Draw the fast requests of the first round along the time, while slow ones are in flight."""
    names = labels(result)
    runs: dict[str, Mapping[str, Any]] = {}
    for run in result["runs"]:
        if run["case"] == "slow":
            runs.setdefault(run["stack"], run)
    shown = [name for name in names if name in runs]
    if not shown:
        return None
    figure, grid = pyplot.subplots(
        len(shown), 1, figsize=(8.5, 0.95 * len(shown) + 0.8), sharex=True, sharey=True, squeeze=False
    )
    for axes, name in zip(grid.flat, shown, strict=True):
        run = runs[name]
        timeline(axes, run, colour(name, list(names)), (run["calm"], max(due for due, *_ in run["points"])))
        axes.set_title(names[name], fontsize=9, fontweight="normal", pad=2)
    slow = runs[shown[0]]["slow"]
    grid.flat[-1].set_xlabel(f"seconds; in the shaded part {slow} slow requests (1 s each) are in flight all the time")
    figure.supylabel("latency of a fast request, ms", fontsize=9.5)
    figure.tight_layout(h_pad=0.2)
    return figure


def draw_deploy(result: Result) -> Figure | None:
    """Draw fast requests along the time, while our stack is released anew."""
    run = next((run for run in result["runs"] if run["case"] == "deploy"), None)
    if run is None:
        return None
    figure, axes = pyplot.subplots(figsize=(8.5, 2))
    timeline(axes, run, COLOURS[OURS], (run["calm"], run["calm"] + run["deploy_s"]))
    axes.set_xlabel("seconds; in the shaded part deploy.yml is at work")
    axes.set_ylabel("latency, ms")
    return figure


def timeline(axes: Axes, run: Mapping[str, Any], shade: str, marked: tuple[float, float]) -> None:
    """Draw each request at a fixed rate as a dot: when it was due, and how long it took.

    Args:
        axes: Where.
        run: With its points.
        shade: Colour of what was answered well; what failed is red.
        marked: Seconds between which the ground is shaded.
    """
    well = [(due, spent) for due, spent, fine in run["points"] if fine]
    bad = [(due, spent) for due, spent, fine in run["points"] if not fine]
    if well:
        axes.scatter([due for due, _ in well], [spent for _, spent in well], s=5, color=shade, linewidths=0)
    if bad:
        axes.scatter([due for due, _ in bad], [spent for _, spent in bad], s=14, marker="x", color=FAILED, linewidths=1)
    axes.axvspan(*marked, color="#f3efe2", zorder=0)
    axes.set_yscale("log")
    axes.set_ylim(0.5, 8000)
    axes.set_yticks([1, 10, 100, 1000])
    axes.yaxis.set_major_formatter(FuncFormatter(thousands))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_cpu(result: Result) -> Figure | None:
    """Draw the CPU seconds for 10,000 requests, a panel for each case that stacks are compared in."""
    names, levels = labels(result), list(result["settings"]["connections"])
    titles = {case.name: case.label for case in CASES}
    cases = [
        case for case in COMPARED if any(one["case"] == case and one["cpu_s_per_10k"] for one in result["figures"])
    ]
    if not cases:
        return None
    columns = min(len(cases), 2)
    rows = -(-len(cases) // columns)
    size = (4.2 * columns + 2.2, (0.45 * len(names) + 1.2) * rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    height = 0.8 / len(levels)
    order = list(names)[::-1]
    for axes in list(grid.flat)[len(cases) :]:
        axes.set_visible(False)
    for axes, case in zip(grid.flat, cases, strict=False):
        found = [
            one["cpu_s_per_10k"]["median"] for one in result["figures"] if one["case"] == case and one["cpu_s_per_10k"]
        ]
        # What answered next to nothing well has any cost: its bar ends at the edge, and bears its number.
        edge = min(max(found), 6 * median(found))
        for name in order:
            for one in figures_of(result, case, name):
                if one["cpu_s_per_10k"]:
                    number = levels.index(one["connections"])
                    place = order.index(name) + 0.4 - height * (number + 0.5)
                    value = one["cpu_s_per_10k"]["median"]
                    axes.barh(
                        place, min(value, edge), height * 0.9, color=colour(name, list(names)), alpha=1 - 0.25 * number
                    )
                    axes.text(min(value, edge), place, f" {value:.1f}", va="center", fontsize=7, color="#555555")
        axes.set_title(titles[case])
        axes.set_xlabel("CPU seconds for 10,000 requests")
        axes.set_yticks(range(len(order)), [names[name] for name in order])
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
    figure.tight_layout()
    return figure
