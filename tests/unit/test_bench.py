"""The benchmark's arithmetic, its plan, its agent and its page, without a host."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from flask_on_metal.bench import agent, cli, measure, plan, plots, report, results, wire, work

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "src" / "flask_on_metal" / "bench"
NO_FAILURES = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}


def run(
    stack: str, rate: float, *, case: str = "page", connections: int = 64, number: int = 1, cpu: float = 1.0,
    failures: dict[str, int] | None = None, p99: float = 5.0, others: float = 0.01,
) -> dict[str, Any]:  # fmt: skip
    """Return a run of two seconds."""
    return {
        "round": number, "case": case, "stack": stack, "connections": connections,
        "seconds": 3.0, "requests": int(rate * 2), "steady": {"seconds": 2.0, "requests": int(rate * 2)}, "bytes": 1,
        "failures": NO_FAILURES | (failures or {}),
        "latency_ms": {"p50": 1.0, "p75": 2.0, "p90": 3.0, "p95": 4.0, "p99": p99, "p99.9": 9.0, "max": 10.0},
        "load_cpu_s": 1.0,
        "cpu_s": {"a.service": cpu / 2, "nginx.service": cpu / 2}, "memory_mb": 40.0, "others": others,
    }  # fmt: skip


def steady(stack: str, *points: tuple[float, float, bool], number: int = 1, case: str = "slow") -> dict[str, Any]:
    return {
        "round": number, "case": case, "stack": stack, "slow": 4, "calm": 1.0, "deploy_s": 2.0, "slow_answered": 9,
        "slow_failed": 1, "points": [list(point) for point in points],
    }  # fmt: skip


# --- figures of a run


def test_only_what_was_answered_well_counts_in_the_rate_and_the_cost() -> None:
    one = run("ours", 1000, failures={"status": 500, "timeout": 100, "read": 7, "connect": 3}, cpu=2.8)
    assert results.good(one) == 1400
    assert results.rate(one) == 700
    assert results.failed(one) == 610
    assert results.cpu_per_10k(one) == pytest.approx(20)


def test_the_rate_is_that_of_when_the_connections_were_made() -> None:
    one = run("ours", 1000, failures={"status": 1000}) | {"steady": {"seconds": 4.0, "requests": 6000}}
    assert results.rate(one) == 750  # 1,500/s were answered, half of them well
    assert results.rate(run("ours", 0)) == 0


def test_a_run_without_a_good_answer_has_no_cost() -> None:
    one = run("ours", 50, failures={"status": 100})
    assert (results.rate(one), results.cpu_per_10k(one)) == (0, None)
    assert results.figure("page", "ours", 64, [one]).cpu_s_per_10k is None


def test_medians_have_their_spread_and_failures_are_added_up() -> None:
    runs = [
        run("ours", 900, number=1, p99=7),
        run("ours", 1000, number=2, p99=5, failures={"read": 4}),
        run("ours", 1700, number=3, p99=30, failures={"status": 2}),
    ]
    (figure,) = results.figures(runs)
    assert figure.rate == results.Spread(1000, 900, 1699)
    assert figure.p99_ms == results.Spread(7, 5, 30)
    assert (figure.failed, figure.requests) == (6, 1800 + 2000 + 3400 + 4)
    assert figure.percentiles_ms["p50"] == 1.0


def test_stacks_cases_and_connections_are_kept_apart() -> None:
    runs = [run("ours", 1), run("ours", 2, connections=256), run("ours", 3, case="json"), run("granian", 4)]
    assert [(one.case, one.stack, one.connections) for one in results.figures(runs)] == [
        ("page", "ours", 64), ("page", "ours", 256), ("json", "ours", 64), ("page", "granian", 64),
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentiles_are_values_that_occurred(share: float, expected: int) -> None:
    assert results.percentile(range(100, 0, -1), share) == expected


def test_fast_requests_count_from_when_slow_ones_are_in_flight() -> None:
    calm, quick, given_up = (0.5, 900.0, True), (1.5, 2.0, True), (2.0, 5000.0, False)
    (figure,) = results.steady_figures([steady("ours", calm, quick, given_up)])
    assert (figure.fast, figure.failed, figure.slow, figure.slow_failed) == (2, 1, 4, 1)
    assert (figure.p50_ms.median, figure.p99_ms.median, figure.longest_ms) == (2.0, 5000.0, 5000.0)


# --- ratios


def test_ratios_are_medians_of_ratios_within_a_round() -> None:
    # The machine is twice as fast in the second round, and both sides of the ratio with it.
    runs = [
        run("ours", 1000, number=1), run("granian", 800, number=1),
        run("ours", 2000, number=2), run("granian", 1600, number=2),
        run("ours", 1000, number=3), run("granian", 1000, number=3),
    ]  # fmt: skip
    assert results.ratios(runs)["uncached_vs_granian"] == {"64": results.Spread(1.25, 1.0, 1.25)}


def test_of_two_gunicorns_the_better_one_is_compared_with_at_each_level() -> None:
    runs = [
        run("ours", 1000), run("gunicorn_sync", 500), run("gunicorn_threads", 250),
        run("ours", 1000, connections=256), run("gunicorn_sync", 100), run("gunicorn_threads", 400, connections=256),
    ]  # fmt: skip
    found = results.summary([one for one in runs if one["requests"] != 200])["ratios"]
    assert found == {"uncached_vs_gunicorn": {"64": 2.0, "256": 2.5}}


def test_each_ratio_is_there_for_the_levels_that_were_measured_and_no_other() -> None:
    levels = [64, 256, 1000]
    runs = []
    for level in levels:
        runs += [run(name, 100, connections=level) for name in ("granian", "gunicorn_sync", "flask_threaded")]
        runs += [run("ours", 600, connections=level), run("ours", 300, case="https", connections=level)]
        runs += [run(name, 50, case="post", connections=level) for name in ("ours", "granian")]
        runs += [run("ours", 5000, case="static", connections=level)]
    found = results.summary(runs)["ratios"]
    assert set(found) == set(results.RATIOS) - {"cached_vs_static"}
    assert all(list(one) == ["64", "256", "1000"] for one in found.values())
    assert found["https_vs_http"]["1000"] == 0.5
    runs += [run("ours", 4500, case="cached", connections=level) for level in levels]
    assert results.summary(runs)["ratios"]["cached_vs_static"]["256"] == 0.9


def test_costs_are_compared_with_the_cheaper() -> None:
    runs = [run("ours", 1000, cpu=2), run("granian", 1000, cpu=1)]
    assert results.summary(runs)["cpu_ratios"]["uncached_vs_granian"] == {"64": 2.0}


# --- the plan


def written_plan(folder: Path, **settings: object) -> Path:
    wanted = {
        "rounds": 2, "seconds": 1, "connections": ["256", 64, 64], "cases": [], "stacks": [], "slow_seconds": 5,
        "load_threads": 0, "crowd": 1000,
    }  # fmt: skip
    stack = {"units": ["x.service"], "counted": ["x.service"], "port": "8080", "host": "x", "about": ""}
    agent_command = f"{sys.executable} '{BENCH / 'agent.py'}'"
    raw = {
        "settings": wanted | settings,
        "stacks": [{**stack, "name": name, "label": name.title()} for name in ("granian", "ours")],
        "address": "127.0.0.1", "https_name": "127.0.0.1", "web": agent_command, "load": agent_command,
        "load_name": "localhost", "load_script": str(BENCH / "wrk.lua"), "deploy": "true",
        "lock": "flask==3.1.3 \\\n    --hash=sha256:0\nclick==8 \\\ngranian==2.8.7 \\\n",
    }  # fmt: skip
    path = folder / "plan.json"
    path.write_text(json.dumps(raw))
    return path


def test_a_plan_is_read(tmp_path: Path) -> None:
    read = plan.read(written_plan(tmp_path))
    assert read.settings.connections == (64, 256)
    assert read.settings.cases == plan.CASE_NAMES
    assert read.versions == {"flask": "3.1.3", "granian": "2.8.7"}
    assert read.web == (sys.executable, str(BENCH / "agent.py"))
    # Twice: granian with four cases at two levels, slow and crowd, ours with eight and those two. Once: a deploy.
    assert plan.run_count(read) == 2 * (2 * 4 + 2 + 2 * 8 + 2) + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cases": ["pages"]}, "there is no case pages; there are: page"),
        ({"stacks": ["grain"]}, "there is no stack grain; there are: granian, ours"),
        ({"rounds": 0}, "at least 1"),
    ],
)
def test_a_plan_that_asks_for_what_there_is_not_is_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(plan.PlanError, match=message):
        plan.read(written_plan(tmp_path, **settings))


def test_every_case_belongs_to_one_group_and_ours_has_them_all(tmp_path: Path) -> None:
    assert sorted(name for group in plan.GROUPS for name in group) == sorted({*plan.CASE_NAMES} - {"deploy"})
    granian, ours = plan.read(written_plan(tmp_path)).stacks
    assert plan.groups_of(ours, plan.CASE_NAMES) == list(plan.GROUPS)
    assert plan.groups_of(granian, ("page", "https", "post")) == [("page",), ("post",)]


# --- the agents


class Answers(BaseHTTPRequestHandler):
    """Answers as the benchmark's app does."""

    # ruff: noqa: D102

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", "5")
        self.send_header("X-Made", "now")
        self.end_headers()
        self.wfile.write(b"hello")

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Server)
        self.server.posts.append(json.loads(text))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Keeps the posts, and says nothing of clients that go away, as a load generator's do at its end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.posts: list[dict[str, Any]] = []

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_an_agent_answers_line_by_line_and_an_error_is_an_answer() -> None:
    one = wire.Agent("here", [sys.executable, str(BENCH / "agent.py")])
    try:
        facts = one.ask("facts")
        assert facts["cores"] >= 1
        assert facts["booted"] > 0
        with pytest.raises(wire.AgentError, match="here: nonsense: KeyError"):
            one.ask("nonsense")
        cpu = one.ask("cpu", units=["none.service"])
        assert cpu["seconds"] == {"none.service": 0}
        assert cpu["machine"] > 0
    finally:
        one.close()


