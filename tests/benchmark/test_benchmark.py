"""A benchmark measures every stack, and leaves the host as it found it, whatever became of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Ansible, Promised, as_root
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

FULL = bool(os.environ.get("FLASK_ON_METAL_FULL"))

EVERY_STACK = [
    "flask_threaded",
    "flask_single",
    "gunicorn_sync",
    "gunicorn_threads",
    "granian",
    "granian_keepalive",
    "uwsgi_stock",
    "ours",
]
# The short form proves that servers are measured and compared, and how they are run is data: two do.
STACKS = EVERY_STACK if FULL else ["granian", "ours"]
# Of every stack, the first; the last two take a third of a minute for each stack.
OF_EVERY_STACK = ["page", "post", "slow", "crowd"] if FULL else ["page", "crowd"]
OF_OURS = ["https", "static", "deploy"]
# All at once; where they stand, none may be without an answer.
CROWD = 1000 if FULL else 200

STATE = r"""
cat /etc/nginx/sites/*.conf
ls /opt /run/systemd/system /run
ss -Hltn | awk '{print $4}' | sort
systemctl list-units --type=service --state=running --plain --no-legend 'fom-bench*' nginx.service
ps -eo user,args | grep -E 'gunicorn|granian|flask' | grep -v grep || true
"""


def served_by(host: Host) -> str:
    return as_root(host, 'systemctl is-active "bench@$(basename "$(readlink -f /srv/bench/current)").service"').strip()


def test_every_stack_is_measured_and_nothing_is_left(
    ansible: Ansible, host: Host, promised: Promised, tmp_path: Path
) -> None:
    before = as_root(host, STATE)
    run = ansible.playbook(
        "playbooks/benchmark.yml",
        variables={
            "benchmark_rounds": 1, "benchmark_seconds": 1, "benchmark_slow_seconds": 3, "benchmark_connections": [4],
            "benchmark_cases": OF_EVERY_STACK + OF_OURS, "benchmark_output": str(tmp_path),
            "benchmark_stacks": STACKS, "benchmark_crowd": CROWD,
        },
        timeout=900,
    )  # fmt: skip
    assert run.status == 0, run.output
    result = json.loads((tmp_path / "results.json").read_text())
    measured = {(one["case"], one["stack"]) for one in result["runs"]}
    expected = {(case, stack) for case in OF_EVERY_STACK for stack in STACKS}
    assert measured == expected | {(case, "ours") for case in OF_OURS}
    assert [one for one in result["figures"] if one["failed"]] == []
    for one in result["crowds"]:
        assert one["connections"] == CROWD
        assert (one["lost"], one["failed"]) == (0, 0), one
        assert one["requests"] >= 200
    assert {one["stack"] for one in result["crowds"]} == set(STACKS)
    assert all(one["cpu_s_per_10k"]["median"] > 0 for one in result["figures"]), "a stack's processes were not found"
    ratios = {"uncached_vs_granian", "https_vs_http"}
    if FULL:
        ratios |= {"uncached_vs_gunicorn", "uncached_vs_flask", "post_vs_granian"}
    assert set(result["ratios"]) == ratios
    assert result["load_on"] == "loading"
    pictures = {"rate.png", "own.png", "latency.png", "deploy.png", "cpu.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == pictures | (
        {"slow.png"} if "slow" in OF_EVERY_STACK else set()
    )
    assert "<h2>A new release under load" in (tmp_path / "report.html").read_text()
    assert as_root(host, STATE) == before
    assert served_by(host) == "active"


def test_a_benchmark_that_fails_leaves_nothing_either(ansible: Ansible, host: Host, tmp_path: Path) -> None:
    before = as_root(host, STATE)
    run = ansible.playbook(
        "playbooks/benchmark.yml",
        variables={"benchmark_stacks": ["nobody"], "benchmark_output": str(tmp_path)},
        # The benchmark by itself: site.yml has had its turn before the other test.
        environment={"ANSIBLE_RUN_TAGS": "benchmark"},
        timeout=300,
    )
    assert run.status != 0
    assert "there is no stack nobody; there are: flask_threaded" in run.output
    assert as_root(host, STATE) == before
    assert served_by(host) == "active"


@pytest.mark.full_matrix  # a minute and a half
def test_the_operators_own_work_is_measured(ansible: Ansible, host: Host, tmp_path: Path) -> None:
    # Molecule puts one of its own before the scenario's.
    inventory = (ansible.inventory or os.environ["ANSIBLE_INVENTORY"]).split(",")[-1]
    done = subprocess.run(
        [sys.executable, "-m", "flask_on_metal.bench", "ansible", inventory, str(tmp_path), "--rounds", "1"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((tmp_path / "ansible.json").read_text())["steps"]
    assert [one["step"]["playbook"] for one in steps] == ["site.yml", "site.yml", "deploy.yml", "rollback.yml"]
    for one in steps:
        (seconds,) = one["seconds"]
        assert sum(sum(found) for found in one["tasks"].values()) < seconds
    assert "flask_app : Drain | old instance has answered all and stopped" in steps[2]["tasks"]
    assert served_by(host) == "active"
