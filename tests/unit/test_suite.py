"""bin/test ends a part whose time is over, with all that it started, and says what each part took."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from flask_on_metal import suite

CLOSED = ["5 passed, 1 skipped in 2.00s", "7 passed in 63.10s (0:01:03)"]


def outcome(part: str, seconds: float = 10, state: str = "passed") -> suite.Outcome:
    return suite.Outcome(part, state, seconds, 100, CLOSED)


def alive(marker: str) -> bool:
    """Tell whether a process has a word in its arguments."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in path.read_bytes().decode(errors="replace").split("\0"):
                return True
        except OSError:
            continue
    return False


def test_command_within_its_time_tells_its_status_and_leaves_its_output(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    assert suite.run(["sh", "-c", "echo said; echo wrong >&2; exit 3"], log, time.monotonic() + 20) == 3
    assert log.read_text() == "before\nsaid\nwrong\n"


def test_command_whose_time_is_over_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    # A number of seconds that no other process sleeps.
    begin, marker = time.monotonic(), f"300.{time.monotonic_ns()}"
    status = suite.run(["sh", "-c", f"sleep {marker} & sleep {marker}"], tmp_path / "log", begin + 0.5)
    assert status is None
    assert time.monotonic() - begin < 20
    assert not alive(marker)


def test_part_that_is_out_of_time_is_no_failure_of_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "LOGS", tmp_path)
    monkeypatch.setattr(
        suite, "LINT", (("sh", "-c", "echo '1 passed in 0.10s'"), ("sleep", "60"), ("touch", tmp_path / "next"))
    )
    found = suite.try_part("lint", False, 0.5)
    assert (found.state, found.tests, found.closing) == ("out of time", 1, ["1 passed in 0.10s"])
    assert found.share >= 1
    assert not (tmp_path / "next").exists()


def test_closing_lines_are_found_wherever_ansible_put_them_and_once() -> None:
    text = (
        "\x1b[32mok: [localhost] => {\n    ======= 5 passed, 1 skipped in 2.00s =======\x1b[0m\n"
        "======= 5 passed, 1 skipped in 2.00s =======\n== 1 failed, 3 passed in 63.10s (0:01:03) ==\n"
        "tests/a.py::test_3_passed PASSED\n"
    )
    assert suite.closing_lines(text) == [
        "======= 5 passed, 1 skipped in 2.00s =======",
        "== 1 failed, 3 passed in 63.10s (0:01:03) ==",
    ]


def test_parts_stop_at_the_first_that_fails_and_closing_lines_come_last(capsys: pytest.CaptureFixture[str]) -> None:
    states = {"lint": "passed", "unit": "failed", "default": "passed"}
    tried = []

    def trying(parts: Sequence[str], full: bool, limits: Sequence[float]) -> list[suite.Outcome]:
        tried.append((*parts, *limits))
        return [outcome(part, state=states[part]) for part in parts]

    assert suite.suite(states, False, 2, trying) == 1
    assert tried == [("lint", "unit", 2 * suite.USUAL["lint"][0], 2 * suite.USUAL["unit"][0])]
    said = capsys.readouterr().out
    assert "bin/test: unit failed; its output is in build/test/unit.log" in said
    assert said.endswith("\n".join(CLOSED) + "\n")
    assert suite.suite(["lint"], True, 2, trying) == 0
    assert "=== passed: lint\n" in capsys.readouterr().out


def test_table_counts_tests_and_names_the_part_that_is_nearest_to_its_limit() -> None:
    parts = [outcome("lint"), outcome("release", 90, "out of time"), outcome("unit", 20)]
    lines = suite.table(parts, 110).splitlines()
    assert lines[2].split() == ["release", "12", "90", "100", "90%", "out", "of", "time"]
    assert lines[4].split() == ["all", "36", "110"]
    assert "release would be the first out of time" in lines[5] and "90%" in lines[5]


def test_parts_that_have_no_host_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suite.side_by_side(["lint", "unit", "release", "lint"]) == [["lint", "unit"], ["release"], ["lint"]]
    monkeypatch.setattr(suite, "LOGS", tmp_path)
    # Neither would end without the other.
    meet = 'mkfifo "$0" 2>/dev/null; if [ "$1" = in ]; then echo met >"$0"; else cat "$0"; fi; echo "$1 has ended"'
    for name, way in (("LINT", "in"), ("UNIT", "out")):
        monkeypatch.setattr(suite, name, (("bash", "-c", meet, str(tmp_path / "fifo"), way),))
    done = suite.try_all(["lint", "unit"], False, [20, 20])
    assert [(one.part, one.state) for one in done] == [("lint", "passed"), ("unit", "passed")]
    said = capsys.readouterr().out
    assert said.index("in has ended") < said.index("met") < said.index("out has ended")


def test_interrupt_ends_the_parts_that_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "LOGS", tmp_path)
    begin, marker = time.monotonic(), f"300.{time.monotonic_ns()}"
    monkeypatch.setattr(suite, "LINT", (("sleep", marker),))
    monkeypatch.setattr(suite, "UNIT", (("sleep", marker), ("touch", str(tmp_path / "next"))))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            suite.try_all(["lint", "unit"], False, [60, 60])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begin < 20
    assert not alive(marker)
    assert not (tmp_path / "next").exists()


def test_layers_are_made_before_the_first_scenario_that_begins_with_one() -> None:
    assert list(suite.with_layer(["lint", "default", "release", "security"], wanted=True)) == [
        "lint", "default", "layer", "release", "security"
    ]  # fmt: skip
    assert list(suite.with_layer(["default", "unit"], wanted=True)) == ["default", "unit"]
    assert list(suite.with_layer(["release"], wanted=False)) == ["release"]


def test_name_of_a_layer_follows_from_what_a_host_is_made_with(tmp_path: Path) -> None:
    for name in suite.CONVERGED:
        path = tmp_path / name if "." in name else tmp_path / name / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first\n")
    names = [suite.layer_name(tmp_path)]
    (tmp_path / "roles/__pycache__").mkdir()
    (tmp_path / "roles/__pycache__/file.pyc").write_text("compiled\n")
    assert suite.layer_name(tmp_path) == names[0]
    for name in suite.CONVERGED:
        (tmp_path / name if "." in name else tmp_path / name / "file").write_text("second\n")
        names.append(suite.layer_name(tmp_path))
    assert len(set(names)) == len(names)


def test_layer_is_used_while_it_is_young_and_its_tree_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tree, records = tmp_path / "tree", []
    tree.mkdir()
    for release in ("bookworm", "trixie"):
        assert not suite.has_layers("0123abcd")
        records.append(tmp_path / "flask-on-metal" / "layers" / f"{release}-0123abcd" / "layer.json")
        records[-1].parent.mkdir(parents=True)
        records[-1].write_text(json.dumps({"tree": str(tree)}))
    assert suite.has_layers("0123abcd")
    old = time.time() - (suite.LAYER_DAYS + 1) * 86400
    os.utime(records[0], (old, old))
    assert not suite.has_layers("0123abcd")
    os.utime(records[0])
    tree.rmdir()
    assert not suite.has_layers("0123abcd")


def test_full_matrix_has_check_mode_where_the_short_form_leaves_it_to_another_scenario() -> None:
    words = ("molecule", "check", "--no-command-borders", "-s", "database")
    assert words in suite.commands("database", True)
    assert words not in suite.commands("database", False)


def test_every_part_has_its_usual_time() -> None:
    assert set(suite.USUAL) == {"lint", "unit", "layer", *suite.scenarios()}
