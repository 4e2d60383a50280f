"""Shared folders, hooks, old pages' files and the releases that are kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import as_root
from helpers_http import ask
from stage import APP, Stage


def test_shared_folder_is_the_same_in_each_release(stage: Stage) -> None:
    for version in ("a1", "a2"):
        run = stage.deploy(stage.variables(stage.source(version), shared=["uploads", "newsboard/static/media"]))
        assert run.status == 0, run.output
        look = 'cd "/srv/$1/current/code"; readlink uploads newsboard/static/media; stat -L --format=%U:%a uploads'
        for host in stage.hosts.values():
            said = as_root(host, look, APP).split()
            assert said == [f"/srv/{APP}/shared/uploads", f"/srv/{APP}/shared/newsboard/static/media", f"{APP}:750"]
            if version == "a1":
                as_root(host, 'echo kept >"/srv/$1/shared/uploads/file"', APP)
            assert as_root(host, 'cat "/srv/$1/current/code/uploads/file"', APP) == "kept\n"


def test_source_that_has_what_is_shared_is_refused_before_a_host_is_touched(stage: Stage) -> None:
    before = stage.look()
    run = stage.deploy(stage.variables(stage.source("a3"), shared=["newsboard"]))
    assert run.status != 0
    assert "No host was touched" in run.output
    assert stage.look() == before


def test_hooks_run_at_their_points_and_know_the_release(stage: Stage, tmp_path: Path) -> None:
    hooks = {}
    for point in ("before_migrate", "before_activate", "after_activate"):
        hooks[point] = str(tmp_path / f"{point}.yml")
        # What is current at that moment, and whether the release runs: that places it among the phases.
        say = (
            f"echo {point} {{{{ release.id }}}} $(basename $(readlink /srv/{{{{ release.app }}}}/current))"
            f" $(systemctl is-active {{{{ release.app }}}}@{{{{ release.id }}}}.service) >>/root/hooks"
        )
        Path(hooks[point]).write_text(f"- name: Hook {point}\n  ansible.builtin.shell: {say}\n  changed_when: false\n")
    before = stage.look()
    run = stage.deploy(stage.variables(stage.source("a4"), hooks=hooks))
    assert run.status == 0, run.output
    for name, host in stage.hosts.items():
        old, new = before[name].current, stage.look()[name].current
        assert as_root(host, "cat /root/hooks; rm /root/hooks").splitlines() == [
            f"before_migrate {new} {old} inactive",
            f"before_activate {new} {old} active",
            f"after_activate {new} {new} active",
        ]


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


def test_page_of_the_old_release_still_finds_its_files(stage: Stage) -> None:
    pages = {}
    for version in ("b1", "b2"):
        run = stage.deploy(stage.variables(stage.source(version)))
        assert run.status == 0, run.output
        for name in stage.hosts:
            text = ask(stage.address(name), stage.address(name), "/trial/page").text
            (pages[name, version],) = re.findall(r'href="(/static/trial\.[0-9a-f]{8}\.css)"', text)
    for name in stage.hosts:
        address = stage.address(name)
        assert pages[name, "b1"] != pages[name, "b2"]
        for version in ("b1", "b2"):
            answer = ask(address, address, pages[name, version])
            assert (answer.status, version in answer.text) == (200, True)
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        plain = ask(address, address, "/static/newsboard.css")
        assert (plain.status, plain.headers["cache-control"]) == (200, "no-cache")
        assert ask(address, address, "/static/nothing.12345678.css").status == 404
        # The way to the old files is NGINX's own.
        assert ask(address, address, f"/.previous{pages[name, 'b1']}").status == 404


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