def test_an_agent_that_cannot_be_started_is_named() -> None:
    one = wire.Agent("far-away", [sys.executable, "-c", "raise SystemExit('no way')"])
    with pytest.raises(wire.AgentError, match="far-away"):
        one.ask("facts")
        one.ask("facts")
    one.close()


def test_cpu_seconds_are_read_from_stat_whatever_the_process_is_called() -> None:
    stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 " + "100 50 20 30 " + "20 0 1 0"
    assert agent.stat_seconds(stat) == pytest.approx(200 / agent.TICKS)


def test_asking_once_tells_what_came_back(url: str) -> None:
    found = agent.get(f"{url}/page", {})
    assert (found["status"], found["length"], found["made"]) == (200, 5, "now")
    assert agent.get("http://127.0.0.1:9/", {})["status"] == 0


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed: bin/setup --tests")
def test_wrk_reports_its_figures_and_failures_and_its_posts_differ(server: Server, url: str) -> None:
    script = str(BENCH / "wrk.lua")
    found = agent.wrk(f"{url}/page", {"Host": "x"}, 1, 2, 1, script)
    assert found["requests"] > 10
    assert found["failures"] == NO_FAILURES
    assert list(found["latency_ms"]) == ["p50", "p75", "p90", "p95", "p99", "p99.9", "max"]
    assert found["seconds"] == pytest.approx(1, abs=0.5)
    missing = agent.wrk(f"{url}/missing", {}, 1, 2, 1, script)
    assert missing["failures"]["status"] == missing["requests"] > 10
    posts = agent.wrk(f"{url}/post", {"X-Own": "kept"}, 1, 4, 2, script, post=True, lead=1)
    assert posts["seconds"] == pytest.approx(2, abs=0.5)
    assert posts["steady"]["seconds"] == pytest.approx(1, abs=0.5)
    assert 0 < posts["steady"]["requests"] < posts["requests"]
    ids = [document["id"] for document in server.posts]
    assert len(ids) == len(set(ids)) > 10


