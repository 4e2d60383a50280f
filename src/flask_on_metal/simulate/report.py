"""The result of a run: figures, warnings, verdict; as JSON for machines and as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flask_on_metal.simulate.load import Pace, Tally, percentile
from flask_on_metal.simulate.readback import ReadBack

SCHEMA = 1
"""Version of the JSON; it changes when a key changes its meaning or goes away."""

LAG_SHARE = 0.1
"""The client is suspect when the p99 of its own lag is more than this share of the deadline."""

BUSY_SHARE = 0.8
"""And when it used more than this share of one processor, for then answers wait to be read."""

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known after a run."""

    url: str
    started_at: str
    """ISO 8601, UTC."""
    seed: int
    comments_ratio: float
    max_late: float
    """The share of accepted posts that may be late, 0 to 1."""
    interrupted: bool
    first_id: int
    pace: Pace
    tally: Tally
    read_back: ReadBack

    @property
    def late_share(self) -> float:
        """Late posts per accepted post."""
        return self.tally.late / self.tally.accepted if self.tally.accepted else 0.0

    @property
    def breaches(self) -> list[str]:
        """What was not as promised, one phrase each; empty when all is well."""
        tally, back = self.tally, self.read_back
        found = []
        if tally.sent == 0:
            found.append("nothing was sent")
        if refused := tally.refused.total():
            found.append(f"{refused} refused")
        if failed := tally.failed.total():
            found.append(f"{failed} failed")
        if unsent := tally.not_sent.total():
            found.append(f"{unsent} not sent by this client")
        if self.late_share > self.max_late:
            found.append(f"{self.late_share:.2%} late, more than {self.max_late:.2%}")
        if not back.complete:
            found.append("lost posts unknown, for the read-back was not finished")
            return found
        if back.lost:
            found.append(f"{back.lost} lost")
        if back.altered:
            found.append(f"{back.altered} altered")
        if back.duplicates:
            found.append(f"{back.duplicates} stored twice")
        if not back.latest_agrees:
            found.append(f"/latest says {back.latest}, the highest id listed is {back.highest}")
        return found

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust the figures, all on the client's side; empty when there are none."""
        tally, pace = self.tally, self.pace
        lags = sorted(tally.lags)
        p99, worst = percentile(lags, 0.99) or 0.0, percentile(lags, 1) or 0.0
        found = []
        if p99 > LAG_SHARE * pace.deadline or worst > pace.deadline:
            found.append(
                f"this client fell behind its own schedule (p99 {p99 * 1000:.1f} ms, "
                f"max {worst * 1000:.1f} ms): {tally.late_by_own_lag} of the late posts "
                "are its own doing; use a lower --rate, --keep-alive, or a quieter machine"
            )
        if tally.wall > 1 and tally.cpu > BUSY_SHARE * tally.wall:
            found.append(
                f"this client kept a processor {tally.cpu / tally.wall:.0%} busy: its latencies include "
                "its own queue; use a lower --rate or --keep-alive"
            )
        if tally.failed["client"]:
            found.append(
                f"{tally.failed['client']} posts failed on this machine's own limits (open files, "
                "local ports); use --keep-alive or raise `ulimit -n`"
            )
        if tally.not_sent["in-flight bound"]:
            found.append(
                f"{tally.not_sent['in-flight bound']} posts were not sent, for {pace.max_in_flight} were "
                "already under way (--max-in-flight)"
            )
        if tally.not_sent["client behind"]:
            found.append(
                f"{tally.not_sent['client behind']} posts were not sent: this client was behind by more than --timeout"
            )
        if self.read_back.foreign:
            found.append(
                f"the board lists {self.read_back.foreign} posts under ids of this run that it didn't send: "
                "something else posts at it, and the ids collide"
            )
        return found

    @property
    def exit_status(self) -> int:
        """0 when the board kept its promise, 1 when it didn't or nobody can tell."""
        return 1 if self.breaches else 0

    def as_json(self) -> dict[str, Any]:
        """Give the report in plain types. Unknown is null, never 0."""
        tally, back, pace = self.tally, self.read_back, self.pace
        lags = sorted(tally.lags)
        return {
            "schema": SCHEMA,
            "url": self.url,
            "started_at": self.started_at,
            "interrupted": self.interrupted,
            "ok": not self.breaches,
            "breaches": self.breaches,
            "warnings": self.warnings,
            "options": {
                "rate_per_s": pace.rate,
                "deadline_ms": pace.deadline * 1000,
                "timeout_s": pace.timeout,
                "keep_alive": pace.keep_alive,
                "max_in_flight": pace.max_in_flight,
                "max_late_share": self.max_late,
                "comments_ratio": self.comments_ratio,
                "seed": self.seed,
            },
            "posts": {
                "first_id": self.first_id,
                "planned": pace.posts,
                "due": tally.due,
                "sent": tally.sent,
                "accepted": tally.accepted,
                "refused": tally.refused.total(),
                "refused_by_status": {str(status): count for status, count in sorted(tally.refused.items())},
                "failed": tally.failed.total(),
                "failed_by_kind": dict(sorted(tally.failed.items())),
                "not_sent": tally.not_sent.total(),
                "not_sent_by_reason": dict(sorted(tally.not_sent.items())),
                "late": tally.late,
                "late_share": round(self.late_share, 6),
                "late_by_own_lag": tally.late_by_own_lag,
            },
            "latency_ms": {
                **_milliseconds(sorted(tally.latencies), PERCENTILES),
                "longest_stall": round(tally.longest_stall * 1000, 3),
            },
            "read_back": {
                "complete": back.complete,
                "reason": back.reason or None,
                **{
                    name: getattr(back, name) if back.complete else None
                    for name in (
                        "lost",
                        "altered",
                        "duplicates",
                        "stored_unacknowledged",
                        "foreign",
                        "latest",
                        "highest",
                        "latest_agrees",
                        "lost_examples",
                        "altered_examples",
                    )
                },
            },
            "client": {
                "wall_s": round(tally.wall, 3),
                "cpu_s": round(tally.cpu, 3),
                "cpu_s_per_1000_posts": round(tally.cpu / tally.sent * 1000, 3) if tally.sent else None,
                "lag_ms": _milliseconds(lags, {"p99": 0.99, "max": 1.0}),
                "peak_in_flight": tally.peak_in_flight,
            },
        }

    def show(self, console: Console) -> None:
        """Print the table, the warnings and the verdict."""
        tally, back, pace = self.tally, self.read_back, self.pace
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column()
        table.add_column(justify="right")
        table.add_column(overflow="fold")

        def row(name: str, value: str, note: str = "", *, bad: bool = False) -> None:
            table.add_row(Text(name), Text(value, style="bold red" if bad else ""), Text(note))

        def share(part: int) -> str:
            return f"{part / tally.sent:.2%}" if tally.sent else ""

        row("sent", str(tally.sent), f"of {pace.posts} planned, {tally.due} due")
        row("accepted", str(tally.accepted), share(tally.accepted))
        row(
            "  late",
            str(tally.late),
            f"{self.late_share:.2%} over {pace.deadline * 1000:g} ms",
            bad=self.late_share > self.max_late,
        )
        row("refused", str(tally.refused.total()), _breakdown(tally.refused), bad=bool(tally.refused))
        row("failed", str(tally.failed.total()), _breakdown(tally.failed), bad=bool(tally.failed))
        if tally.not_sent:
            row("not sent", str(tally.not_sent.total()), _breakdown(tally.not_sent), bad=True)
        if back.complete:
            row("lost", str(back.lost), _some(back.lost_examples, back.lost), bad=bool(back.lost))
            altered = [example["hanesst_id"] for example in back.altered_examples]
            row("altered", str(back.altered), _some(altered, back.altered), bad=bool(back.altered))
            row("stored twice", str(back.duplicates), bad=bool(back.duplicates))
            row("stored, not answered 200", str(back.stored_unacknowledged))
            row("/latest", str(back.latest), f"highest id listed {back.highest}", bad=not back.latest_agrees)
        else:
            row("lost", "unknown", back.reason, bad=True)
        figures = _milliseconds(sorted(tally.latencies), PERCENTILES)
        row("latency", "ms", ", ".join(f"{name} {_or_dash(value)}" for name, value in figures.items()))
        row(
            "longest stall",
            f"{tally.longest_stall * 1000:.0f} ms",
            "without an accepted post while one was waiting",
        )
        lag = _milliseconds(sorted(tally.lags), {"p99": 0.99, "max": 1.0})
        cpu = f"{tally.cpu / tally.sent * 1000:.2f} s of CPU per 1,000 posts" if tally.sent else ""
        row("this client", "", f"lag p99 {_or_dash(lag['p99'])} ms, max {_or_dash(lag['max'])} ms; {cpu}")

        connections = "kept-alive connections" if pace.keep_alive else "a connection per post"
        console.print(
            Text(
                f"{self.url}: {pace.rate:g} posts/s for {tally.wall:.1f} s over {connections}, ids from {self.first_id}"
            )
        )
        console.print(table)
        if self.interrupted:
            console.print(Text("Interrupted: this accounts for what was due until then."))
        for warning in self.warnings:
            console.print(Text(f"Warning: {warning}", style="yellow"))
        if self.breaches:
            console.print(Text(f"NOT OK: {'; '.join(self.breaches)}", style="bold red"))
        else:
            console.print(Text("OK: every post was accepted and reads back as it was sent", style="bold green"))


def _milliseconds(ascending: Sequence[float], shares: dict[str, float]) -> dict[str, float | None]:
    """Percentiles of values in seconds, sorted ascending, as milliseconds."""
    found = {name: percentile(ascending, share) for name, share in shares.items()}
    return {name: None if value is None else round(value * 1000, 3) for name, value in found.items()}


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _breakdown(counts: Counter[Any]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def _some(ids: list[int], total: int) -> str:
    shown = ", ".join(str(number) for number in ids[:5])
    return f"ids {shown}{', ...' if total > 5 else ''}" if ids else ""
