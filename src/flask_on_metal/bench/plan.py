"""What is measured: stacks, cases, and how often."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request."""

    name: str
    label: str
    path: str
    post: bool = False
    https: bool = False
    keep_alive: bool = True
    ours_only: bool = False
    """Whether it is about our own NGINX site, and so has nothing to be compared with."""


CASES = (
    Case("page", "1 KB page", "/page"),
    Case("https", "1 KB page, HTTPS", "/page", https=True, ours_only=True),
    Case("https_new", "1 KB page, HTTPS, a connection for each", "/page", https=True, keep_alive=False, ours_only=True),
    Case("cached", "1 KB page, micro-cached", "/cached", ours_only=True),
    Case("static", "the same bytes as a static file", "/static/page.html", ours_only=True),
    Case("json", "JSON", "/json"),
    Case("database", "page from a database", "/database"),
    Case("post", "post that is stored", "/post", post=True),
)
GROUPS = (
    ("page", "https", "https_new", "cached", "static"),
    ("json",),
    ("database",),
    ("post",),
    ("slow",),
    ("crowd",),
)
"""What is measured of a stack while it is up: cases that are compared with each other stand close in time.

slow isn't measured with connections, but with fast requests at a fixed rate beside slow ones."""

CROWD = "crowd"
"""The case of connections that come all at once: how long each takes to be made, and then whether requests over them
are answered, at a rate that leaves processors idle."""

STEADY = ("slow", "deploy")
"""Cases with fast requests at a fixed rate: beside slow ones, and once at the end while our stack is released anew."""
APART = (*STEADY, CROWD)
"""Cases that have figures of their own."""
CASE_NAMES = (*(case.name for case in CASES), *APART)
OURS = "ours"


@dataclass(frozen=True, slots=True)
class Stack:
    """Something that serves the app."""

    name: str
    label: str
    units: tuple[str, ...]
    """systemd's, started and stopped for it."""
    counted: tuple[str, ...]
    """Units whose CPU is its cost: those, and NGINX where it stands before it."""
    port: int
    host: str
    """Of the Host header, by which NGINX tells the stacks apart."""
    about: str = ""
    """How it is set up, in one line."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how often."""

    rounds: int
    seconds: int
    connections: tuple[int, ...]
    cases: tuple[str, ...]
    slow_seconds: float
    load_threads: int
    """Of the load generator; 0 for one a core."""
    crowd: int
    """Connections that come at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One benchmark, as the playbook hands it over."""

    settings: Settings
    stacks: tuple[Stack, ...]
    address: str
    """Of the host that is measured, as the load reaches it."""
    https_name: str
    """First domain of our own site."""
    web: tuple[str, ...]
    """Command that starts the agent there."""
    load: tuple[str, ...]
    load_name: str
    load_script: str
    """Path of wrk.lua on the host that sends the load."""
    deploy: tuple[str, ...]
    """Command that makes a new release of our own app."""
    versions: Mapping[str, str]
    """Of the Python packages that are compared."""


class PlanError(Exception):
    """What was asked for can't be measured."""


def read(path: Path) -> Plan:
    """Read a plan from its JSON.

    Raises:
        PlanError: It asks for what there isn't.
    """
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    wanted = raw["settings"]
    settings = Settings(
        rounds=int(wanted["rounds"]),
        seconds=int(wanted["seconds"]),
        connections=tuple(sorted({int(number) for number in wanted["connections"]})),
        cases=tuple(wanted["cases"]) or CASE_NAMES,
        slow_seconds=float(wanted["slow_seconds"]),
        load_threads=int(wanted["load_threads"]),
        crowd=int(wanted["crowd"]),
    )
    if unknown := sorted(set(settings.cases) - set(CASE_NAMES)):
        raise PlanError(f"there is no case {', '.join(unknown)}; there are: {', '.join(CASE_NAMES)}")
    if min(settings.rounds, settings.seconds, settings.crowd, *settings.connections) < 1:
        raise PlanError("rounds, seconds, connections and crowd must be at least 1")
    stacks = [
        Stack(
            name=one["name"],
            label=one["label"],
            units=tuple(one["units"]),
            counted=tuple(one["counted"]),
            port=int(one["port"]),
            host=one["host"],
            about=one["about"],
        )
        for one in raw["stacks"]
    ]
    names = [stack.name for stack in stacks]
    chosen = list(wanted["stacks"]) or names
    if unknown := sorted(set(chosen) - set(names)):
        raise PlanError(f"there is no stack {', '.join(unknown)}; there are: {', '.join(names)}")
    return Plan(
        settings=settings,
        stacks=tuple(stack for stack in stacks if stack.name in chosen),
        address=raw["address"],
        https_name=raw["https_name"],
        web=tuple(shlex.split(raw["web"])),
        load=tuple(shlex.split(raw["load"])),
        load_name=raw["load_name"],
        load_script=raw["load_script"],
        deploy=tuple(shlex.split(raw["deploy"])),
        versions=locked_versions(raw["lock"]),
    )


def locked_versions(lock: str) -> dict[str, str]:
    """Read the versions of what is compared from a requirements file with hashes."""
    found = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
    return {name: found[name] for name in ("flask", "gunicorn", "granian") if name in found}


def groups_of(stack: Stack, wanted: tuple[str, ...]) -> list[tuple[str, ...]]:
    """List the groups of cases that are wanted of a stack, without the empty ones."""
    own = {case.name for case in CASES if not case.ours_only or stack.name == OURS} | {"slow", CROWD}
    kept = (tuple(name for name in group if name in wanted and name in own) for group in GROUPS)
    return [group for group in kept if group]


def run_count(plan: Plan) -> int:
    """Count the runs that the plan comes to."""
    levels = len(plan.settings.connections)
    names = [name for stack in plan.stacks for group in groups_of(stack, plan.settings.cases) for name in group]
    deploys = int("deploy" in plan.settings.cases and any(stack.name == OURS for stack in plan.stacks))
    return plan.settings.rounds * sum(1 if name in ("slow", CROWD) else levels for name in names) + deploys
