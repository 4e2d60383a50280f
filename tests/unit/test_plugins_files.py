"""Files on a host are whole or not there, check mode tells the truth, and a secret is never shown."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import filesystem

Run = Callable[..., dict[str, Any]]
ME = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
MINE = (os.getuid(), os.getgid())


def snapshot(folder: Path) -> dict[str, Any]:
    """Everything below a folder that a module could have changed."""
    return {
        str(path.relative_to(folder)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.lstat().st_mtime_ns,
            str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def wanted(tmp_path: Path) -> dict[str, Any]:
    """Ask for something of each kind, on a host that has some of it."""
    (tmp_path / "old").write_text("before\n")
    (tmp_path / "gone").write_text("x")
    (tmp_path / "wide").write_text("same\n")
    (tmp_path / "wide").chmod(0o666)
    (tmp_path / "link").symlink_to("there")
    return {
        "directories": [{"path": f"{tmp_path}/folder", "mode": "0750", **ME}],
        "files": [
            {"path": f"{tmp_path}/new", "content": "new\n", **ME},
            {"path": f"{tmp_path}/old", "content": "after\n", "mode": "0600", **ME},
            {"path": f"{tmp_path}/wide", "content": "same\n", **ME},
            {"path": f"{tmp_path}/crlf", "content": "one\r\ntwo\r\n", **ME},
        ],
        "links": {f"{tmp_path}/link": "elsewhere"},
        "absent": [f"{tmp_path}/gone", f"{tmp_path}/never"],
    }


def test_everything_is_as_asked_for_after_one_run_and_a_second_changes_nothing(
    run_module: Run, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    first = run_module("file_set", **wanted)
    assert first.get("failed") is not True, first
    assert sorted(Path(path).name for path in first["changed_paths"]) == [
        "crlf", "folder", "gone", "link", "new", "old", "wide",
    ]  # fmt: skip
    found = snapshot(tmp_path)
    assert {name: (oct(mode), what) for name, (mode, _, what) in found.items()} == {
        "crlf": ("0o644", b"one\r\ntwo\r\n"),
        "folder": ("0o750", None),
        "link": ("0o777", "elsewhere"),
        "new": ("0o644", b"new\n"),
        "old": ("0o600", b"after\n"),
        "wide": ("0o644", b"same\n"),
    }
    again = run_module("file_set", **wanted)
    assert not again["changed"], again["changed_paths"]
    assert snapshot(tmp_path) == found


def test_check_mode_changes_nothing_and_predicts_the_run(
    run_module: Run, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    before = snapshot(tmp_path)
    predicted = run_module("file_set", check=True, **wanted)
    assert snapshot(tmp_path) == before
    done = run_module("file_set", **wanted)
    assert predicted["changed"]
    assert predicted["changed_paths"] == done["changed_paths"]
    assert predicted["diff"] == done["diff"]


def test_check_mode_passes_where_an_earlier_task_would_have_made_account_and_folder(
    run_module: Run, tmp_path: Path
) -> None:
    path = f"{tmp_path}/not-yet/file"
    wanted = {"files": [{"path": path, "content": "x", "owner": "not-yet-made", "group": "not-yet-made"}]}
    assert run_module("file_set", check=True, **wanted)["changed_paths"] == [path]
    assert "no account not-yet-made" in run_module("file_set", **wanted)["msg"]


@pytest.mark.skipif(os.getuid() != 0, reason="a secret file is root's")
def test_a_secret_is_written_for_root_alone_and_never_shown(run_module: Run, tmp_path: Path) -> None:
    path = tmp_path / "environment"
    path.write_text("PASSWORD=old-canary\n")
    path.chmod(0o644)
    for check in (True, False):
        answer = run_module("file_set", check=check, secret_files={str(path): "PASSWORD=new-canary\n"})
        assert answer["changed"] is True
        assert "canary" not in json.dumps(answer)
    assert path.read_text() == "PASSWORD=new-canary\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("there", "wanted", "says"),
    [
        ("folder", {"files": [{"path": "x", "content": "", **ME}]}, "is to be a file"),
        ("link", {"files": [{"path": "x", "content": "", **ME}]}, "is to be a file"),
        ("file", {"directories": [{"path": "x", **ME}]}, "is to be a folder"),
        ("link", {"directories": [{"path": "x", **ME}]}, "is to be a folder"),
        ("file", {"links": {"x": "y"}}, "is to be a link"),
        ("folder", {"absent": ["x"]}, "is a folder"),
    ],
)
def test_what_is_something_else_is_never_replaced(
    run_module: Run, tmp_path: Path, there: str, wanted: dict[str, Any], says: str
) -> None:
    path = tmp_path / "x"
    make: dict[str, Callable[[], None]] = {
        "folder": path.mkdir,
        "file": path.touch,
        "link": lambda: path.symlink_to("nowhere"),
    }
    make[there]()
    absolute = json.loads(json.dumps(wanted).replace('"x"', json.dumps(str(path))))
    before = snapshot(tmp_path)
    answer = run_module("file_set", **absolute)
    assert answer["failed"] and str(path) in answer["msg"] and says in answer["msg"]
    assert snapshot(tmp_path) == before


def test_a_file_whose_folder_is_missing_is_named_in_the_error(run_module: Run, tmp_path: Path) -> None:
    answer = run_module("file_set", files=[{"path": f"{tmp_path}/a/b", "content": "x", **ME}])
    assert answer["failed"]
    assert f"{tmp_path}/a" in answer["msg"] and "No such file" in answer["msg"]


@pytest.mark.parametrize("call", ["fsync", "fchown", "fchmod"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        filesystem.write_atomically(path, "new", 0o644, *MINE)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_new_file_has_its_mode_before_it_has_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fdopen = os.fdopen

    def look(handle: int, *args: Any, **options: Any) -> Any:
        found = os.fstat(handle)
        seen.append((stat.S_IMODE(found.st_mode), found.st_size))
        return fdopen(handle, *args, **options)

    monkeypatch.setattr(os, "fdopen", look)
    filesystem.write_atomically(tmp_path / "secret", "canary", 0o600, *MINE)
    assert seen == [(0o600, 0)]


def test_a_link_names_the_old_or_the_new_target_at_every_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "current"
    filesystem.link_atomically(link, "one")
    (tmp_path / ".current.new").symlink_to("left by a run that was interrupted")
    targets = []
    replace = Path.replace

    def look(self: Path, target: Path) -> Path:
        targets.append(str(link.readlink()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look)
    filesystem.link_atomically(link, "two")
    assert targets == ["one"]
    assert str(link.readlink()) == "two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["current"]


def test_an_exclusive_folder_has_what_was_asked_for_and_nothing_else(run_module: Run, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    arguments = {
        "files": [{"path": f"{folder}/a.crt", "content": "a\n", **ME}],
        "links": {f"{folder}/b": "a.crt"},
        "exclusive": [str(folder), f"{tmp_path}/nowhere"],
    }
    folder.mkdir()
    (folder / "below").mkdir()
    (folder / "old.crt").write_text("old\n")
    (folder / "dangling").symlink_to("nowhere")
    before = snapshot(tmp_path)
    told = run_module("file_set", check=True, **arguments)["changed_paths"]
    assert snapshot(tmp_path) == before
    first = run_module("file_set", **arguments)
    assert sorted(Path(path).name for path in first["changed_paths"]) == ["a.crt", "b", "dangling", "old.crt"]
    assert sorted(told) == sorted(first["changed_paths"])
    assert sorted(path.name for path in folder.iterdir()) == ["a.crt", "b", "below"]
    assert run_module("file_set", **arguments)["changed"] is False
