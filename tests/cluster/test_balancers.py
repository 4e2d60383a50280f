"""Clients meet one address, and know nothing of what is behind it."""

from __future__ import annotations

import json
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ansible.module_utils.internal_authority import signed
from helpers import ROOT
from helpers_http import NoAnswerError, ask, connect, handshake
from installation import NAME, Installation, answers
from machines import until

PROBER = "prober.example.org"


def test_the_addresses_are_on_one_balancer(installation: Installation) -> None:
    assert len(installation.active()) == 1
    assert answers(installation.floating)
    assert answers(installation.floating6)


def test_all_web_hosts_get_requests(installation: Installation) -> None:
    counts = installation.served_by(40)
    assert sorted(counts) == ["web1", "web2"]
    assert min(counts.values()) >= 5


def test_each_balancer_serves_by_itself(installation: Installation) -> None:
    for name in ("balancer1", "balancer2"):
        assert answers(installation.addresses[name]), name


def test_the_app_learns_who_asks(installation: Installation) -> None:
    # From the client's own host, with what a client may claim.
    claims = {
        "X-Forwarded-For": "198.51.100.1",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example",
        "X-Request-ID": "claimed-by-the-client",
    }
    headers = " ".join(f"-H '{name}: {value}'" for name, value in claims.items())
    script = f"""
      command -v curl >/dev/null || {{ apt-get -qq update; apt-get -qq -y install curl; }} >/dev/null 2>&1
      curl --silent --insecure --resolve "$2:443:$1" {headers} "https://$2/who"
    """
    arrived = json.loads(installation.root("client", script, installation.floating, PROBER))
    assert arrived["client"] == installation.addresses["client"]
    assert arrived["url"] == f"https://{PROBER}/who"
    environ = arrived["environ"]
    assert environ["HTTP_X_FORWARDED_FOR"] == installation.addresses["client"]
    assert environ["HTTP_X_FORWARDED_PROTO"] == "https"
    assert environ["HTTP_X_FORWARDED_HOST"] == PROBER
    assert environ["HTTP_HOST"] == PROBER
    assert environ["HTTP_X_REQUEST_ID"] != "claimed-by-the-client"


def test_one_request_has_one_id_in_all_logs(installation: Installation) -> None:
    answer = ask(installation.floating, PROBER, "/traced")
    identity = answer.headers["x-request-id"]
    assert [name for name, _ in answer.fields].count("x-request-id") == 1
    (active,) = installation.active()

    def logged() -> bool:
        script = 'grep -c "$1" /var/log/nginx/access.log || true'
        found = {name: int(installation.root(name, script, identity)) for name in (active, "web1", "web2")}
        return found[active] == 1 and found["web1"] + found["web2"] == 1

    until(logged, 10, "the id is in the logs")


def test_headers_are_sent_once(installation: Installation) -> None:
    answer = ask(installation.floating, NAME, "/")
    names = [name for name, _ in answer.fields]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
    assert answer.headers["x-content-type-options"] == "nosniff"
    # Its certificate is none that browsers trust.
    assert "strict-transport-security" not in answer.headers


