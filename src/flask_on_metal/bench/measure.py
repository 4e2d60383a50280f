"""The runs: one stack at a time, the stacks by turns."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask_on_metal.bench.plan import CASES, CROWD, GROUPS, OURS, Case, Plan, Stack, groups_of
from flask_on_metal.bench.wire import Agent

START_SECONDS = 30.0
"""Time that a stack has to answer, once its units are started."""
FAST_RATE = 100.0
"""Fast requests a second beside the slow ones: little enough that only waiting can make them late."""
CROWD_RATE = 200.0
"""Requests a second over connections that stand: few, since it is whether one fails that is asked."""
CALM = 1.0
"""Seconds before the first slow request."""
DEPLOY_SECONDS = 60.0
"""How long fast requests are sent while a release is made, at most: several times what that takes."""
AFTER = 3.0
"""Seconds for which they are sent once it is made: what it slows down shows within them."""
HANDSHAKES = 300
"""TLS handshakes a second that are counted on: few, since there may be one core for both ends."""
BREATH = 0.3
"""Seconds between two runs, in which connections of the last one are closed."""
MOST_LOAD_THREADS = 8
"""Threads of the load generator, where their number isn't given."""
SAMPLE_POST = '{"id": 1, "title": "A post", "text": "words"}'

CASE_BY_NAME = {case.name: case for case in CASES}

Run = dict[str, Any]
Tell = Callable[[str, Run | None], None]
"""Called before a run with what comes, and after it with its result."""


class MeasureError(Exception):
    """A stack doesn't do what is to be measured."""


