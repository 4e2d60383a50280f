"""Nobody notices a release: not when it is made, refused or taken back, nor what else touches a running host."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import LEAKED_ON_PURPOSE, RELEASE_ID, Run, as_root
from helpers_http import handshake
from stage import APP, Look, Stage, assert_nothing_failed, versions
from test_speed_of_runs import DEPLOY_WITHOUT_A_CHANGE
from traffic import Traffic


@pytest.fixture(scope="module", autouse=True)
def version_one(stage: Stage) -> None:
    """Begin with version 1: the tests tell versions apart, and go on from each other."""
    stage.begin_anew()


@pytest.fixture
def either(stage: Stage, request: pytest.FixtureRequest) -> Stage:
    """Take one host for what is the same on both: a release that is refused, one that isn't made, NGINX's reload."""
    return stage.either(request.node.name)


def assert_switched(stage: Stage, before: dict[str, Look], run: Run, sent: dict[str, Traffic], *codes: str) -> None:
    """Make sure that another release serves than before, that all versions came in order, and NGINX was left alone."""
    assert run.status == 0, run.output
    assert_nothing_failed(sent)
    for name, after in stage.look().items():
        assert after.current != before[name].current
        after.assert_settled()
        assert after.nginx == before[name].nginx, "NGINX's workers are others than before"
        assert versions(sent[name]) == list(codes)
        assert sent[name].report.kept_closes == 0


def assert_refused(stage: Stage, before: dict[str, Look], run: Run, sent: dict[str, Traffic], step: str) -> None:
    """Make sure that the release was refused with an explanation, and that what served goes on as it was."""
    assert run.status != 0
    assert_nothing_failed(sent)
    for name, after in stage.look().items():
        assert after.current == before[name].current
        after.assert_settled()
        assert after.nginx == before[name].nginx
        (refused,) = set(after.releases) - set(before[name].releases)
        assert refused in after.failed
        # What an operator needs, all in one message.
        assert f"Release {refused} of {APP} was refused at the step “{step} | " in run.output
        assert f"Its folder is kept for a look: /srv/{APP}/releases/{refused}" in run.output
        assert f"The release {after.current} goes on serving" in run.output
        assert "Next: mend the cause, then: ansible-playbook " in run.output
        assert len(versions(sent[name])) == 1
    assert not run.leaked, "the output shows a secret"


def test_nothing_happens_and_nothing_is_lost(stage: Stage) -> None:
    with stage.load("nothing, for comparison") as sent:
        time.sleep(5)
    assert_nothing_failed(sent)


def test_new_version_with_other_libraries_though_a_dead_run_left_a_lock(stage: Stage) -> None:
    dead = "release_lock app=newsboard run=0123456789ab who=somebody origin=elsewhere what=nothing limit=2"
    stage.ansible.play([{"hosts": "web", "become": True, "gather_facts": False, "tasks": [{"action": dead}]}])
    time.sleep(3)
    before = stage.look()
    assert all("0123456789ab" in look.lock for look in before.values())
    wanted = stage.variables(stage.source("2", library="2.1.0"))
    with stage.load("deploy of a new version") as sent:
        run = stage.deploy(wanted)
    assert_switched(stage, before, run, sent, "1", "2")
    for name, after in stage.look().items():
        assert RELEASE_ID.fullmatch(after.current)
        summary = f"{name}  {before[name].current} → {after.current}  released in "
        assert summary in run.output
    undo = f" playbooks/rollback.yml -e app={APP} --limit {','.join(sorted(stage.hosts))}\n"
    assert "to undo: ansible-playbook -i " in run.output and undo in run.output


def test_same_version_again_changes_nothing_and_asks_little(stage: Stage) -> None:
    before = stage.look()
    run = stage.deploy()
    assert run.status == 0, run.output
    assert run.changed == []
    assert stage.look() == before
    for name in stage.hosts:
        assert sum(entry["reached"] for entry in run.record if entry["host"] == name) <= DEPLOY_WITHOUT_A_CHANGE


def test_version_that_does_not_import(either: Stage) -> None:
    before = either.look()
    with either.load("deploy of one that does not import") as sent:
        run = either.deploy(either.variables(either.source("3", fault="import")))
    assert_refused(either, before, run, sent, "Start")
    # It tells its secret as well, as a traceback may.
    assert f"RuntimeError: {LEAKED_ON_PURPOSE}" in run.output
    assert "Traceback (most recent call last)" in run.output


def test_version_whose_probe_fails(either: Stage) -> None:
    before = either.look()
    with either.load("deploy of one whose probe fails") as sent:
        run = either.deploy(either.variables(either.source("3", fault="unhealthy"), health_timeout=3))
    assert_refused(either, before, run, sent, "Probe")
    assert "/status got no 200 within 3 s, but 500" in run.output
    assert "unhealthy on purpose" in run.output


@pytest.mark.full_matrix
def test_version_whose_probe_hangs(either: Stage) -> None:
    before = either.look()
    with either.load("deploy of one whose probe hangs") as sent:
        run = either.deploy(either.variables(either.source("3", fault="hanging"), health_timeout=3))
    assert_refused(either, before, run, sent, "Probe")
    assert "/status got no 200 within 3 s, but nothing" in run.output


def test_version_whose_migration_fails(either: Stage) -> None:
    before = either.look()
    with either.load("deploy of one whose migration fails") as sent:
        run = either.deploy(either.variables(either.source("3", migration="fail")))
    assert_refused(either, before, run, sent, "Migrate")
    assert "RuntimeError: this migration fails, on purpose" in run.output
    look = """
      cd "/srv/$1/releases/$2/before_migration"
      stat --format='%n %a %U' . newsboard.db
      python3 -c 'import sqlite3