def test_requests_at_a_fixed_rate_are_timed_from_when_they_were_due(url: str) -> None:
    found = agent.steady(f"{url}/page", {"Host": "x"}, 50, 1.0, f"{url}/slow", 2, 0.5)
    assert [due for due, _, _ in found["points"]] == pytest.approx([number / 50 for number in range(50)])
    assert all(well and spent > 0 for _, spent, well in found["points"])
    assert found["slow_answered"] >= 2
    assert found["slow_failed"] == 0


def test_a_steady_load_ends_when_it_is_told_to_and_the_agent_goes_on(url: str) -> None:
    asked = wire.Agent("here", [sys.executable, str(BENCH / "agent.py")])
    with contextlib.closing(asked), ThreadPoolExecutor() as pool:
        load = pool.submit(
            asked.ask, "steady", url=f"{url}/page", headers={"Host": "x"}, rate=50, seconds=60, until_told=True
        )
        time.sleep(1)
        asked.end_load()
        points = load.result(timeout=10)["points"]
        assert 1 < len(points) < 500
        assert all(well for _, _, well in points)
        assert asked.ask("facts")["cores"] > 0


def test_connections_that_come_at_once_are_told_apart_from_requests_over_them(url: str) -> None:
    found = agent.crowd(f"{url}/page", {"Host": "x"}, 20, 50, 1.0)
    assert len(found["made"]) == 20 and min(found["made"]) > 0
    assert [due for due, _, _ in found["points"]] == pytest.approx([number / 50 for number in range(50)])
    assert all(well for _, _, well in found["points"])
    nobody = agent.crowd("http://127.0.0.1:9/page", {}, 5, 50, 1.0)
    assert nobody == {"made": [], "points": []}