class Bench:
    """Measures a plan, with an agent on either end."""

    def __init__(self, plan: Plan, web: Agent, load: Agent, tell: Tell) -> None:
        """Take what was planned, and look at the machines; `tell` learns of each run."""
        self.plan, self.web, self.load, self.tell = plan, web, load, tell
        self.machines = {"web": web.ask("facts"), "load": load.ask("facts")}
        booted = [int(machine["booted"]) for machine in self.machines.values()]
        self.same_machine = abs(booted[0] - booted[1]) < 2
        self.cores = int(self.machines["web"]["cores"])
        self.load_threads = plan.settings.load_threads or min(int(self.machines["load"]["cores"]), MOST_LOAD_THREADS)
        self.missing: list[str] = []
        self.answers: dict[str, str] = {}

    def run(self) -> Iterator[Run]:
        """Do all runs, round by round.

        Every other round goes through the stacks backwards: a machine that gets slower meanwhile then doesn't always
        cost the same ones.
        """
        for stack in self.plan.stacks:
            self.web.ask("systemctl", verb="stop", units=stack.units)
        for number in range(1, self.plan.settings.rounds + 1):
            stacks = self.plan.stacks if number % 2 else self.plan.stacks[::-1]
            for group in GROUPS:
                for stack in stacks:
                    wanted = [names for names in groups_of(stack, self.plan.settings.cases) if set(names) <= set(group)]
                    for names in wanted:
                        yield from self.up(stack, names, number)
        for stack in self.plan.stacks:
            if stack.name == OURS and "deploy" in self.plan.settings.cases:
                yield from self.deploy(stack)

    def up(self, stack: Stack, names: Sequence[str], number: int) -> Iterator[Run]:
        """Start a stack, measure some cases of it, and stop it."""
        self.web.ask("systemctl", verb="start", units=stack.units)
        try:
            self.wait_for(stack)
            if "slow" in names:
                yield self.beside_slow(stack, number)
            if CROWD in names:
                yield self.crowd(stack, number)
            cases = [CASE_BY_NAME[name] for name in names if name in CASE_BY_NAME]
            cases = [case for case in cases if self.answers_right(stack, case)]
            for case in cases[:1]:
                self.send(stack, case, 16, 1)  # Caches, lazy imports and threads: not counted.
            for connections in self.plan.settings.connections:
                for case in cases:
                    yield self.one(stack, case, connections, number)
        finally:
            self.web.ask("systemctl", verb="stop", units=stack.units)

    def one(self, stack: Stack, case: Case, connections: int, number: int) -> Run:
        """Measure one case at one number of connections."""
        self.tell(f"round {number}, {case.label}, {stack.label}, {connections} connections", None)
        time.sleep(BREATH)
        before = self.web.ask("cpu", units=stack.counted)
        begun = time.monotonic()
        # The connections are made first; how long that takes is no part of the rate.
        lead = 1 + (connections // HANDSHAKES if case.https and case.keep_alive else 0)
        result = self.send(stack, case, connections, self.plan.settings.seconds, lead)
        took = time.monotonic() - begun
        after = self.web.ask("cpu", units=stack.counted)
        used = {unit: round(after["seconds"][unit] - before["seconds"][unit], 2) for unit in stack.counted}
        known = sum(used.values()) + (result["load_cpu_s"] if self.same_machine else 0)
        others = max(after["machine"] - before["machine"] - known, 0) / (took * self.cores)
        run = {
            "round": number,
            "case": case.name,
            "stack": stack.name,
            "connections": connections,
            **result,
            "cpu_s": used,
            "others": round(others, 3),
            "memory_mb": self.web.ask("memory", units=stack.counted)["mb"],
        }
        self.tell("", run)
        return run

    def send(self, stack: Stack, case: Case, connections: int, seconds: int, lead: int = 0) -> dict[str, Any]:
        """Load a stack."""
        headers = self.headers(stack, case) | ({} if case.keep_alive else {"Connection": "close"})
        return self.load.ask(
            "wrk",
            url=self.url(stack, case),
            headers=headers,
            seconds=seconds,
            connections=connections,
            threads=self.load_threads,
            script=self.plan.load_script,
            post=case.post,
            lead=lead,
        )

    def beside_slow(self, stack: Stack, number: int) -> Run:
        """Measure fast requests while slow ones are in flight."""
        self.tell(f"round {number}, fast requests beside slow ones, {stack.label}", None)
        base = f"http://{self.plan.address}:{stack.port}"
        slow = 2 * self.cores
        result = self.load.ask(
            "steady",
            url=f"{base}/page",
            headers={"Host": stack.host},
            rate=FAST_RATE,
            seconds=self.plan.settings.slow_seconds,
            slow_url=f"{base}/slow?seconds=1",
            slow=slow,
            calm=CALM,
        )
        run = {"round": number, "case": "slow", "stack": stack.name, "slow": slow, "calm": CALM, **result}
        self.tell("", run)
        return run

    def crowd(self, stack: Stack, number: int) -> Run:
        """Have many connections come at once, ours by HTTPS as visitors do."""
        connections = self.plan.settings.crowd
        self.tell(f"round {number}, {connections} connections at once, {stack.label}", None)
        case = CASE_BY_NAME["https" if stack.name == OURS else "page"]
        result = self.load.ask(
            "crowd",
            url=self.url(stack, case),
            headers=self.headers(stack, case),
            connections=connections,
            rate=CROWD_RATE,
            seconds=self.plan.settings.seconds,
        )
        run = {"round": number, "case": CROWD, "stack": stack.name, "connections": connections, **result}
        self.tell("", run)
        return run

    def deploy(self, stack: Stack) -> Iterator[Run]:
        """Measure fast requests while a new release is made. Afterwards its unit serves, and not that of the plan.

        Raises:
            MeasureError: There is no new release.
        """
        self.tell(f"fast requests while {stack.label} is released anew", None)
        self.web.ask("systemctl", verb="start", units=stack.units)
        self.wait_for(stack)
        page = CASE_BY_NAME["page"]
        with ThreadPoolExecutor(1) as executor:
            asked = executor.submit(
                self.load.ask,
                "steady",
                url=self.url(stack, page),
                headers=self.headers(stack, page),
                rate=FAST_RATE,
                seconds=DEPLOY_SECONDS,
                until_told=True,
            )
            time.sleep(CALM)
            begun = time.monotonic()
            done = subprocess.run(self.plan.deploy, capture_output=True, text=True, check=False)
            seconds = time.monotonic() - begun
            time.sleep(AFTER)
            self.load.end_load()
            result = asked.result()
        if done.returncode:
            raise MeasureError(f"{' '.join(self.plan.deploy)} failed:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
        run = {"round": 1, "case": "deploy", "stack": stack.name, "calm": CALM, "deploy_s": round(seconds, 1), **result}
        self.tell("", run)
        if CALM + seconds < DEPLOY_SECONDS:
            yield run
        else:
            self.missing.append("deploy")  # the switch may have been after the last request

    def wait_for(self, stack: Stack) -> None:
        """Wait until a stack answers."""
        page = CASE_BY_NAME["page"]
        end = time.monotonic() + START_SECONDS
        while (found := self.ask(stack, page))["status"] != 200:
            if time.monotonic() > end:
                raise MeasureError(
                    f"{stack.label} doesn't answer {self.url(stack, page)} {START_SECONDS:g} s after its start: "
                    f"{found.get('error') or found['status']}. Its units: {' '.join(stack.units)}"
                )
            time.sleep(0.1)

    def answers_right(self, stack: Stack, case: Case) -> bool:
        """Whether a stack has a case, and answers it as the others do: else it would be fast for the wrong reason.

        Raises:
            MeasureError: It answers, and not what was asked for.
        """
        found = self.ask(stack, case)
        digest = found.get("digest", "")
        # The rows of the database page differ.
        expected = digest if case.name == "database" else self.answers.setdefault(case.path, digest)
        if found["status"] != 200 or digest != expected:
            raise MeasureError(
                f"{stack.label} answers {self.url(stack, case)} with {found.get('error') or found['status']} and "
                f"{found.get('length', 0)} bytes, which is not what the others do"
            )
        if case.name == "cached" and self.ask(stack, case)["made"] != found["made"]:
            if case.name not in self.missing:
                self.missing.append(case.name)
            return False
        return True

    def ask(self, stack: Stack, case: Case) -> dict[str, Any]:
        """Ask a stack once."""
        body = SAMPLE_POST if case.post else None
        headers = self.headers(stack, case) | ({"Content-Type": "application/json"} if case.post else {})
        return self.load.ask("get", url=self.url(stack, case), headers=headers, body=body)

    def url(self, stack: Stack, case: Case) -> str:
        """Return where a case of a stack is asked for: HTTPS always through the real site."""
        if case.https:
            return f"https://{self.plan.https_name}{case.path}"
        return f"http://{self.plan.address}:{stack.port}{case.path}"

    def headers(self, stack: Stack, case: Case) -> dict[str, str]:
        """Return the headers that lead to a stack."""
        return {} if case.https else {"Host": stack.host}
