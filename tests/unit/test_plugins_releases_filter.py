"""What an operator is told of releases: what there is, where a rollback goes, and what a run did."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

ONE, TWO, THREE, FOUR = (f"2026010{day}T000000Z-0123abcd" for day in range(1, 5))
ANSIBLE = "ansible-playbook -i inventory/mine playbooks/"


@pytest.fixture
def filters(plugin: Callable[[str, str], ModuleType]) -> dict[str, Callable[..., Any]]:
    """Name the filters as templates do."""
    found: dict[str, Callable[..., Any]] = plugin("filter", "releases").FilterModule().filters()
    return found


def release(identity: str, state: str, **more: str) -> dict[str, Any]:
    told = {"version": "v1", "when": "2026-01-01T00:00:00Z", "by": "me on laptop", "health": {}}
    return {"id": identity, "state": state, **told, **more}


# --- where a rollback goes


@pytest.mark.parametrize(
    ("to", "found"),
    [
        ("", TWO),
        (TWO, TWO),
        (THREE, THREE),  # gone back from, and now asked for by name
        (FOUR, FOUR),
        (ONE, ""),
        ("20260109T000000Z-0123abcd", ""),
        ("20260105T000000Z-0123abcd", ""),
        (TWO[:8], ""),
    ],
)
def test_a_rollback_goes_to_the_way_back_or_to_a_named_release_that_once_served(
    filters: Any, to: str, found: str
) -> None:
    releases = [
        release("20260105T000000Z-0123abcd", "unfinished"),
        release(FOUR, "current"),
        release(THREE, "withdrawn"),
        release(TWO, "good"),
        release(ONE, "failed"),
    ]
    assert filters["way_back"]({"way_back": TWO, "releases": releases}, to) == found


def test_without_a_way_back_there_is_none(filters: Any) -> None:
    assert filters["way_back"]({"way_back": "", "releases": []}) == ""
    assert filters["way_back"]({"way_back": "", "releases": []}, ONE) == ""


def test_releases_made_of_the_same_input_and_the_same_files_are_found(filters: Any) -> None:
    asked = {"input": "i", "rendered": "r", "version": "v2"}
    same = {"input": "i", "rendered": "r", "version": "v1"}
    others = [{"input": "x", "rendered": "r"}, {"input": "i", "rendered": "x"}, {"input": "i"}, {"rendered": "r"}, {}]
    assert filters["made_of"]([*others, same, dict(same)], asked) == [same, same]
    assert filters["made_of"](others, asked) == filters["made_of"]([], asked) == []


# --- what there is


def test_all_releases_are_laid_out_in_columns_by_host_the_newest_first(filters: Any) -> None:
    states = {
        "web2": {"releases": [release(TWO, "current", version="f" * 64)]},
        "a-web10": {
            "releases": [
                release(THREE, "unfinished", version="", when="", by=""),
                release(TWO, "current", by="somebody else on another-machine"),
                release(ONE, "withdrawn"),
            ]
        },
        "none": {"releases": []},
    }
    version = "f" * 40
    assert filters["releases_table"](states, "news").splitlines() == [
        "news:",
        f"host     id                         state       {'version':40}  when                  by",
        f"a-web10  {THREE}  unfinished",
        f"a-web10  {TWO}  current     {'v1':40}  2026-01-01T00:00:00Z  somebody else on another-machine",
        f"a-web10  {ONE}  withdrawn   {'v1':40}  2026-01-01T00:00:00Z  me on laptop",
        f"web2     {TWO}  current     {version}  2026-01-01T00:00:00Z  me on laptop",
    ]


def test_no_column_is_narrower_than_its_heading(filters: Any) -> None:
    states = {"a": {"releases": [release(ONE, "good", version="v1", when="", by="me")]}}
    assert filters["releases_table"](states, "news").splitlines()[1:] == [
        "host  id                         state  version  when  by",
        f"a     {ONE}  good   v1             me",
    ]


@pytest.mark.parametrize("states", [{}, {"web1": {"releases": []}, "web2": {"releases": []}}])
def test_an_app_without_a_release_is_said_to_have_none(filters: Any, states: dict[str, Any]) -> None:
    assert filters["releases_table"](states, "news") == "news: no release"


# --- what a run did


def report(outcome: str, before: str, after: str, **more: Any) -> dict[str, Any]:
    return {"app": "news", "outcome": outcome, "from": before, "to": after, "version": "v2", "seconds": 12.34, **more}


def host(name: str, *reports: dict[str, Any]) -> dict[str, Any]:
    return {"inventory_hostname": name, "__flask_app_reports": list(reports)}


def summary(filters: Any, *hosts: dict[str, Any]) -> list[str]:
    return filters["releases_summary"](hosts, ANSIBLE).splitlines()


def test_a_release_is_summed_up_host_by_host_with_the_way_back(filters: Any) -> None:
    found = summary(
        filters,
        host("web10", report("released", ONE, TWO)),
        host("web2", report("released", "", TWO, seconds=3.0)),
        host("web1", report("unchanged", ONE, ONE)),
    )
    assert found == [
        "news v2",
        f"  web1   {ONE}  unchanged",
        f"  web10  {ONE} → {TWO}  released in 12.3 s",
        f"  web2   nothing → {TWO}  released in 3.0 s",
        # Of the others, one would go back from what this run didn't release, and one has nothing to go back to.
        f"  to undo: {ANSIBLE}rollback.yml -e app=news --limit web10",
    ]


def test_there_is_nothing_to_undo_after_a_first_release_nor_where_nothing_changed(filters: Any) -> None:
    assert summary(filters, host("web1", report("released", "", ONE, version=""))) == [
        "news",
        f"  web1  nothing → {ONE}  released in 12.3 s",
    ]
    assert summary(filters, host("web1", report("unchanged", ONE, ONE))) == ["news v2", f"  web1  {ONE}  unchanged"]


def test_what_was_gone_back_from_is_not_made_again_and_the_summary_says_how_to(filters: Any) -> None:
    assert summary(filters, host("web1", report("withdrawn", ONE, TWO))) == [
        "news v2",
        f"  web1  {ONE}  unchanged: {TWO}, made of the same, was gone back from; -e force=true makes it again",
    ]


def test_the_way_back_from_a_rollback_is_the_release_by_its_name(filters: Any) -> None:
    # A rollback by itself would go further back.
    found = summary(
        filters,
        host("web1", report("rolled back", THREE, TWO)),
        host("web2", report("rolled back", THREE, TWO)),
    )
    assert found == [
        "news v2",
        f"  web1  {THREE} → {TWO}  rolled back in 12.3 s",
        f"  web2  {THREE} → {TWO}  rolled back in 12.3 s",
        f"  to undo: {ANSIBLE}rollback.yml -e app=news -e to={THREE}",
    ]


def test_a_host_that_failed_early_is_left_out_and_the_version_is_taken_from_one_that_did_not(filters: Any) -> None:
    found = summary(
        filters,
        {"inventory_hostname": "web1"},
        host("web2", report("unchanged", ONE, ONE, version="")),
        host("web3", report("released", ONE, TWO)),
    )
    assert found[:3] == ["news v2", f"  web2  {ONE}  unchanged", f"  web3  {ONE} → {TWO}  released in 12.3 s"]
    assert filters["releases_summary"]([{"inventory_hostname": "web1"}], ANSIBLE) == "no app was to be released"
    assert filters["releases_summary"]([], ANSIBLE) == "no app was to be released"


def test_apps_that_left_the_inventory_are_named_with_what_stops_them(filters: Any) -> None:
    left = {"__flask_app_host": {"left": {"shop": [ONE]}}}
    hosts = [{**host("web1", report("unchanged", ONE, ONE)), **left}, host("web2", report("unchanged", ONE, ONE))]
    told = [
        "shop left the inventory, and still runs on web1. Nothing of it was removed.",
        f"  to stop it, on web1: systemctl disable --now shop@{ONE}.service shop@{ONE}.socket",
        "  to keep it: put it back into flask_apps",
    ]
    assert summary(filters, *hosts)[3:] == told
    assert filters["left_apps"](hosts).splitlines() == told
    assert filters["left_apps"](hosts[1:]) == ""


@pytest.mark.parametrize("left", [{"blog": ["x; reboot"]}, {"blog; reboot": [ONE]}])
def test_what_a_host_tells_of_left_apps_is_no_command(filters: Any, left: dict[str, list[str]]) -> None:
    assert filters["left_apps"]([{"inventory_hostname": "web1", "__flask_app_host": {"left": left}}]) == ""


def test_several_apps_are_summed_up_one_after_the_other_each_with_its_own_way_back(filters: Any) -> None:
    blog = {"app": "blog", "version": "1.3"}
    found = summary(
        filters,
        host("web1", report("released", ONE, TWO), report("unchanged", ONE, ONE, **blog)),
        host("web2", report("released", ONE, TWO), report("released", THREE, FOUR, **blog)),
    )
    assert found == [
        "news v2",
        f"  web1  {ONE} → {TWO}  released in 12.3 s",
        f"  web2  {ONE} → {TWO}  released in 12.3 s",
        f"  to undo: {ANSIBLE}rollback.yml -e app=news",
        "blog 1.3",
        f"  web1  {ONE}  unchanged",
        f"  web2  {THREE} → {FOUR}  released in 12.3 s",
        f"  to undo: {ANSIBLE}rollback.yml -e app=blog --limit web2",
    ]
