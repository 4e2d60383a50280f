"""Balancers: each reaches every web host, and what moves their addresses is at work."""

from __future__ import annotations

import pytest
from helpers import App, Promised, as_root, blocks, pairs
from helpers_http import ask, in_host_header
from testinfra.host import Host

pytestmark = pytest.mark.tier("balancer")

# Each web host as NGINX asks it: with a certificate of its own, and only a web host's will do.
LOOK = r"""
echo "== keepalived"; systemctl show keepalived.service -p ActiveState,UnitFileState,NRestarts
cd "$1"; program=$2; shift 2
while (($#)); do
  for server in $(awk '$1 == "server" && !/ down;/ {print $2}' "/etc/nginx/sites/$1/upstream.conf"); do
    echo "== $1 at $server"; /usr/bin/python3 -c "$program" "$server" "$2" "$3" 2>&1 | tail -n 1 || true
  done
  shift 3
done
"""
ASK = """
import http.client, socket, ssl, sys
server, name, path = sys.argv[1:]
address, _, port = server.rpartition(":")
tls = ssl.create_default_context(cafile="authority.pem")
tls.load_cert_chain("certificate.pem", "key.pem")
plain = socket.create_connection((address.strip("[]"), int(port)), timeout=5)
connection = http.client.HTTPConnection(name)
connection.sock = tls.wrap_socket(plain, server_hostname="web.flask-on-metal.internal")
connection.request("GET", path, headers={"Host": name})
print(connection.getresponse().status)
"""


@pytest.fixture(scope="module")
def found(host: Host, promised: Promised, apps: list[App]) -> dict[str, str]:
    """Ask the host all that is asked here, in one go."""
    wanted = [word for app in apps for word in (app.name, in_host_header(app.canonical), app.health_path)]
    return blocks(as_root(host, LOOK, promised.options["certificate_internal_directory"], ASK, *wanted))


def test_each_web_host_that_is_in_answers_for_each_app(found, apps):
    answers = {name: said for name, said in found.items() if " at " in name}
    assert {name.partition(" ")[0] for name in answers} == {app.name for app in apps}
    assert {name: said for name, said in answers.items() if said.strip() != "200"} == {}


def test_what_moves_the_addresses_is_at_work(found, promised):
    if not promised.options["balancer_addresses"]:
        pytest.skip("balancer_addresses is empty")
    assert pairs(found["keepalived"]) == {"ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "0"}


def test_shared_addresses_are_answered(promised, apps):
    for address in promised.options["balancer_addresses"]:
        for app in apps:
            assert ask(address, app.canonical, app.health_path).status == 200, f"{app.canonical} at {address}"
