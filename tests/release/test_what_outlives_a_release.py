"""Shared folders, hooks, old pages' files and the releases that are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import as_root
from helpers_http import ask
from stage import APP, Look, Stage

SHARED = ["uploads", "newsboard/media"]
POINTS = ("before_migrate", "before_activate", "after_activate")


@dataclass(frozen=True)
class Second:
    """What was there before and after the second of two releases, and what each one's page names, by host."""

    before: dict[str, Look]
    after: dict[str, Look]
    stylesheets: dict[tuple[str, str], str]


@pytest.fixture(scope="module")
def stage(stage: Stage) -> Stage:
    """Try all of it on one host, where the releases that it is about are made: files and hooks are the same on both."""
    return stage.either(__name__)


@pytest.fixture(scope="module")
def second(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Second:
    """Make two releases that share folders, of which the second has hooks as well; several tests look at them."""
    folder = tmp_path_factory.mktemp("hooks")
    hooks = {}
    for point in POINTS:
        hooks[point] = str(folder / f"{point}.yml")
        # What is current at that moment, and whether the release runs: that places it among the phases.
        say = (
            f"echo {point} {{{{ release.id }}}} $(basename $(readlink /srv/{{{{ release.app }}}}/current))"
            f" $(systemctl is-active {{{{ release.app }}}}@{{{{ release.id }}}}.service) >>/root/hooks"
        )
        Path(hooks[point]).write_text(f"- name: Hook {point}\n  ansible.builtin.shell: {say}\n  changed_when: false\n")
    stylesheets, before = {}, {}
    for version, more in (("a1", {}), ("a2", {"hooks": hooks})):
        before = stage.look()
        run = stage.deploy(stage.variables(stage.source(version), shared=SHARED, **more))
        assert run.status == 0, run.output
        for name, host in stage.hosts.items():
            if version == "a1":
                as_root(host, 'echo kept >"/srv/$1/shared/uploads/file"', APP)
            text = ask(stage.address(name), stage.address(name), "/trial/page").text
            (stylesheets[name, version],) = re.findall(r'href="(/static/trial\.[0-9a-f]{8}\.css)"', text)
    return Second(before, stage.look(), stylesheets)


def test_shared_folder_is_the_same_in_each_release(stage: Stage, second: Second) -> None:
    look = """
      for release in "$2" "$3"; do
        cd "/srv/$1/releases/$release/code"
        readlink uploads newsboard/media; stat -L --format=%U:%a uploads; cat uploads/file
      done
    """
    for name, host in stage.hosts.items():
        said = as_root(host, look, APP, second.before[name].current, second.after[name].current).split()
        one = [f"/srv/{APP}/shared/uploads", f"/srv/{APP}/shared/newsboard/media", f"{APP}:750", "kept"]
        assert said == one * 2


def test_hooks_run_at_their_points_and_know_the_release(stage: Stage, second: Second) -> None:
    for name, host in stage.hosts.items():
        old, new = second.before[name].current, second.after[name].current
        assert as_root(host, "cat /root/hooks; rm /root/hooks").splitlines() == [
            f"before_migrate {new} {old} inactive",
            f"before_activate {new} {old} active",
            f"after_activate {new} {new} active",
        ]


def test_page_of_the_old_release_still_finds_its_files(stage: Stage, second: Second) -> None:
    for name in stage.hosts:
        address = stage.address(name)
        old, new = (second.stylesheets[name, version] for version in ("a1", "a2"))
        assert old != new
        for version, path in (("a1", old), ("a2", new)):
            answer = ask(address, address, path)
            assert (answer.status, version in answer.text) == (200, True)
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        plain = ask(address, address, "/static/newsboard.css")
        assert (plain.status, plain.headers["cache-control"]) == (200, "no-cache")
        assert ask(address, address, "/static/nothing.12345678.css").status == 404
        # The way to the old files is NGINX's own.
        assert ask(address, address, f"/.previous{old}").status == 404


def test_source_that_has_what_is_shared_is_refused_before_a_host_is_touched(stage: Stage) -> None:
    before = stage.look()
    run = stage.deploy(stage.variables(stage.source("a3"), shared=["newsboard"]))
    assert run.status != 0
    assert "No host was touched" in run.output
    assert stage.look() == before


def test_hook_that_fails_before_the_switch_refuses_the_release(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "fail.yml").write_text('- name: Cache is warm\n  ansible.builtin.fail: {msg: "the cache stays cold"}\n')
    before = stage.look()
    run = stage.deploy(stage.variables(stage.source("a5"), hooks={"before_activate": str(tmp_path / "fail.yml")}))
    assert run.status != 0
    assert "was refused at the step “Cache is warm”: the cache stays cold" in run.output
    for name, look in stage.look().items():
        assert look.current == before[name].current
        look.assert_settled()


def test_hook_that_fails_after_the_switch_is_reported_and_the_rest_is_done(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "fail.yml").write_text('- name: Tell the team\n  ansible.builtin.fail: {msg: "nobody is there"}\n')
    before = stage.look()
    run = stage.deploy(stage.variables(stage.source("a6"), hooks={"after_activate": str(tmp_path / "fail.yml")}))
    assert run.status != 0
    assert "serves, but “After_activate hook” failed: Tell the team: nobody is there" in run.output
    for name, look in stage.look().items():
        assert look.current != before[name].current
        look.assert_settled()


@pytest.mark.full_matrix
def test_changed_file_of_the_same_name_and_size_is_not_taken_for_the_old_one(stage: Stage) -> None:
    tags = {}
    for letter in "xy":
        source = stage.source("b" + {"x": "3", "y": "4"}[letter])
        (source / "newsboard" / "static" / "same.css").write_text(letter)
        run = stage.deploy(stage.variables(source))
        assert run.status == 0, run.output
        for name in stage.hosts:
            answer = ask(stage.address(name), stage.address(name), "/static/same.css")
            assert answer.text == letter
            tags[name, letter] = answer.headers["etag"]
    for name in stage.hosts:
        assert tags[name, "x"] != tags[name, "y"]


def test_last_five_good_releases_are_kept(stage: Stage) -> None:
    for look in stage.look().values():
        good = [release for release in look.releases if release not in look.failed]
        assert len(good) == 5, "more releases than that were made here"
        assert len(look.failed) <= 1
        assert look.current == max(good)
