"""How much a run of the playbooks asks of the hosts, counted in the records of the runs that came before.

Records are written by tests/callback_plugins/record.py. Counts and not seconds: they are the same on every machine.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

Record = list[dict[str, Any]]

IDEMPOTENT_RUN = 30  # tasks that reach a host
DEPLOY_WITHOUT_A_CHANGE = 10

NOT_PREDICTED = {
    "host : Kernel network limits are loaded": "a command: no check mode runs one, nor could it say what it would do",
}
"""Tasks that change something in a first run, although a check before it could not say so."""


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    """Read the records, in the order of the runs."""
    folder = os.environ.get("FLASK_ON_METAL_RECORDS", "")
    found = sorted(Path(folder).glob("*.json")) if folder else []
    if not found:
        pytest.skip("there are no records of runs: FLASK_ON_METAL_RECORDS names no folder that has some")
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}


@pytest.fixture(scope="module")
def runs(records: dict[str, Record]) -> dict[str, Record]:
    """Find the check of a clean host, the first run after it, and the second one."""
    whole = {name: record for name, record in records.items() if name.split("-", 2)[2] in ("site", "converge")}
    check = next((name for name in whole if name.split("-")[1] == "check"), None)
    real = [name for name in whole if name.split("-")[1] == "run" and (check is None or name > check)]
    if check is None or len(real) < 2:
        pytest.skip(f"the records are not those of check, first run, second run: {', '.join(records)}")
    return {"check": whole[check], "first": whole[real[0]], "second": whole[real[1]]}


def changes(record: Record) -> set[tuple[str, str]]:
    """List hosts and tasks that changed something, or would."""
    return {(entry["host"], entry["task"]) for entry in record if entry["changed"]}


def reached(record: Record) -> Counter[str]:
    """Count the tasks that reached each host."""
    return Counter(entry["host"] for entry in record if entry["reached"])


def test_check_of_a_clean_host_predicts_what_the_first_run_changes(runs):
    predicted, changed = changes(runs["check"]), changes(runs["first"])
    assert changed, "the first run was none"
    assert predicted - changed == set(), "predicted, and did not come"
    assert {task for _, task in changed - predicted} <= set(NOT_PREDICTED)


def test_second_run_changes_nothing(runs):
    assert changes(runs["second"]) == set()


def test_second_run_reaches_a_host_few_times(runs):
    counted = reached(runs["second"])
    assert counted
    assert max(counted.values()) <= IDEMPOTENT_RUN, counted


def test_no_task_of_any_run_failed(runs):
    for name, record in runs.items():
        assert [entry["task"] for entry in record if entry["failed"]] == [], name
