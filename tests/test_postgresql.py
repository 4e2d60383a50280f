"""Databases: who gets in, and how; and that hosts of a cluster follow their leader."""

from __future__ import annotations

import json

import pytest
from helpers import Promised, as_root, blocks, pairs
from testinfra.host import Host

pytestmark = pytest.mark.tier("database")

LOOK = r"""
cd /
sql() { runuser -u postgres -- psql -X -A -t -c "$1" 2>&1 || true; }
echo "== settings"
sql "SELECT name || '=' || setting FROM pg_settings WHERE name IN
     ('ssl', 'ssl_min_protocol_version', 'password_encryption', 'data_checksums', 'fsync', 'full_page_writes')"
echo "== waiting"; sql "SELECT name FROM pg_settings WHERE pending_restart"
echo "== invalid"; sql "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL"
echo "== ways in"; sql "SELECT DISTINCT type || ' ' || auth_method FROM pg_hba_file_rules"
echo "== old passwords"
sql "SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolpassword NOT LIKE 'SCRAM-SHA-256\$%'"
echo "== superusers"; sql "SELECT rolname FROM pg_authid WHERE rolsuper"
echo "== owners"
sql "SELECT datname || '=' || pg_get_userbyid(datdba) FROM pg_database"
echo "== listening"; ss -Hltn 'sport = 5432 or sport = 8008 or sport = 2379 or sport = 2380' | awk '{print $4}'
echo "== units"
for unit in etcd patroni@*-main postgresql@*-main; do
  for found in $(systemctl list-units --plain --no-legend --all "$unit.service" | awk '{print $1}'); do
    systemctl show "$found" -p Id,ActiveState,UnitFileState | paste -sd ' '
  done
done
if compgen -G '/etc/patroni/*-main.yml' >/dev/null; then
  echo "== members"; timeout 15 patronictl -c /etc/patroni/*-main.yml list -f json || echo '[]'
fi
"""


@pytest.fixture(scope="module")
def found(host: Host) -> dict[str, str]:
    """Ask the host all that is asked here, in one go."""
    return blocks(as_root(host, LOOK))


def test_settings_that_keep_data_are_in_force(found):
    assert pairs(found["settings"]) == {
        "ssl": "on",
        "ssl_min_protocol_version": "TLSv1.3",
        "password_encryption": "scram-sha-256",
        "data_checksums": "on",
        "fsync": "on",
        "full_page_writes": "on",
    }
    assert found["waiting"] == "", "these wait for a restart: run playbooks/site.yml"


def test_nobody_gets_in_without_tls_and_a_password(found):
    assert found["invalid"] == ""
    assert set(found["ways in"].splitlines()) <= {"local peer", "local scram-sha-256", "hostssl scram-sha-256"}
    assert found["old passwords"] == ""
    assert found["superusers"] == "postgres"


def test_each_app_owns_its_database(found, promised: Promised):
    owners = pairs(found["owners"])
    for entry in promised.options["postgresql_databases"]:
        assert owners.get(entry["name"]) == entry["name"]


def test_no_port_is_listened_on_at_all_addresses(found):
    assert "5432" in found["listening"]
    assert [at for at in found["listening"].splitlines() if at.startswith(("0.0.0.0:", "*:", "[::]:"))] == []


def test_server_runs_and_starts_at_boot(found):
    units = [dict(word.split("=", 1) for word in line.split()) for line in found["units"].splitlines()]
    active = [unit for unit in units if unit["ActiveState"] == "active"]
    names = {unit["Id"].partition("@")[0].removesuffix(".service") for unit in active}
    assert names == ({"etcd", "patroni"} if "members" in found else {"postgresql"})
    assert all(unit["UnitFileState"].startswith("enabled") for unit in active)


def test_hosts_of_a_cluster_follow_their_leader(host: Host, found, promised: Promised):
    if "members" not in found:
        pytest.skip("this host is a server by itself")
    members = json.loads(found["members"])
    assert {member["Member"] for member in members} == set(host.ansible.get_variables()["groups"]["database"])
    roles = [member["Role"] for member in members]
    assert roles.count("Leader") == 1
    assert {member["State"] for member in members} <= {"running", "streaming"}
    assert ("Sync Standby" in roles) == promised.options["postgresql_synchronous"]
