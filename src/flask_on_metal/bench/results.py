"""Figures from runs: what failed, medians with their spread, ratios between stacks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flask_on_metal.bench.plan import APART, CROWD, OURS, STEADY

Run = Mapping[str, Any]

Best = Callable[[Iterable[float]], float]
"""Which of several figures is the best: max of rates, min of costs."""

GUNICORNS = ("gunicorn_sync", "gunicorn_threads")

RATIOS: Mapping[str, tuple[tuple[str, str], tuple[tuple[str, str], ...]]] = {
    "uncached_vs_granian": ((OURS, "page"), (("granian", "page"),)),
    "uncached_vs_gunicorn": ((OURS, "page"), tuple((name, "page") for name in GUNICORNS)),
    "uncached_vs_flask": ((OURS, "page"), (("flask_threaded", "page"),)),
    "post_vs_granian": ((OURS, "post"), (("granian", "post"),)),
    "cached_vs_static": ((OURS, "cached"), ((OURS, "static"),)),
    "https_vs_http": ((OURS, "https"), ((OURS, "page"),)),
}
"""What is divided by what, as stack and case; where there are several to compare with, the best of them."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One stack in one case at one number of connections, over all rounds."""

    case: str
    stack: str
    connections: int
    rate: Spread
    """Requests answered well, a second."""
    p99_ms: Spread
    failed: int
    """Requests that failed, of all rounds together."""
    requests: int
    """All requests that were answered or failed, of all rounds together."""
    cpu_s_per_10k: Spread | None
    """CPU seconds of the stack for 10,000 requests answered well; None if nothing was."""
    memory_mb: float
    """Most of all rounds."""
    others: float
    """Share of the machine's CPU that went to neither stack nor load: the most of all rounds."""
    percentiles_ms: Mapping[str, float]
    """Median over the rounds of each percentile."""


@dataclass(frozen=True, slots=True)
class SteadyFigure:
    """Fast requests of one stack at a fixed rate, beside slow ones or a new release, over all rounds."""

    case: str
    stack: str
    slow: int
    """Slow requests in flight at any time."""
    p50_ms: Spread
    p99_ms: Spread
    longest_ms: float
    fast: int
    failed: int
    slow_failed: int


LATE_MS = 2000.0
"""A connection that takes longer was kept waiting, and not only busy: wrk gives up a request after as long."""


@dataclass(frozen=True, slots=True)
class CrowdFigure:
    """Connections of one stack that came all at once, and requests over them once they stood, over all rounds."""

    stack: str
    connections: int
    """In each round."""
    lost: int
    """Connections that didn't come about."""
    late: int
    """Those that took longer than LATE_MS."""
    connect_p50_ms: Spread
    connect_p99_ms: Spread
    connect_longest_ms: float
    requests: int
    failed: int
    p99_ms: Spread
    longest_ms: float


def good(run: Run) -> int:
    """Count the requests of a run that were answered well."""
    return int(run["requests"]) - int(run["failures"]["status"]) - int(run["failures"]["timeout"])


def failed(run: Run) -> int:
    """Count the failures of a run, of every kind."""
    return sum(map(int, run["failures"].values()))


def rate(run: Run) -> float:
    """Work out the requests answered well, a second, once the connections were made.

    Of failures is only known how many there were in all.
    """
    steady = run["steady"]
    return float(steady["requests"] / steady["seconds"] * good(run) / run["requests"]) if run["requests"] else 0.0


def cpu_per_10k(run: Run) -> float | None:
    """Work out the CPU seconds of the stack for 10,000 requests answered well."""
    return sum(run["cpu_s"].values()) / good(run) * 10_000 if good(run) else None


def spread(values: Iterable[float]) -> Spread:
    """Return the median, the lowest and the highest."""
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found))


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share of the values doesn't exceed; NaN of none."""
    ascending = sorted(values)
    return ascending[max(math.ceil(share * len(ascending)) - 1, 0)] if ascending else math.nan


def figures(runs: Iterable[Run]) -> list[Figure]:
    """Put the rounds together, in the order in which the first came."""
    grouped: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        if run["case"] not in APART:
            grouped.setdefault((run["case"], run["stack"], run["connections"]), []).append(run)
    return [figure(*key, rounds) for key, rounds in grouped.items()]


def figure(case: str, stack: str, connections: int, rounds: Sequence[Run]) -> Figure:
    """Put the rounds of one case together."""
    costs = [cost for cost in map(cpu_per_10k, rounds) if cost is not None]
    names = rounds[0]["latency_ms"]
    return Figure(
        case=case,
        stack=stack,
        connections=connections,
        rate=spread(map(rate, rounds)),
        p99_ms=spread(run["latency_ms"]["p99"] for run in rounds),
        failed=sum(map(failed, rounds)),
        # Those that got no answer aren't among wrk's requests.
        requests=sum(
            run["requests"] + sum(run["failures"][kind] for kind in ("connect", "read", "write")) for run in rounds
        ),
        cpu_s_per_10k=spread(costs) if costs else None,
        memory_mb=max(run["memory_mb"] for run in rounds),
        others=max(run["others"] for run in rounds),
        percentiles_ms={name: statistics.median(run["latency_ms"][name] for run in rounds) for name in names},
    )