copy = sqlite3.connect("file:newsboard.db?mode=ro", uri=True)
print(*copy.execute("PRAGMA integrity_check").fetchone())
print("posts", copy.execute("SELECT count(*) FROM posts").fetchone()[0])'
    """
    for name, host in either.hosts.items():
        refused = either.look()[name].failed[-1]
        folder, copy, whole, posts = as_root(host, look, APP, refused).splitlines()
        assert (folder, copy, whole) == (". 700 root", "newsboard.db 640 root", "ok")
        assert int(posts.split()[1]) > 0


def test_rollback_to_the_last_good_release(stage: Stage) -> None:
    before = stage.look()
    with stage.load("rollback") as sent:
        run = stage.rollback()
    assert_switched(stage, before, run, sent, "2", "1")
    for name, after in stage.look().items():
        assert f"{name}  {before[name].current} → {after.current}  rolled back in " in run.output
        assert f"playbooks/rollback.yml -e app={APP} -e to=" in run.output


def test_what_was_gone_back_from_is_not_made_again_by_itself(stage: Stage) -> None:
    before = stage.look()
    run = stage.deploy()
    assert run.status == 0, run.output
    assert run.changed == []
    assert stage.look() == before
    assert "was gone back from; -e force=true makes it again" in run.output


def test_rollback_to_a_release_that_is_not_there_says_what_there_is(stage: Stage) -> None:
    before = stage.look()
    run = stage.rollback(to="20260101T000000Z-0123abcd")
    assert run.status != 0
    assert run.changed == []
    assert stage.look() == before
    assert f"{APP} has no release 20260101T000000Z-0123abcd that once served" in run.output
    for name, look in before.items():
        for release in look.releases:
            assert f"{name}  {release}" in run.output


def test_rollback_to_a_named_release(stage: Stage) -> None:
    before = stage.look()
    listed = stage.run("releases.yml", {"app": APP})
    withdrawn = max(line.split()[1] for line in listed.output.splitlines() if " withdrawn " in line)
    with stage.load("rollback to a named release") as sent:
        run = stage.rollback(to=withdrawn)
    assert_switched(stage, before, run, sent, "1", "2")
    assert {look.current for look in stage.look().values()} == {withdrawn}


def test_list_of_releases_tells_state_time_and_who(stage: Stage) -> None:
    before = stage.look()
    run = stage.run("releases.yml", {})
    assert run.status == 0, run.output
    assert run.changed == []
    for name, look in before.items():
        lines = {line.split()[1]: line.split() for line in run.output.splitlines() if f"{name}  20" in line}
        assert sorted(lines) == look.releases
        states = {release: line[2] for release, line in lines.items()}
        assert states[look.current] == "current"
        assert [release for release, state in states.items() if state == "failed"] == look.failed
        assert lines[look.current][4].endswith("Z") and "@" in lines[look.current][5]


@pytest.mark.full_matrix
def test_changed_value_of_the_environment(stage: Stage) -> None:
    before = stage.look()
    source = stage.source("2", library="2.1.0")
    with stage.load("changed environment") as sent:
        run = stage.deploy(stage.variables(source, environment={"TRIAL_MARK": "changed"}))
    assert_switched(stage, before, run, sent, "2")


@pytest.mark.full_matrix
def test_same_source_by_force_as_after_an_upgrade_of_python(stage: Stage) -> None:
    before = stage.look()
    with stage.load("same source by force") as sent:
        run = stage.deploy(force=True)
    assert_switched(stage, before, run, sent, "2")


def test_site_with_a_changed_limit_of_nginx_and_another_certificate(either: Stage) -> None:
    def certificates() -> dict[str, bytes | None]:
        found = {}
        for name in either.hosts:
            with handshake(either.address(name), None) as sock:
                found[name] = sock.getpeercert(binary_form=True)
        return found

    before, certified = either.look(), certificates()
    for host in either.hosts.values():
        as_root(host, 'rm -r "/etc/ssl/flask-on-metal/$1/pairs/"*', APP)
    with either.load("site.yml with another NGINX limit and another certificate") as sent:
        run = either.run("site.yml", {**either.served, "nginx_client_timeout": 16})
    assert run.status == 0, run.output
    # One reload takes up both.
    assert_nothing_failed(sent, reloads=1)
    for name, after in either.look().items():
        assert after.current == before[name].current
        assert after.nginx != before[name].nginx, "NGINX did not take the limit up"
        assert certificates()[name] != certified[name], "the former certificate is shown"


def test_nginx_package_is_installed_anew(stage: Stage) -> None:
    reinstall = """
      export DEBIAN_FRONTEND=noninteractive
      apt-get -qq update
      apt-get -qq -y install --reinstall --no-install-recommends nginx >/dev/null
      cat /run/nginx.pid
    """
    masters = {name: as_root(host, "cat /run/nginx.pid") for name, host in stage.hosts.items()}
    with stage.load("NGINX package installed anew") as sent, ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: as_root(host, reinstall), stage.hosts.values()))
    assert_nothing_failed(sent, reloads=1)
    for name, host in stage.hosts.items():
        assert as_root(host, "cat /run/nginx.pid") != masters[name], "the binary was not taken up"
        assert as_root(host, "systemctl is-active nginx").strip() == "active"


def test_two_deploys_at_once(stage: Stage) -> None:
    before = stage.look()
    wanted = [stage.variables(stage.source(version)) for version in ("4", "5")]
    with stage.load("two deploys at once") as sent, ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda variables: stage.deploy(variables), wanted))
    assert_nothing_failed(sent)
    statuses = sorted(run.status for run in runs)
    assert statuses[0] == 0 and statuses[1] != 0, [run.output for run in runs]
    refused = max(runs, key=lambda run: run.status)
    assert f"The releases of {APP} on " in refused.output and "are locked by another run" in refused.output
    for words in ("who:", "what:     release ", "since:", "phase:", "-e break_lock="):
        assert words in refused.output
    winner = "4" if runs[0].status == 0 else "5"
    for name, after in stage.look().items():
        assert len(set(after.releases) - set(before[name].releases)) == 1, "the loser left something"
        assert versions(sent[name]) == ["2", winner]
        after.assert_settled()


@pytest.mark.full_matrix
def test_host_that_is_behind_catches_up_alone(stage: Stage) -> None:
    first, *others = sorted(stage.hosts)
    wanted = stage.variables(stage.source("6"))
    one = stage.on(first)
    run = one.deploy(wanted)
    assert run.status == 0, run.output
    before = stage.look()
    with stage.load("host that is behind catches up") as sent:
        run = stage.deploy(wanted)
    assert run.status == 0, run.output
    assert_nothing_failed(sent)
    after = stage.look()
    assert after[first] == before[first]
    for name in others:
        assert after[name].current != before[name].current
        assert f"--limit {name}\n" in run.output, "the way back would be everybody's"
    for look in after.values():
        look.assert_settled()
    # The hosts' releases have different ids now: each goes back to its own.
    run = stage.rollback()
    assert run.status == 0, run.output
    assert "6" not in {stage.version(name) for name in stage.hosts}


def test_check_tells_of_a_release_and_makes_none(either: Stage) -> None:
    before = either.look()
    run = either.run("deploy.yml", either.variables(either.source("7")), check=True)
    assert run.status == 0, run.output
    assert "would be released" in run.output and "to undo" not in run.output
    assert either.look() == before