def test_what_is_served_alone_is_served_as_before(installation: Installation) -> None:
    for name in ("web1", "web2"):
        address = installation.addresses[name]
        assert answers(address), name
        # And there a client's word counts as little as ever.
        answer = ask(
            address, PROBER, "/alone", headers={"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "http"}
        )
        arrived = json.loads(answer.body)
        assert arrived["environ"]["HTTP_X_FORWARDED_PROTO"] == "https"
        assert arrived["client"] != "198.51.100.1"


# --- the balancers' port


# Asks for all of them at once: one that is closed is one that doesn't answer.
OPEN_PORTS = """
for port in "${@:2}"; do
  (timeout 2 bash -c "exec 3<>/dev/tcp/$1/$port" 2>/dev/null && echo "$port" || true) &
done
wait
"""


def open_ports(installation: Installation, source: str, name: str, *ports: int) -> set[int]:
    """Tell which ports of a host take a connection from another."""
    words = (installation.addresses[name], *map(str, ports))
    return set(map(int, installation.root(source, OPEN_PORTS, *words).split()))


def assert_closed(address: str, ports: tuple[int, ...]) -> None:
    """Make sure that ports don't answer this machine at all."""

    def ask_port(port: int) -> None:
        with pytest.raises(OSError, match="timed out"):
            connect(address, port, timeout=2)

    with ThreadPoolExecutor() as pool:
        list(pool.map(ask_port, ports))


def test_the_port_is_closed_to_all_but_balancers(installation: Installation) -> None:
    def look(name: str) -> None:
        assert_closed(installation.addresses[name], (8443,))
        assert open_ports(installation, "db1", name, 443, 8443) == {443}
        assert open_ports(installation, "balancer1", name, 443, 8443) == {443, 8443}

    with ThreadPoolExecutor() as pool:
        list(pool.map(look, ("web1", "web2")))


def test_a_database_is_closed_to_all_but_apps(installation: Installation) -> None:
    ports = (80, 443, 5432, 8008, 2379, 2380)
    assert_closed(installation.addresses["db1"], ports)
    assert open_ports(installation, "web1", "db1", *ports) == {5432}
    assert 2380 in open_ports(installation, "db2", "db1", *ports)


ASK_WEB = """
openssl s_client -connect "$1:8443" -servername web.flask-on-metal.internal \\
  -verify_hostname web.flask-on-metal.internal -CAfile "$2/authority.pem" -verify_return_error $3 \\
  -quiet -ign_eof 2>&1 <<< $'GET /latest HTTP/1.1\\r\\nHost: news.example.org\\r\\nConnection: close\\r\\n\\r' || true
"""
FOLDER = "/etc/ssl/flask-on-metal-internal"
PAIR = f"-cert {FOLDER}/certificate.pem -key {FOLDER}/key.pem"


def test_a_balancer_without_its_certificate_is_refused(installation: Installation) -> None:
    for name in ("web1", "web2"):
        address = installation.addresses[name]
        said = installation.root("balancer1", ASK_WEB, address, FOLDER, PAIR)
        assert "HTTP/1.1 200" in said
        said = installation.root("balancer1", ASK_WEB, address, FOLDER, "")
        assert "HTTP/1.1 200" not in said


def test_another_host_of_the_installation_is_no_balancer(installation: Installation) -> None:
    # On the host itself, where no firewall is in the way; a web host has a certificate of the same authority.
    said = installation.root("web1", ASK_WEB, "127.0.0.1", FOLDER, PAIR)
    assert "HTTP/1.1 403" in said


def certificate_of(installation: Installation, name: str, tier: str) -> str:
    """Sign a certificate for a host's key as the installation's authority does, but for another tier."""
    folder = ROOT / "build" / "molecule" / "cluster"
    authority, key = ((folder / part).read_text() for part in ("authority.pem", "authority-key.pem"))
    request = installation.root(name, f"openssl req -new -key {FOLDER}/key.pem -subj /")
    names = [name, f"{tier}.flask-on-metal.internal", installation.addresses[name]]
    return signed(request, authority, key, host=name, tier=tier, names=names, days=2)


def test_a_balancer_takes_a_web_hosts_certificate_alone(installation: Installation) -> None:
    certificate = certificate_of(installation, "web1", "database")
    put = f'cd {FOLDER}; cp certificate.pem /root/right.pem; printf %s "$1" > certificate.pem; systemctl reload nginx'
    installation.root("web1", put, certificate)
    try:
        time.sleep(2)
        assert installation.served_by(20)["web1"] == 0
    finally:
        installation.root("web1", f"cp /root/right.pem {FOLDER}/certificate.pem; systemctl reload nginx")
    until(lambda: installation.served_by(20)["web1"] > 0, 30, "web1 gets requests again")


ASK_ETCD = f"""
import http.client, ssl, sys
tls = ssl.create_default_context(cafile="{FOLDER}/authority.pem")
tls.load_cert_chain(sys.argv[2], "{FOLDER}/key.pem")
connection = http.client.HTTPSConnection(sys.argv[1], 2380, timeout=5, context=tls)
try:
    connection.request("GET", "/members")
    print(connection.getresponse().read().decode())
except OSError as error:
    print(error)
"""


def test_a_member_of_etcd_shows_a_databases_certificate(installation: Installation) -> None:
    address = installation.addresses["db1"]
    ask_etcd = '/usr/bin/python3 -c "$1" "$2" "$3"'
    assert "peerURLs" in installation.root("db1", ask_etcd, ASK_ETCD, address, f"{FOLDER}/certificate.pem")
    put = 'printf %s "$1" > /root/other.pem'
    installation.root("db1", put, certificate_of(installation, "db1", "web"))
    assert "peerURLs" not in installation.root("db1", ask_etcd, ASK_ETCD, address, "/root/other.pem")


def test_unknown_names_are_refused(installation: Installation) -> None:
    with pytest.raises(NoAnswerError):
        handshake(installation.floating, "nobody.example.org")
    with pytest.raises((NoAnswerError, ssl.SSLError)):
        ask(installation.floating, "nobody.example.org", tls=False)


def test_plain_http_leads_to_https(installation: Installation) -> None:
    answer = ask(installation.floating, NAME, "/newest", tls=False)
    assert (answer.status, answer.headers["location"]) == (301, f"https://{NAME}/newest")
