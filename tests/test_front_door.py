"""What a client meets at a host's own addresses: the app by its names, and nothing for anybody else."""

import re

import pytest
from helpers import App, Promised, as_root
from helpers_http import NoAnswerError, ask, connect, context, handshake, in_host_header, is_address
from testinfra.host import Host

pytestmark = pytest.mark.tier("web", "balancer")

STRANGER = "nobody-lives-here.example"

REVEALING = re.compile(r"nginx/\d|debian|ubuntu|openssl|uwsgi|python|werkzeug|flask/\d", re.IGNORECASE)


@pytest.fixture(scope="module", params=["IPv4", "IPv6"])
def addresses(request, promised: Promised) -> list[str]:
    """List the host's addresses of one kind."""
    found = [address for address in promised.addresses if (":" in address) == (request.param == "IPv6")]
    if not found:
        pytest.skip(f"{promised.host} has no {request.param} address that the inventory or a name server knows")
    return found


@pytest.fixture(scope="module")
def visits(addresses: list[str], apps: list[App]) -> list[tuple[str, App]]:
    """Pair each app with each address."""
    return [(address, app) for address in addresses for app in apps]


def test_canonical_domain_is_answered_by_the_app(visits):
    for address, app in visits:
        answer = ask(address, app.canonical, app.health_path)
        assert answer.status == 200, f"https://{app.canonical}{app.health_path} at {address}: {answer.text[:200]}"


def test_http_leads_to_https_of_the_canonical_name(visits):
    for address, app in visits:
        for domain in app.domains:
            answer = ask(address, domain, "/some/where?and=more", tls=False)
            to = in_host_header(domain) if is_address(domain) else app.canonical
            assert (answer.status, answer.headers.get("location")) == (301, f"https://{to}/some/where?and=more")


def test_other_names_lead_to_the_canonical_one(visits):
    for address, app in visits:
        for name in app.names[1:]:
            answer = ask(address, name, "/some/where?and=more")
            assert (answer.status, answer.headers.get("location")) == (
                301,
                f"https://{app.canonical}/some/where?and=more",
            )


def test_address_without_a_name_is_answered_where_an_app_lists_it(visits, apps):
    listed = {address for app in apps for address in app.addresses}
    for address, app in visits:
        if address in app.addresses:
            assert ask(address, address, app.health_path).status == 200
        elif address not in listed:
            with pytest.raises(NoAnswerError):
                handshake(address, None)


def test_unknown_host_gets_no_answer_over_http(addresses):
    for address in addresses:
        with pytest.raises(NoAnswerError):
            ask(address, STRANGER, tls=False)


def test_handshake_for_an_unknown_name_is_refused(addresses):
    for address in addresses:
        with pytest.raises(NoAnswerError, match="UNRECOGNIZED_NAME"):
            handshake(address, STRANGER)


def test_unknown_host_behind_a_good_handshake_gets_no_answer(visits):
    for address, app in visits:
        with pytest.raises(NoAnswerError):
            ask(address, STRANGER, name=app.canonical)


def test_http2_is_offered_and_spoken(visits):
    for address, app in visits:
        with handshake(address, app.canonical, context(alpn=("h2", "http/1.1"))) as sock:
            assert sock.selected_alpn_protocol() == "h2"
            # The client's preface and empty settings (RFC 9113, 3.4). The server's first frame is settings: type 4.
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            assert sock.recv(9)[3] == 4


def test_nobody_learns_what_software_answers(visits):
    for address, app in visits:
        body = b"." * (app.max_body_bytes + 1)
        answers = {
            "page": ask(address, app.canonical, "/"),
            "error of the app": ask(address, app.canonical, "/no/such/page"),
            "redirect": ask(address, app.canonical, "/", tls=False),
            "malformed request": ask(address, app.canonical, "/", headers={"no colon": "and a space"}),
            "body that is too large": ask(address, app.canonical, "/", method="POST", body=body),
        }
        for prefix in app.static:
            answers[f"missing file of {prefix}"] = ask(address, app.canonical, f"{prefix}no-such-file")
        assert answers["malformed request"].status == 400
        for what, answer in answers.items():
            told = " ".join(answer.headers.get(name, "") for name in ("server", "x-powered-by", "via"))
            assert not REVEALING.search(told), f"{what}: {told}"
            if answer.status >= 300 and what != "error of the app":
                assert not REVEALING.search(answer.text), f"{what}: {answer.text}"


def test_header_that_is_too_large_is_the_clients_fault(visits, promised):
    buffers = promised.options["nginx_large_header_buffers"]
    for address, app in visits:
        one_line = ask(address, app.canonical, headers={"Cookie": "a" * 9000})
        assert one_line.status in (400, 431)
        together = ask(address, app.canonical, headers={f"X-{number}": "a" * 7900 for number in range(buffers + 1)})
        assert together.status in (400, 431)


def test_header_that_nginx_lets_through_reaches_the_app(visits, promised):
    # uWSGI's buffer is larger than NGINX's limit: else this would be a 502.
    headers = {f"X-{number}": "a" * 7900 for number in range(promised.options["nginx_large_header_buffers"] - 1)}
    for address, app in visits:
        assert ask(address, app.canonical, app.health_path, headers=headers).status == 200


def test_body_above_the_limit_is_refused(visits):
    for address, app in visits:
        answer = ask(address, app.canonical, "/", method="POST", body=b"." * (app.max_body_bytes + 1))
        assert answer.status == 413


def test_static_files_do_not_lead_out_of_their_folder(visits):
    for address, app in visits:
        for prefix in app.static:
            outside = ("../../pyproject.toml", "..%2f..%2fpyproject.toml", "../config.py", "%2e%2e/%2e%2e/wsgi.py")
            for path in (*(prefix + end for end in outside), f"{prefix.rstrip('/')}../config.py"):
                answer = ask(address, app.canonical, path)
                # An app may answer to any path; a file has the time of its last change.
                refused = answer.status in (400, 403, 404)
                assert refused or (answer.status == 200 and "last-modified" not in answer.headers), (
                    f"{path}: {answer.status}"
                )


def test_plain_http_on_the_tls_port_is_no_way_in(visits):
    for address, app in visits:
        with connect(address, 443) as sock:
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {app.canonical}\r\n\r\n".encode())
            said = sock.recv(4096)
        assert said == b"" or b" 400 " in said.splitlines()[0]


def test_address_that_no_app_lists_serves_no_stranger(host: Host, apps):
    # The loopback address of the host itself is such a one.
    script = """
      printf 'GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n' "$2" |
        timeout 10 openssl s_client -quiet -connect 127.0.0.1:443 -servername "$1" 2>/dev/null | head -n 1 || true
    """
    for app in apps:
        name = app.names[0] if app.names else ""
        if name:
            assert as_root(host, script, name, STRANGER) == "", "another Host header behind our name was answered"
            assert as_root(host, script, name, name).startswith("HTTP/1.1 ")
