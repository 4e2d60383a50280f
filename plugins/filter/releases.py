"""Jinja filters that tell an operator of releases: what there is, and what a run did."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible finds a project's module_utils for modules only; this runs on the control node.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.visible import one_line, visible

COLUMNS = ("host", "id", "state", "version", "when", "by")


# What a host tells becomes a part of commands that an operator pastes only where it is one of these.
RELEASE_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}\Z")
APP_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")
RUN_ID = re.compile(r"[0-9a-f]{12}\Z")


def is_run(told: object) -> bool:
    """Tell whether a host named a run, which -e break_lock=… takes, and nothing else."""
    return isinstance(told, str) and bool(RUN_ID.match(told))


def way_back(state: Mapping[str, Any], to: str = "") -> str:
    """Choose the release to go back to; nothing where there is none.

    Args:
        state: of the app on a host, as release_state returned it.
        to: the one asked for by name. Empty means the newest good one older than the current one.
    """
    if not to:
        return str(state["way_back"])
    known = {release["id"] for release in state["releases"] if release["state"] in ("current", "good", "withdrawn")}
    return to if to in known else ""


def made_of(records: Iterable[Mapping[str, Any]], asked: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Choose the releases (their release.json) that were made of just what is asked for: input and rendered files."""
    return [record for record in records if all(record.get(name) == asked[name] for name in ("input", "rendered"))]


def batches(hosts: Iterable[str], rolling: str, soak: int) -> list[list[str]]:
    """Cut the hosts into those that switch at the same time.

    Args:
        hosts: in the order in which they switch.
        rolling: how many at a time, as "2" or "25%"; always one at least.
        soak: seconds that the first one is watched alone; with 0 it isn't a batch of its own.
    """
    left = list(hosts)
    number = float(rolling.rstrip("%"))
    size = max(1, int(len(left) * number / 100 if rolling.endswith("%") else number))
    first = left[:1] if soak else []
    left = left[len(first) :]
    return [batch for batch in [first, *(left[at : at + size] for at in range(0, len(left), size))] if batch]


def releases_table(states: Mapping[str, Mapping[str, Any]], app: str) -> str:
    """Lay out all releases of an app, by host and the newest first."""
    told = [
        {"host": host, **release, "version": release["version"][:40]}
        for host in sorted(states)
        for release in states[host]["releases"]
    ]
    rows = [{name: one_line(str(row[name])) for name in COLUMNS} for row in told]
    if not rows:
        return f"{app}: no release"
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in COLUMNS}
    heading = {name: name for name in COLUMNS}
    lines = ["  ".join(row[name].ljust(widths[name]) for name in COLUMNS) for row in [heading, *rows]]
    return "\n".join([f"{app}:", *(line.rstrip() for line in lines)])


def told(report: Mapping[str, Any]) -> str:
    """Say what became of an app on a host."""
    before, after = one_line(report["from"] or "nothing"), one_line(report["to"])
    if report["outcome"] == "unchanged":
        return f"{before}  unchanged"
    if report["outcome"] == "withdrawn":
        return f"{before}  unchanged: {after}, made of the same, was gone back from; -e force=true makes it again"
    if report["outcome"] == "failed":
        return f"{before}  unchanged: “{report['step']}” failed"
    if report["outcome"].startswith("would"):
        return f"{before} → {after}  {report['outcome']}"
    return f"{before} → {after}  {report['outcome']} in {report['seconds']:.1f} s"


def left_apps(hosts: Iterable[Mapping[str, Any]]) -> str:
    """Name the apps that left the inventory and still run, by what release_state found; nothing where none did."""
    lines = []
    for values in hosts:
        host = values["inventory_hostname"]
        for app, told in values.get("__flask_app_host", {}).get("left", {}).items():
            # Told by the host, and part of a command to paste: nothing but names.
            ids = [one for one in told if RELEASE_ID.match(one)]
            if not ids or not APP_NAME.match(app):
                continue
            units = " ".join(f"{app}@{one}.{kind}" for one in ids for kind in ("service", "socket"))
            lines += [
                f"{app} left the inventory, and still runs on {host}. Nothing of it was removed.",
                f"  to stop it, on {host}: systemctl disable --now {units}",
                "  to keep it: put it back into flask_apps",
            ]
    return "\n".join(lines)


def releases_summary(hosts: Iterable[Mapping[str, Any]], ansible: str, limited: bool = False) -> str:
    """Sum a run up, app by app and host by host, with the way back.

    Args:
        hosts: the hosts' variables; of a host that failed early there may be no report.
        ansible: what each command begins with.
        limited: whether the run was for some of the inventory's hosts.
    """
    hosts = list(hosts)
    by_app: dict[str, dict[str, Mapping[str, Any]]] = {}
    for values in hosts:
        for report in values.get("__flask_app_reports", []):
            by_app.setdefault(report["app"], {})[values["inventory_hostname"]] = report
    lines = []
    for app, reports in by_app.items():
        version = next((report["version"] for report in reports.values() if report["version"]), "")
        lines.append(f"{app} {one_line(version)}".rstrip())
        width = max(map(len, reports))
        lines += [f"  {name.ljust(width)}  {told(report)}" for name, report in sorted(reports.items())]
        back = f"{ansible}rollback.yml -e app={app}"
        released = [
            name for name in sorted(reports) if reports[name]["outcome"] == "released" and reports[name]["from"]
        ]
        if released:
            # Elsewhere it would go back from what this run didn't release.
            limit = f" --limit {','.join(released)}" if limited or len(released) < len(reports) else ""
            lines.append(f"  to undo: {back}{limit}")
        # After a rollback the way back is forward, and a rollback by itself would go further back.
        undone = {name: report["from"] for name, report in reports.items() if report["outcome"] == "rolled back"}
        for before in sorted({before for before in undone.values() if RELEASE_ID.match(before)}):
            on = [name for name in sorted(undone) if undone[name] == before]
            limit = f" --limit {','.join(on)}" if limited or len(on) < len(reports) else ""
            lines.append(f"  to undo: {back} -e to={before}{limit}")
    return "\n".join(filter(None, ["\n".join(lines) or "no app was to be released", left_apps(hosts)]))


def failed_apps(reports: Iterable[Mapping[str, Any]], host: str, ansible: str) -> str:
    """Name the apps of a host that have no new release, with the step of each and the next command.

    Args:
        reports: of the run, on this host.
        host: its name.
        ansible: what each command begins with.
    """
    by_app = {report["app"]: report for report in reports}
    failed = {name: one["step"] for name, one in by_app.items() if one["outcome"] in ("refused", "failed")}
    lines = [f"  {name}: “{step}” failed" for name, step in failed.items()]
    others = [name for name in by_app if name not in failed]
    return "\n".join(
        [
            f"{host} has no new release of:",
            *lines,
            "Each failure is explained above, where it happened."
            + (f" It kept nothing from {', '.join(others)}." if others else ""),
            "Next: mend the cause, then:",
            *(f"  {ansible}deploy.yml -e app={name}" for name in failed),
        ]
    )


class FilterModule:
    """What Ansible finds here."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters as templates do."""
        return {
            "is_run": is_run,
            "visible": visible,
            "way_back": way_back,
            "made_of": made_of,
            "batches": batches,
            "releases_table": releases_table,
            "left_apps": left_apps,
            "releases_summary": releases_summary,
            "failed_apps": failed_apps,
        }
