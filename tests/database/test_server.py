"""A database on a host of its own: apps get in, and nobody else; what was answered is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import testinfra
from helpers import ROOT, Ansible, Run, as_root, keep_open
from helpers_http import NoAnswerError, ask, connect
from machines import power_off, until
from steady import steady_posts
from testinfra.host import Host

NAME = "news.example.org"
SITE = ROOT / "playbooks" / "site.yml"

# With what the app itself connects with: its own environment's libpq.
CONNECT = """
cd /
"/srv/newsboard/current/venv/bin/python" - "$@" <<'PROGRAM'
import sys
import psycopg

try:
    with psycopg.connect(sys.argv[1], connect_timeout=3) as connection:
        print("in:", connection.execute(sys.argv[2] if len(sys.argv) > 2 else "SELECT current_user").fetchone()[0])
except psycopg.Error as error:
    print("out:", error)
PROGRAM
"""
TLS = "sslmode=verify-full sslrootcert=/etc/ssl/flask-on-metal-internal/authority.pem"


@dataclass(frozen=True)
class Pair:
    """The web host and the database."""

    ansible: Ansible
    front: Host
    postgres: Host
    front_address: str
    postgres_address: str
    folder: Path

    def sql(self, statement: str) -> str:
        """Ask the server, as its superuser."""
        return as_root(self.postgres, 'runuser -u postgres -- psql -X -A -t -c "$1"', statement).strip()

    def login(self, options: str, statement: str = "SELECT current_user") -> str:
        """Connect from the web host, and tell what came of it."""
        return as_root(self.front, CONNECT, f"host={self.postgres_address} {options}", statement).strip()

    def site(self, **variables: Any) -> Run:
        """Run everything."""
        run = self.ansible.playbook(SITE, variables=variables, timeout=400)
        assert run.status == 0, run.output
        return run

    def answers(self) -> bool:
        """Tell whether the board does."""
        try:
            return ask(self.front_address, NAME, "/latest", timeout=3).status == 200
        except (NoAnswerError, OSError):
            return False


@pytest.fixture(scope="module")
def pair(ansible: Ansible, control_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Reach both hosts."""
    names = ["front", "postgres"]
    found = testinfra.get_hosts([f"ansible://{name}" for name in names], ansible_inventory=ansible.inventory or None)
    hosts = [keep_open(host, control_path) for host in found]
    addresses = [str(host.ansible.get_variables()["ansible_host"]) for host in hosts]
    yield Pair(replace(ansible, limit=""), *hosts, *addresses, tmp_path_factory.mktemp("load"))


def test_an_app_gets_in_by_tls_and_its_password(pair: Pair) -> None:
    said = pair.login(
        f"user=newsboard password=scenario-newsboard dbname=newsboard {TLS}",
        "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    )
    assert said == "in: TLSv1.3"
    assert pair.sql("SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'newsboard'") == "t"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (f"user=newsboard password=wrong dbname=newsboard {TLS}", "password authentication failed"),
        ("user=newsboard password=scenario-newsboard dbname=newsboard sslmode=disable", "no encryption"),
        (f"user=newsboard password=scenario-newsboard dbname=another {TLS}", "no pg_hba.conf entry"),
        (f"user=newsboard password=scenario-newsboard dbname=postgres {TLS}", "no pg_hba.conf entry"),
        (f"user=postgres password=scenario-newsboard dbname=postgres {TLS}", "no pg_hba.conf entry"),
        (
            "user=newsboard password=scenario-newsboard dbname=newsboard sslmode=verify-full "
            "sslrootcert=/etc/ssl/certs/ca-certificates.crt",
            "certificate",
        ),
    ],
    ids=["password", "no TLS", "another's database", "the server's database", "superuser", "another authority"],
)
def test_nobody_else_gets_in(pair: Pair, options: str, why: str) -> None:
    said = pair.login(options)
    assert said.startswith("out:")
    assert why in said


def test_ports_are_closed_to_all_but_apps(pair: Pair) -> None:
    for port in (80, 443, 5432):
        with pytest.raises(OSError, match="timed out"):
            connect(pair.postgres_address, port, timeout=1)


def test_settings_are_in_force(pair: Pair) -> None:
    assert pair.sql("SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"
    assert pair.sql("SHOW shared_buffers") == "128MB"
    assert pair.sql("SHOW data_checksums") == "on"
    assert pair.sql("SHOW idle_in_transaction_session_timeout") == "1min"
    assert pair.sql("SHOW listen_addresses") == f"localhost,{pair.postgres_address}"


def test_what_was_answered_outlives_a_loss_of_power(pair: Pair) -> None:
    with steady_posts(pair.front_address, NAME, pair.folder, 20) as posts:
        power_off("postgres")
        run = pair.ansible.playbook(ROOT / "playbooks" / "test_hosts.yml", timeout=300)
        assert run.status == 0, run.output
        until(pair.answers, 60, "the board answers")
    posts.outcome.assert_kept()


def test_a_server_that_is_killed_is_back_by_itself(pair: Pair) -> None:
    with steady_posts(pair.front_address, NAME, pair.folder, 20) as posts:
        as_root(pair.postgres, "pkill -KILL -u postgres -x postgres")
        time.sleep(1)
        until(pair.answers, 60, "the board answers")
    posts.outcome.assert_kept()
    assert posts.outcome.stall < 30


def test_other_settings_and_another_password_come_with_the_next_run(pair: Pair) -> None:
    run = pair.site(postgresql_memory=256, database_password="scenario-changed")
    assert pair.sql("SHOW shared_buffers") == "64MB"
    assert "in:" in pair.login(f"user=newsboard password=scenario-changed dbname=newsboard {TLS}")
    assert "out:" in pair.login(f"user=newsboard password=scenario-newsboard dbname=newsboard {TLS}")
    assert pair.answers()
    assert "scenario-changed" not in run.output


AS_A_CLUSTER = {
    "_postgresql_cluster": True,
    **{f"postgresql_{name}_password": "scenario-cluster" for name in ("superuser", "replication", "rest")},
}


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        # Its data are nobody's to throw away.
        ({"_postgresql_releases": ["13"]}, "it is a server by itself"),
        ({}, "A cluster of databases needs Debian 13"),
    ],
    ids=["data", "Debian 12"],
)
def test_a_server_is_made_no_member_of_a_cluster(pair: Pair, variables: dict[str, Any], why: str) -> None:
    run = pair.ansible.playbook(SITE, variables={**AS_A_CLUSTER, **variables}, timeout=200)
    assert run.status != 0
    assert why in " ".join(run.output.split())
    assert run.changed == []
    assert pair.answers()
