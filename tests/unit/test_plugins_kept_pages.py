"""Kept pages are forgotten: those that are meant, and no others."""

from __future__ import annotations

import os
from collections.abc import Callable
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
