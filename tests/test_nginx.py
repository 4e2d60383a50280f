"""The server itself: what it serves is what is on disk, and what it may do is little."""

import re

import pytest
from helpers import as_root, blocks, pairs
from testinfra.host import Host

pytestmark = pytest.mark.tier("web", "balancer")

ASK = """
import http.client, socket
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/nginx/status.sock")
connection.request("GET", "/configuration")
print(connection.getresponse().read().decode())
"""

LOOK = r"""
echo "== written"; cat /etc/nginx/configuration_id.conf
echo "== serving"; /usr/bin/python3 -c "$1" 2>&1 || true
echo "== folder"; stat --format='%U:%G %a' /run/nginx
echo "== stranger"; runuser -u www-data -- test -e /run/nginx/status.sock && echo reached || echo refused
echo "== test"; nginx -t 2>&1 || true
echo "== unit"; systemctl show nginx.service -p Type,NRestarts,ActiveState,UnitFileState,FragmentPath,NeedDaemonReload
echo "== exposure"; systemd-analyze security --no-pager nginx.service | tail -n 1
echo "== workers"; ps -o user= --ppid "$(cat /run/nginx.pid)"
echo "== master"; ps -o user= --pid "$(cat /run/nginx.pid)"
since=$(date -d "$(systemctl show nginx.service -p InactiveExitTimestamp --value)" '+%Y/%m/%d %H:%M:%S')
echo "== log"
awk -v since="$since" '$1 " " $2 >= since && /\[(emerg|alert|crit)\]/' /var/log/nginx/error.log |
  grep -v 'SSL_do_handshake() failed' || true  # what strangers send is not our doing
echo "== writable"; find /etc/nginx -not -type l -perm /022
"""


@pytest.fixture(scope="module")
def found(host: Host) -> dict[str, str]:
    """Ask the host all that is asked here, in one go."""
    return blocks(as_root(host, LOOK, ASK))


def test_configuration_that_serves_is_the_one_on_disk(found):
    written = re.search(r"default (\w+);", found["written"])
    assert written
    assert found["serving"].strip() == written.group(1), "a reload went wrong: run playbooks/site.yml"


def test_status_is_for_root_alone(found):
    assert found["folder"] == "root:root 700"
    assert found["stranger"] == "refused"


def test_configuration_is_valid(found):
    assert "test is successful" in found["test"]
    assert "[warn]" not in found["test"]


def test_configuration_is_roots_to_write(found):
    assert found["writable"] == ""


def test_workers_run_without_privileges(found):
    assert set(found["workers"].split()) == {"www-data"}
    assert found["master"].strip() == "root"


def test_sandbox_keeps_the_exposure_at_3_or_less(found):
    level = re.search(r"level for nginx\.service: ([0-9.]+)", found["exposure"])
    assert level, found["exposure"]
    assert float(level.group(1)) <= 3.0


def test_unit_is_debians_and_starts_at_boot(found):
    unit = pairs(found["unit"])
    assert unit["Type"] == "forking"
    assert unit["FragmentPath"].endswith("lib/systemd/system/nginx.service")
    assert (unit["ActiveState"], unit["UnitFileState"], unit["NeedDaemonReload"]) == ("active", "enabled", "no")


def test_never_had_to_be_started_again(found):
    assert pairs(found["unit"])["NRestarts"] == "0"


def test_nothing_grave_was_logged_since_the_start(found):
    assert found["log"] == ""