def test_figures_of_a_crowd_count_who_was_lost_and_who_was_late() -> None:
    first = {"case": "crowd", "stack": "ours", "connections": 4, "made": [10.0, 20.0, 2500.0]}
    second = first | {"made": [10.0, 20.0, 30.0, 40.0], "points": [(0.0, 3.0, True), (0.1, 2000.0, False)]}
    found = results.crowd_figures([first | {"points": [(0.0, 5.0, True)]}, second, run("ours", 1000)])
    assert [(one.stack, one.connections, one.lost, one.late) for one in found] == [("ours", 4, 1, 1)]
    assert (found[0].connect_longest_ms, found[0].requests, found[0].failed, found[0].longest_ms) == (2500, 3, 1, 2000)
    assert results.figures([first | {"points": []}]) == []


# --- the order of the runs


class FakeAgent:
    """An agent whose stacks answer at once."""

    # ruff: noqa: D107

    def __init__(self, answers: dict[str, str] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((do, arguments))
        if do == "get":
            return {
                "status": 200,
                "digest": self.answers.get(arguments["headers"].get("Host", ""), "same"),
                "made": "1",
            }
        answers: dict[str, dict[str, Any]] = {
            "facts": {"cores": 2, "booted": 1000},
            "cpu": {"seconds": {"x.service": 1.0}, "machine": 5.0},
            "memory": {"mb": 10},
            "wrk": {"requests": 100, "failures": NO_FAILURES, "latency_ms": {"p99": 1.0}, "load_cpu_s": 0.1},
            "steady": {"points": [[1.5, 1.0, True]], "slow_answered": 1, "slow_failed": 0},
            "crowd": {"made": [1.0, 2.0], "points": [[0.5, 1.0, True]]},
        }
        return answers.get(do, {})


def bench(tmp_path: Path, load: FakeAgent, **settings: object) -> tuple[measure.Bench, FakeAgent]:
    web = FakeAgent()
    read = plan.read(written_plan(tmp_path, **settings))
    return measure.Bench(read, web, load, lambda text, run: None), web  # type: ignore[arg-type]


def test_stacks_take_turns_and_every_other_round_goes_backwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "BREATH", 0)
    one, web = bench(tmp_path, FakeAgent(), cases=["page", "slow", "crowd"], connections=[64])
    runs = list(one.run())
    assert [(run["round"], run["case"], run["stack"]) for run in runs] == [
        (1, "page", "granian"), (1, "page", "ours"), (1, "slow", "granian"), (1, "slow", "ours"),
        (1, "crowd", "granian"), (1, "crowd", "ours"), (2, "page", "ours"), (2, "page", "granian"),
        (2, "slow", "ours"), (2, "slow", "granian"), (2, "crowd", "ours"), (2, "crowd", "granian"),
    ]  # fmt: skip
    assert len(runs) == plan.run_count(one.plan)
    verbs = [arguments["verb"] for do, arguments in web.asked if do == "systemctl"]
    assert verbs == ["stop", "stop"] + ["start", "stop"] * 12


