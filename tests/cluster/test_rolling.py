"""What operators do to an installation of several hosts, nobody notices."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from installation import Installation, answers
from machines import cut_off, until


def test_a_release_rolls_through_the_hosts(installation: Installation) -> None:
    before = installation.releases()
    with installation.load("a rolling release") as posts:
        run = installation.playbook("deploy.yml", app="newsboard", force=True, flask_app_soak=2)
        assert run.status == 0, run.output
    after = installation.releases()
    assert len(set(after.values())) == 1, "one id for all"
    assert not set(after.values()) & set(before.values())
    posts.outcome.assert_all_answered()


def test_a_release_that_the_second_host_refuses_is_nobodys(installation: Installation) -> None:
    before = installation.releases()
    # The last step is in its way there: what was built and probed can't become current.
    installation.root("web2", "mkdir /srv/newsboard/.current.new")
    try:
        with installation.load("a release that the second host refuses") as posts:
            run = installation.playbook("deploy.yml", app="newsboard", force=True, flask_app_soak=1)
            assert run.status != 0
    finally:
        installation.root("web2", "rmdir /srv/newsboard/.current.new")
    assert "web2 refused it" in run.output
    assert "this host has gone back" in run.output
    assert installation.releases() == before
    for name in ("web1", "web2"):
        running = installation.root(name, "systemctl list-units --plain --no-legend 'newsboard@*.service'")
        assert re.findall(r"newsboard@(\S+)\.service", running) == [before[name]]
        assert installation.root(name, "cat /run/flask-on-metal/newsboard.lock 2>/dev/null || true") == ""
    posts.outcome.assert_all_answered()


def test_a_host_that_was_away_gets_what_the_others_serve(installation: Installation) -> None:
    installation.variables["page_size"] = "31"
    run = installation.playbook("deploy.yml", app="newsboard", limit="web1")
    assert run.status == 0, run.output
    before = installation.releases()
    assert before["web1"] != before["web2"]
    run = installation.playbook("deploy.yml", app="newsboard")
    assert run.status == 0, run.output
    assert installation.releases() == {"web1": before["web1"], "web2": before["web1"]}


@pytest.mark.full_matrix
def test_a_web_host_goes_out_and_comes_in(installation: Installation) -> None:
    with installation.load("a web host drained, and taken in again") as posts:
        run = installation.playbook("drain.yml", host="web1", drain="out")
        assert run.status == 0, run.output
        assert installation.root("web1", "ss -Htn state established sport = :8443").strip() == ""
        counts = installation.served_by(10)
        # It stays out through a run of everything.
        run = installation.playbook("site.yml", timeout=600)
        assert run.status == 0, run.output
        again = installation.served_by(10)
        run = installation.playbook("drain.yml", host="web1", drain="in")
        assert run.status == 0, run.output
    assert counts["web1"] == again["web1"] == 0
    until(lambda: installation.served_by(20)["web1"] > 0, 20, "web1 gets requests again")
    posts.outcome.assert_all_answered()


def test_the_last_web_host_is_not_drained(installation: Installation) -> None:
    run = installation.playbook("drain.yml", host="web1,web2", drain="out")
    assert run.status != 0
    assert "one has to remain" in run.output
    assert min(installation.served_by(20).values()) > 0


OUT = "ls /var/lib/flask-on-metal/balancer/out 2>/dev/null || true"
"""Which web hosts a balancer leaves out."""


def test_a_web_host_stays_where_no_other_answers(installation: Installation) -> None:
    installation.root("web2", "systemctl stop nginx")
    try:
        run = installation.playbook("drain.yml", host="web1", drain="out", health_seconds=3)
        assert run.status != 0
        assert "web1 was not taken out, since no web host would answer: newsboard of web2 answers" in " ".join(
            run.output.split()
        )
        # Nor is one taken in that answers nothing.
        run = installation.playbook("drain.yml", host="web2", drain="in", health_seconds=3)
        assert run.status != 0
        assert "web2 was not taken in: newsboard of web2 answers" in " ".join(run.output.split())
    finally:
        installation.root("web2", "systemctl start nginx")
    assert [installation.root(name, OUT) for name in ("balancer1", "balancer2")] == ["", ""]


@pytest.mark.full_matrix
def test_no_balancer_is_told_where_one_is_down(installation: Installation) -> None:
    with cut_off("balancer2"):
        run = installation.playbook("drain.yml", host="web1", drain="out")
        assert run.status != 0
        assert installation.root("balancer1", OUT) == ""
        until(lambda: answers(installation.floating), 30, "balancer1 has the address")
        run = installation.playbook("drain.yml", host="web1", drain="out", without="balancer2")
        assert run.status == 0, run.output
        assert installation.root("balancer1", OUT).split() == ["web1"]
        assert installation.served_by(10)["web1"] == 0
    until(lambda: len(installation.active()) == 1, 30, "one balancer has the address")
    run = installation.playbook("drain.yml", host="web1", drain="in")
    assert run.status == 0, run.output


@pytest.mark.full_matrix
def test_a_database_is_not_rebooted_where_another_is_missed(installation: Installation) -> None:
    leader = installation.leader()
    other = next(name for name in installation.databases() if name != leader)
    installation.root(other, "systemctl stop etcd")
    try:
        run = installation.playbook("reboot.yml", force=True, limit=f"{leader}:localhost")
        assert run.status != 0
        assert "aren't all at work. A cluster bears that one is away" in " ".join(run.output.split())
        assert installation.leader() == leader
    finally:
        installation.root(other, "systemctl start etcd")


@pytest.mark.full_matrix
def test_a_release_that_isnt_well_after_a_while_is_nobodys(installation: Installation) -> None:
    before = installation.releases()

    def break_it() -> None:
        """Stop the new release on the first host while it is watched there."""
        until(lambda: installation.releases()["web1"] != before["web1"], 120, "the first host has switched")
        new = installation.releases()["web1"]
        installation.root("web1", 'systemctl kill --signal=SIGSTOP "newsboard@$1.service"', new)

    with ThreadPoolExecutor() as threads:
        breaking = threads.submit(break_it)
        run = installation.playbook("deploy.yml", app="newsboard", force=True, flask_app_soak=15, health_seconds=5)
        breaking.result()
    assert run.status != 0
    assert "web1 refused it" in run.output
    assert installation.releases() == before
    assert min(installation.served_by(20).values()) > 0


@pytest.mark.full_matrix
def test_everything_is_done_one_web_host_after_the_other(installation: Installation) -> None:
    with installation.load("site.yml, one web host after the other, with a change of NGINX") as posts:
        run = installation.playbook("site.yml", rolling=1, nginx_client_timeout=16)
        assert run.status == 0, run.output
    posts.outcome.assert_all_answered()
    assert installation.root("balancer1", OUT) == ""
    run = installation.playbook("site.yml")
    assert run.status == 0, run.output


@pytest.mark.full_matrix
@pytest.mark.parametrize("tag", ["install", "configure", "release", "nginx", "flask_app", "balancer", "postgresql"])
def test_a_part_of_everything_is_done_by_itself(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    monkeypatch.setenv("ANSIBLE_RUN_TAGS", tag)
    run = installation.playbook("site.yml")
    assert (run.status, run.changed) == (0, []), run.output


@pytest.mark.full_matrix
def test_a_leader_of_the_databases_hands_over(installation: Installation) -> None:
    leader = installation.leader()
    with installation.load("database's leader hands over") as posts:
        installation.root(leader, 'patronictl -c /etc/patroni/*-main.yml switchover --leader "$1" --force', leader)
        until(lambda: installation.leader() not in ("", leader), 60, "another host leads")
    posts.outcome.assert_all_answered()


@pytest.mark.full_matrix
def test_hosts_reboot_one_after_the_other(installation: Installation) -> None:
    # Of a container the kernel's own boot id says nothing.
    begun = "systemctl show --value --property=UserspaceTimestampMonotonic"
    boots = {name: installation.root(name, begun) for name in ("web1", "web2", "db1", "db2", "db3")}
    with installation.load("web hosts and databases rebooted, one after the other") as posts:
        run = installation.playbook("reboot.yml", force=True, limit="web:database:localhost")
        assert run.status == 0, run.output
    for name, boot in boots.items():
        assert installation.root(name, begun) != boot
    posts.outcome.assert_all_answered()
    assert min(installation.served_by(20).values()) > 0
    assert installation.etcd()[0] in set(installation.databases()) - {installation.leader()}


@pytest.mark.full_matrix
def test_a_web_host_joins_and_leaves(installation: Installation) -> None:
    before = installation.releases()
    installation.web.append("web3")
    with installation.inventory_of("grown"):
        with installation.load("`site.yml` with a third web host, bare before") as posts:
            run = installation.playbook("site.yml")
            assert run.status == 0, run.output
            until(lambda: min(installation.served_by(30).values()) > 0, 30, "all three get requests")
        posts.outcome.assert_all_answered()
        assert installation.releases() == {**before, "web3": before["web1"]}
        again = installation.playbook("site.yml")
        assert (again.status, again.changed) == (0, []), again.output
        with installation.load("the third web host drained") as posts:
            run = installation.playbook("drain.yml", host="web3", drain="out")
            assert run.status == 0, run.output
        posts.outcome.assert_all_answered()
    installation.web.remove("web3")
    with installation.load("`site.yml` without the third web host") as posts:
        run = installation.playbook("site.yml")
        assert run.status == 0, run.output
    posts.outcome.assert_all_answered()
    for name in ("balancer1", "balancer2"):
        assert "web3" not in installation.root(name, "cat /etc/nginx/sites/newsboard/upstream.conf")