def steady_figures(runs: Iterable[Run]) -> list[SteadyFigure]:
    """Put the rounds of fast requests at a fixed rate together."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run["case"] in STEADY:
            grouped.setdefault((run["case"], run["stack"]), []).append(run)
    return [steady_figure(*key, rounds) for key, rounds in grouped.items()]


def steady_figure(case: str, stack: str, rounds: Sequence[Run]) -> SteadyFigure:
    """Put the rounds of one stack together. A request that was given up counts with the time until then."""
    beside = [[point for point in run["points"] if point[0] >= run["calm"]] for run in rounds]
    times = [[milliseconds for _, milliseconds, _ in points] for points in beside]
    return SteadyFigure(
        case=case,
        stack=stack,
        slow=rounds[0].get("slow", 0),
        p50_ms=spread(percentile(one, 0.5) for one in times),
        p99_ms=spread(percentile(one, 0.99) for one in times),
        longest_ms=max(max(one) for one in times),
        fast=sum(map(len, times)),
        failed=sum(not well for points in beside for _, _, well in points),
        slow_failed=sum(run["slow_failed"] for run in rounds),
    )


def crowd_figures(runs: Iterable[Run]) -> list[CrowdFigure]:
    """Put the rounds of connections that came at once together."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        if run["case"] == CROWD:
            grouped.setdefault(run["stack"], []).append(run)
    return [crowd_figure(*each) for each in grouped.items()]


def crowd_figure(stack: str, rounds: Sequence[Run]) -> CrowdFigure:
    """Put the rounds of one stack together. A request that was given up counts with the time until then."""
    times = [[milliseconds for _, milliseconds, _ in run["points"]] for run in rounds]
    return CrowdFigure(
        stack=stack,
        connections=rounds[0]["connections"],
        lost=sum(run["connections"] - len(run["made"]) for run in rounds),
        late=sum(milliseconds > LATE_MS for run in rounds for milliseconds in run["made"]),
        connect_p50_ms=spread(percentile(run["made"], 0.5) for run in rounds),
        connect_p99_ms=spread(percentile(run["made"], 0.99) for run in rounds),
        connect_longest_ms=max(max(run["made"], default=math.nan) for run in rounds),
        requests=sum(map(len, times)),
        failed=sum(not well for run in rounds for _, _, well in run["points"]),
        p99_ms=spread(percentile(one, 0.99) for one in times),
        longest_ms=max(max(one, default=math.nan) for one in times),
    )


def ratios(
    runs: Sequence[Run], value: Callable[[Run], float | None] = rate, best: Best = max
) -> dict[str, dict[str, Spread]]:
    """Compare our stack with the others, at each number of connections.

    A ratio is the median over the rounds of the ratio within a round: a machine that changes from round to round then
    changes both sides of it.

    Args:
        runs: As measured.
        value: What of a run is compared.
        best: Which of several to compare with.

    Returns:
        By name, and then by connections as text: a Spread. What was not measured is left out.
    """
    found: dict[tuple[str, str, int, int], float] = {}
    for run in runs:
        if run["case"] not in APART and (measured := value(run)) is not None:
            found[run["stack"], run["case"], run["connections"], run["round"]] = measured
    levels = sorted({level for _, _, level, _ in found})
    rounds = sorted({number for *_, number in found})
    result: dict[str, dict[str, Spread]] = {}
    for name, (mine, others) in RATIOS.items():
        for level in levels:
            # The best of several by its median, so that it is the same one in all rounds.
            medians = {}
            for other in others:
                values = [found[(*other, level, number)] for number in rounds if (*other, level, number) in found]
                if values:
                    medians[other] = statistics.median(values)
            if not medians:
                continue
            most = best(medians.values())
            other = next(one for one, median in medians.items() if median == most)
            pairs = [
                found[(*mine, level, number)] / found[(*other, level, number)]
                for number in rounds
                if (*mine, level, number) in found and found.get((*other, level, number))
            ]
            if pairs:
                result.setdefault(name, {})[str(level)] = spread(pairs)
    return result


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return everything that follows from the runs, for results.json."""
    rates, costs = ratios(runs), ratios(runs, cpu_per_10k, min)

    def medians(found: dict[str, dict[str, Spread]]) -> dict[str, dict[str, float]]:
        return {name: {level: round(one.median, 3) for level, one in levels.items()} for name, levels in found.items()}

    return {
        "ratios": medians(rates),
        "ratios_spread": {
            name: {level: [round(one.low, 3), round(one.high, 3)] for level, one in levels.items()}
            for name, levels in rates.items()
        },
        "cpu_ratios": medians(costs),
        "figures": [asdict(one) for one in figures(runs)],
        "steady": [asdict(one) for one in steady_figures(runs)],
        "crowds": [asdict(one) for one in crowd_figures(runs)],
    }