def test_a_stack_that_answers_something_else_is_not_measured(tmp_path: Path) -> None:
    one, web = bench(tmp_path, FakeAgent(), cases=["page"])
    one.answers["/page"] = "other"
    with pytest.raises(measure.MeasureError, match=r"Granian answers http://127\.0\.0\.1:8080/page with 200"):
        list(one.run())
    assert [do for do, _ in web.asked][-1] == "systemctl", "it is stopped all the same"


@pytest.mark.parametrize("made", ["same", "different"])
def test_a_cache_is_measured_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str) -> None:
    monkeypatch.setattr(measure, "BREATH", 0)
    load = FakeAgent()
    asked = load.ask
    count = iter(range(10**6))

    def ask(do: str, **arguments: Any) -> dict[str, Any]:
        found = asked(do, **arguments)
        return found | {"made": str(next(count)) if made == "different" else "1"} if do == "get" else found

    monkeypatch.setattr(load, "ask", ask)
    one, _ = bench(tmp_path, load, cases=["cached"], rounds=1)
    assert len(list(one.run())) == (2 if made == "same" else 0)
    assert one.missing == ([] if made == "same" else ["cached"])


# --- the page


def result_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {"system": "Debian <13>", "kernel": "6", "cores": 2, "cpu": "CPU", "memory_mb": 4096, "load_average": 0.1}
    names = list(dict.fromkeys(run["stack"] for run in runs))
    return {
        "started": "2026-01-01T00:00:00+00:00", "machines": {"web": machine, "load": machine}, "same_machine": True,
        "settings": {"rounds": 2, "seconds": 2, "connections": [64, 256], "slow_seconds": 5.0},
        "load_on": "localhost", "versions": {"flask": "3.1.3", "wrk": ""}, "missing": ["cached"], "problem": "",
        "stacks": [{"name": name, "label": f"{name} & more", "about": "x"} for name in names],
        "runs": runs, **results.summary(runs),
    }  # fmt: skip


def test_the_page_holds_everything_in_itself(tmp_path: Path) -> None:
    runs = [
        run(name, rate, connections=level, number=number)
        for name, rate in (("granian", 900), ("ours", 1000)) for level in (64, 256) for number in (1, 2)
    ]  # fmt: skip
    runs[0]["failures"] = NO_FAILURES | {"read": 18}
    runs[1]["others"] = 0.42
    runs += [run("ours", 9000, case="static")]
    runs += [steady("ours", (0.5, 1, True), (1.5, 2, True), (1.6, 5000, False))]
    runs += [steady("ours", (0.5, 1, True), (1.5, 2, True), case="deploy")]
    (tmp_path / "results.json").write_text(json.dumps(result_of(runs)))
    cli.make_report(tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "rate.png", "own.png", "latency.png", "slow.png", "deploy.png", "cpu.png",
    }  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 6
    assert "http://" not in page
    assert "https://" not in page
    assert "Debian &lt;13&gt;" in page
    assert '<span class="failed">18 (0.5 %)</span>' in page
    assert "1.11" in page
    assert "There was no cache" in page
    assert "up to 42 %" in page


def test_a_page_of_few_figures_leaves_out_the_rest(tmp_path: Path) -> None:
    result = result_of([run("flask_threaded", 10, connections=64)])
    assert set(plots.draw(result, tmp_path)) == {"rate", "latency", "cpu"}
    page = report.page(result, {})
    assert "<h2>Ratios" not in page
    assert "slow requests do" not in page


