"""Kept pages are forgotten: those that are meant, and no others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import kept_pages


def keep(folder: Path, name: str, asked: str, *, before: bytes = b"") -> Path:
    """Write a file as NGINX keeps a page: a header of numbers, the key on a line of its own, the answer."""
    path = folder / name[-1] / name[-3:-1] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        os.urandom(336).replace(b"\n", b"x") + before + f"\nKEY: {asked}\n".encode() + b"HTTP/1.1 200 OK\r\n\r\npage"
    )
    return path


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Have pages of two apps kept."""
    monkeypatch.setattr(kept_pages, "FOLDER", tmp_path)
    mine, other = tmp_path / "pages-news", tmp_path / "pages-shop"
    return {
        "front": keep(mine, "a" * 32, "GET https://news.example.org/"),
        "query": keep(mine, "b" * 32, "GET https://news.example.org/?page=2"),
        "head": keep(mine, "c" * 32, "HEAD https://news.example.org/"),
        "story": keep(mine, "d" * 32, "GET https://[2001:db8::1]/story/7"),
        "stories": keep(mine, "e" * 32, "GET https://news.example.org/story/77?a=/"),
        "other": keep(other, "f" * 32, "GET https://shop.example.org/"),
    }


@pytest.mark.parametrize(
    ("patterns", "gone"),
    [
        ([], {"front", "query", "head", "story", "stories"}),
        (["/"], {"front", "query", "head"}),
        (["/?page=2"], {"query"}),
        (["/story/7"], {"story"}),
        (["/story/*"], {"story", "stories"}),
        (["/*"], {"front", "query", "head", "story", "stories"}),
        (["/story/*", "/?page=*"], {"story", "stories", "query"}),
        (["/stor", "/story/7?*", "news.example.org"], set()),
    ],
)
def test_pages_that_are_meant_are_forgotten_and_no_others(
    run_module: Callable[..., dict[str, Any]], pages: dict[str, Path], patterns: list[str], gone: set[str]
) -> None:
    told = run_module("kept_pages", app="news", paths=patterns, check=True)
    assert (told["number"], told["changed"]) == (len(gone), bool(gone))
    assert all(path.exists() for path in pages.values())
    done = run_module("kept_pages", app="news", paths=patterns)
    assert (done["number"], done["changed"]) == (len(gone), bool(gone))
    assert {name for name, path in pages.items() if not path.exists()} == gone
    again = run_module("kept_pages", app="news", paths=patterns)
    assert (again["number"], again["changed"]) == (0, False)


def test_app_that_never_had_a_page_kept_has_none(
    run_module: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_pages, "FOLDER", tmp_path)
    assert run_module("kept_pages", app="news")["number"] == 0


def swapped_page(pages: Path, elsewhere: Path) -> None:
    (pages / "a" / "aa" / ("9" * 32)).symlink_to(next(elsewhere.glob("*/*/*")))


def swapped_level(pages: Path, elsewhere: Path) -> None:
    (pages / "9").symlink_to(elsewhere / "9")


def swapped_level_below(pages: Path, elsewhere: Path) -> None:
    (pages / "9").mkdir()
    (pages / "9" / "99").symlink_to(elsewhere / "9" / "99")


def swapped_top(pages: Path, elsewhere: Path) -> None:
    pages.rename(pages.with_name("moved"))
    pages.symlink_to(elsewhere)


def fifo(pages: Path, _: Path) -> None:
    os.mkfifo(pages / "a" / "aa" / ("9" * 32))
    os.mkfifo(pages / "7")
    (pages / "8").mkdir()
    os.mkfifo(pages / "8" / "88")


def deep(pages: Path, _: Path) -> None:
    handle = os.open(pages, os.O_RDONLY)
    for _level in range(600):
        os.mkdir("a" * 8, dir_fd=handle)
        below = os.open("a" * 8, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(handle)


def folder_as_a_page(pages: Path, _: Path) -> None:
    (pages / "a" / "aa" / ("9" * 32)).mkdir()


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Break off what doesn't end."""

    def over(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("patterns", [[], ["/"]], ids=["all", "some"])
@pytest.mark.parametrize(
    "trap", [swapped_page, swapped_level, swapped_level_below, swapped_top, fifo, deep, folder_as_a_page]
)
def test_root_forgets_nothing_but_regular_files_below_the_folder(
    pages: dict[str, Path], tmp_path: Path, patterns: list[str], trap: Callable[[Path, Path], None]
) -> None:
    # Whoever took NGINX over may write there, and root runs this.
    other = keep(tmp_path / "elsewhere", "9" * 32, "GET https://news.example.org/")
    trap(tmp_path / "pages-news", tmp_path / "elsewhere")
    try:
        with within(5):
            number = kept_pages.forget("news", patterns)
        assert other.exists(), "somebody else's file was deleted"
        assert number == (0 if trap is swapped_top else 3 if patterns else 5)
    finally:
        # pytest itself can't take a path of so many levels away.
        subprocess.run(["rm", "-rf", str(tmp_path / "pages-news")], check=True)


def test_a_folder_that_is_swapped_meanwhile_leads_nowhere(
    pages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All that is meant lies there by the same names.
    others = [keep(tmp_path / "elsewhere", pages[name].name, "GET https://x/") for name in ("front", "query", "head")]
    matches = kept_pages.matches

    def swap(*given: Any) -> bool:
        meant = matches(*given)
        for name in "abc":
            folder = tmp_path / "pages-news" / name
            if not folder.is_symlink():
                folder.rename(tmp_path / f"was-{name}")
                folder.symlink_to(tmp_path / "elsewhere" / name)
        return meant

    monkeypatch.setattr(kept_pages, "matches", swap)
    kept_pages.forget("news", ["/"])
    assert all(path.exists() for path in others), "root deleted somebody else's file"
