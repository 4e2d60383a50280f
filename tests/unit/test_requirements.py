"""What in a requirements file would run code of others is found, by uv's own reading of such files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.release_source import Source, SourceError
from ansible.module_utils.requirements import included, problems

UV = Path(sys.executable).with_name("uv")


def found(**files: str) -> list[str]:
    """Problems of files, of which the first is the one that the app names; __ in a name is a slash."""
    texts = {name.replace("__", "/") + ".txt": text for name, text in files.items()}
    return [str(problem) for problem in problems(next(iter(texts)), texts.get)]


NO_BINARY = {
    "alone": "--no-binary evil",
    "all": "--no-binary :all:",
    "equals": "--no-binary=evil",
    "blanks before": "   --no-binary evil",
    "comment behind": "--no-binary evil  # it has no wheel",
    "after a hash": "x==1 --hash=sha256:00 --no-binary evil",
    "after a carriage return": "# x\r--no-binary evil",
    "after a comment that ends in a backslash": "# x \\\n--no-binary evil",
    "after a byte order mark": "\ufeff--no-binary evil",
    "after a hash that looks like a comment": "x==1 --hash=sha256:00#--no-binary evil",
}


@pytest.mark.parametrize("text", NO_BINARY.values(), ids=NO_BINARY.keys())
def test_a_line_that_overrides_no_build_is_found(text: str) -> None:
    (problem,) = found(requirements=text)
    line = len(text.replace("\r", "\n").split("\n"))
    assert problem.startswith(f"requirements.txt, line {line}: --no-binary would build a package")


def built(folder: Path, text: str) -> bool:
    """Whether uv, told not to build, runs the code of a package in the folder evil."""
    evil = folder / "evil"
    evil.mkdir(exist_ok=True)
    (evil / "backend.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    (evil / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "evil"\ndynamic = ["version"]\n'
    )
    (folder / "requirements.txt").write_text(f"{text}\n./evil\n", newline="")
    subprocess.run(
        [UV, "pip", "compile", "--quiet", "--offline", "--no-build", "--python", sys.executable, "requirements.txt"],
        env={"PATH": os.environ["PATH"], "UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(folder / "cache")},
        cwd=folder,
        capture_output=True,
        check=False,
    )
    return (evil / "ran").exists()


@pytest.mark.skipif(not UV.exists(), reason="uv is not beside this Python")
@pytest.mark.parametrize("name", ["alone", "after a hash", "after a carriage return"])
def test_uv_runs_what_is_looked_for(name: str, tmp_path: Path) -> None:
    assert built(tmp_path, NO_BINARY[name])


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "-e ./app",
        "-e./app",
        "--editable app",
        "--editable=app",
        "x==1 --hash=sha256:00 -e ./app",
        ".",
        "./app",
        "..",
        "/home/me/app",
        "libs/thing",
        "~/thing",
        "thing-1.0.tar.gz",
        "thing-1.0.zip ; python_version > '3'",
        "thing @ file:///home/me/thing",
        "thing[extra] @ ./thing",
        "thing@https://example.org/thing-1.0.tar.gz#sha256=00",
        "https://example.org/thing-1.0.tgz?x.whl",
        "git+https://example.org/thing.git@v1",
        "thing @ git+ssh://git@example.org/thing.git",
    ],
)
def test_a_source_that_would_be_built_is_found(line: str) -> None:
    (problem,) = found(requirements=f"flask\n{line}\n")
    assert problem.startswith("requirements.txt, line 2: ") and "would be built on the host" in problem


@pytest.mark.parametrize(
    "line",
    [
        "flask",
        "flask==3.0.3 ; python_version < '4' and sys_platform == 'linux/x'",
        "flask [async] >= 2, < 4  # --no-binary is not needed",
        "# -e .",
        "flask==3.0.3 \\\n    --hash=sha256:00",
        "--index-url https://example.org/simple",
        "--find-links https://example.org/wheels/",
        "--find-links=/opt/wheels",
        "--extra-index-url=https://example.org/simple/",
        "--only-binary :all:",
        "--pre",
        "/opt/wheels/thing-1.0-py3-none-any.whl",
        "thing @ file:///opt/wheels/thing-1.0-py3-none-any.whl",
        "thing @ https://example.org/thing-1.0-py3-none-any.whl#sha256=00",
        "no-binary==1",
        "",
    ],
)
def test_what_is_installed_from_wheels_is_fine(line: str) -> None:
    assert found(requirements=line) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("./wheels/thing-1.0-py3-none-any.whl", "./wheels/thing-1.0-py3-none-any.whl is a path"),
        ("thing @ file:wheels/thing-1.0-py3-none-any.whl ; python_version > '3'", "is a path"),
        ("flask==3 -f ./wheels", "--find-links ./wheels is a folder of the source"),
        ("--find-links='wheels'", "--find-links wheels is a folder of the source"),
    ],
)
def test_a_wheel_of_the_source_is_found(line: str, what: str) -> None:
    (problem,) = found(requirements=f"flask\n{line}\n")
    assert problem.startswith("requirements.txt, line 2: ") and what in problem


def test_a_file_with_hashes_is_installed_where_it_is() -> None:
    assert found(requirements="--find-links wheels\nthing==1 --hash=sha256:00\n") == []


def test_each_included_file_is_looked_at_once(tmp_path: Path) -> None:
    problem = found(
        requirements="-r more/base.txt\n",
        more__base="-c 'limits.txt' # comment\n--requirement=../requirements.txt\n",
        more__limits="flask<4\nx==1 --hash=sha256:00 -r deep.txt\n",
        more__deep="--no-binary evil\n",
    )
    assert len(problem) == 1 and problem[0].startswith("more/deep.txt, line 1: --no-binary")


@pytest.mark.parametrize(
    "place", ["nowhere.txt", "../outside.txt", "/etc/passwd", "https://example.org/base.txt", "${HOME}/base.txt"]
)
def test_a_file_of_which_nobody_knows_what_is_in_it_is_refused(place: str) -> None:
    (problem,) = found(requirements=f"\n-r {place}")
    assert problem.startswith(f"requirements.txt, line 2: {place} is not in the source as it is released")


def test_a_password_in_an_address_is_not_shown() -> None:
    (problem,) = found(requirements="thing @ https://me:hunter2@example.org/thing.tar.gz")
    assert "hunter2" not in problem and "//…@example.org/thing.tar.gz" in problem


def test_a_pyproject_has_no_lines_of_this_kind() -> None:
    assert problems("pyproject.toml", {"pyproject.toml": "--no-binary evil"}.get) == []


@pytest.mark.parametrize("text", ["-r a.txt", "-ra.txt", "  --constraint=a.txt", "-c\ta.txt", '-r "a.txt"'])
def test_an_included_file_is_named(text: str) -> None:
    assert list(included(text)) == [(1, "a.txt")]


def test_a_source_is_refused_with_all_that_is_wrong_also_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "deps").mkdir()
    (tmp_path / "deps" / "web.txt").write_text("--no-binary evil\n")
    (tmp_path / "base.txt").symlink_to("deps/web.txt")
    (tmp_path / "requirements.txt").write_text("-r base.txt\n-e .\n")
    with pytest.raises(SourceError) as caught:
        Source.parse(str(tmp_path)).check_requirements("requirements.txt")
    assert "requirements.txt, line 2: -e . would" in str(caught.value)
    assert "base.txt, line 1: --no-binary would" in str(caught.value)


def test_a_source_without_such_lines_or_without_the_file_is_fine(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("flask==3.0.3\n")
    for name in ("requirements.txt", "nowhere.txt"):
        Source.parse(str(tmp_path)).check_requirements(name)
    Source.parse("news==1.2").check_requirements("requirements.txt")


def test_the_projects_own_requirements_are_fine() -> None:
    root = Path(__file__).resolve().parents[2]
    files = [*root.glob("roles/*/files/requirements-*.txt"), root / "app" / "requirements.txt"]
    assert len(files) > 2
    for path in files:
        assert problems(path.name, {path.name: path.read_text()}.get) == []