def test_help_is_the_head_of_the_script_and_names_all_cases_and_stacks() -> None:
    shown = subprocess.run([ROOT / "bin" / "bench", "--help"], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("The same load on")
    assert "--keep" in shown
    assert ", ".join(plan.CASE_NAMES) in shown
    spec = yaml.safe_load((ROOT / "roles/benchmark/meta/argument_specs.yml").read_text())
    assert spec["argument_specs"]["main"]["options"]["benchmark_cases"]["choices"] == list(plan.CASE_NAMES)
    stacks = (ROOT / "roles/benchmark/vars/main.yml").read_text()
    for name in [line.partition("name: ")[2] for line in stacks.splitlines() if line.startswith("  - name: ")]:
        assert name in shown


def test_a_benchmark_that_ends_early_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def runs(_: measure.Bench) -> Iterator[dict[str, Any]]:
        yield run("ours", 1000)
        raise measure.MeasureError("granian went away")

    monkeypatch.setattr(measure.Bench, "run", runs)
    assert cli.main(["measure", str(written_plan(tmp_path)), str(tmp_path / "out")]) == 1
    assert "it ended early" in capsys.readouterr().err
    assert "granian went away" in (tmp_path / "out" / "report.html").read_text()
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["runs"]) == 1


# --- the operator's own work


SAID = """
PLAY RECAP *********************************************************************
web1                       : ok=51   changed=2    unreachable=0    failed=0    skipped=15   rescued=0    ignored=0
web2.example.org           : ok=51   changed=1    unreachable=0    failed=0    skipped=15   rescued=0    ignored=0


TASKS RECAP ********************************************************************
Wednesday 25 November 2026  22:26:16 +0000 (0:00:34.822)       0:00:34.822 ****
===============================================================================
host : Packages that every server needs are installed ------------------- 5.83s
host : Firewall and sshd are as wanted, and a new connection proved that the way in is open --- 1.79s
Releases ---------------------------------------------------------------- 0.10s
Releases ---------------------------------------------------------------- 0.05s
"""


def test_tasks_and_changes_are_read_from_what_ansible_says() -> None:
    assert work.task_seconds(SAID) == {
        "host : Packages that every server needs are installed": 5.83,
        "host : Firewall and sshd are as wanted, and a new connection proved that the way in is open": 1.79,
        "Releases": pytest.approx(0.15),
    }
    assert work.changed(SAID) == 3


def test_slowest_tasks_are_those_of_the_median() -> None:
    outcome = work.Outcome(work.steps(3)[1], 1)
    outcome.tasks.update({"even": [2.0, 2.0, 2.0], "once": [9.0, 1.0, 1.0], "never": [0.1, 0.1, 0.1]})
    assert outcome.slowest(2) == [("even", 2.0), ("once", 1.0)]


def test_what_ansible_really_says_is_read_whatever_colours_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_FORCE_COLOR", "1")
    # More than are listed by default.
    tasks: list[dict[str, Any]] = [{"name": f"Look {n}", "ansible.builtin.debug": {"msg": n}} for n in range(6)]
    tasks.append({"name": "Change", "ansible.builtin.command": "true"})
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", str(tmp_path / "play.yml")],
        cwd=ROOT, env=work.surroundings(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert work.changed(done.stdout) == 1
    assert set(work.task_seconds(done.stdout)) == {task["name"] for task in tasks}


def test_hosts_are_those_of_the_group_web(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(
        "web: {hosts: {web1: {}, web2.example.org: {}}}\ndatabase: {hosts: {db1: {}}}\n"
    )
    assert work.hosts_of(tmp_path) == ["web1", "web2.example.org"]


def test_work_is_refused_without_a_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hosts.yml").write_text("web: {hosts: {}}\n")
    assert cli.main(["ansible", str(tmp_path), str(tmp_path)]) == 1
    assert "has no host in the group web" in capsys.readouterr().err
