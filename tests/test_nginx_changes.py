"""A configuration that does not serve never replaces the one that does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers import Ansible, Promised, as_root, inventory_name
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

STATE = """
echo "== tree"; find /etc/nginx -type f -o -type l | sort | xargs sha256sum 2>/dev/null
echo "== workers"; pgrep --parent "$(cat /run/nginx.pid)" --full 'nginx: worker'
echo "== id"; python3 - <<'END'
import socket
s = socket.socket(socket.AF_UNIX); s.connect("/run/nginx/status.sock")
s.sendall(b"GET /configuration HTTP/1.0\\r\\n\\r\\n")
print(s.makefile().read().split()[-1])
END
"""

# Is read and serves, though not as the one that was wanted: the status socket answers, with something else.
ANOTHER = """
pid /run/nginx.pid;
events {}
http { server { listen unix:/run/nginx/status.sock; return 200 another; } }
"""


def served(state: str) -> list[str]:
    """Leave the workers out of a state: a reload replaces them."""
    return [part for part in state.split("== ") if not part.startswith("workers")]


@pytest.fixture
def configure(ansible: Ansible, host: Host) -> Callable[..., str]:
    """Run nginx_config on this host as the role does, and return Ansible's output; a failure is meant."""

    def run(**arguments: Any) -> str:
        task = {"name": "Change", "nginx_config": arguments}
        try:
            return ansible.play([
                {"hosts": inventory_name(host), "become": True, "gather_facts": False, "tasks": [task]}
            ]).output  # fmt: skip
        except RuntimeError as error:
            return str(error)

    return run


def test_configuration_that_is_not_valid_is_refused_with_nginx_own_words(
    host: Host, configure: Callable[..., str]
) -> None:
    before = as_root(host, STATE)
    said = configure(files={"sites/broken.conf": "server { listen 80; no_such_directive on; }"})
    assert "NGINX refuses the new configuration; the old one goes on serving." in said
    assert 'unknown directive "no_such_directive" in /etc/nginx/sites/broken.conf:1' in said
    assert as_root(host, STATE) == before


@pytest.mark.one_host
def test_configuration_that_is_valid_and_cannot_serve_is_taken_back(host: Host, configure: Callable[..., str]) -> None:
    before = as_root(host, STATE)
    # A port that somebody holds: `nginx -t` and the reload both succeed, and nothing of the new configuration serves.
    as_root(host, "systemd-run --quiet --unit=port-holder python3 -m http.server 8099 --bind 0.0.0.0; sleep 1")
    try:
        said = configure(files={"sites/taken.conf": "server { listen 0.0.0.0:8099; return 204; }"})
    finally:
        as_root(host, "systemctl stop port-holder")
    assert "was valid but does not serve; the old one was put back" in said
    assert "bind() to 0.0.0.0:8099 failed" in said
    assert served(as_root(host, STATE)) == served(before)


@pytest.mark.one_host
def test_configuration_that_serves_something_else_is_taken_back(host: Host, configure: Callable[..., str]) -> None:
    before = as_root(host, STATE)
    said = configure(files={"nginx.conf": ANOTHER})
    assert "was valid but does not serve; the old one was put back" in said
    # This one did serve: its files are gone, and its workers as well.
    assert served(as_root(host, STATE)) == served(before)


@pytest.mark.one_host
def test_files_of_somebody_else_stop_the_run_before_anything_changes(
    ansible: Ansible, host: Host, promised: Promised
) -> None:
    before = as_root(host, STATE)
    as_root(host, "mkdir -p /etc/nginx/conf.d; echo '# mine' >/etc/nginx/conf.d/mine.conf")
    # Something that the run would bring right, if it came so far.
    as_root(host, "echo '# differs' >>/etc/nginx/nginx.conf")
    try:
        refused = ansible.on(host).playbook("playbooks/site.yml")
        assert refused.status != 0
        assert "/etc/nginx/conf.d/mine.conf" in refused.output
        assert "nginx_adopt: true" in refused.output
        assert not refused.changed
        assert "# mine" in as_root(host, "cat /etc/nginx/conf.d/mine.conf")
        adopted = ansible.on(host).playbook("playbooks/site.yml", variables={"nginx_adopt": True})
        assert adopted.status == 0, adopted.output
        assert "# mine" in as_root(host, "cat /var/backups/flask-on-metal/*/conf.d/mine.conf")
        assert served(as_root(host, STATE)) == served(before)
    finally:
        as_root(host, "rm -rf /etc/nginx/conf.d/mine.conf /var/backups/flask-on-metal")
        as_root(host, "sed -i '/^# differs$/d' /etc/nginx/nginx.conf")


@pytest.mark.one_host
def test_site_that_left_the_inventory_is_gone(ansible: Ansible, host: Host, configure: Callable[..., str]) -> None:
    listening = "ss --listening --tcp --numeric --no-header 'sport = :8098'"
    configure(files={"sites/short-lived.conf": "server { listen 127.0.0.1:8098; return 204; }"})
    assert as_root(host, "cd /etc/nginx/sites; ls *.conf").split() == ["newsboard.conf", "short-lived.conf"]
    assert as_root(host, listening)
    run = ansible.on(host).playbook("playbooks/site.yml")
    assert run.status == 0, run.output
    assert as_root(host, "cd /etc/nginx/sites; ls *.conf").split() == ["newsboard.conf"]
    assert not as_root(host, listening)


# A site of ours that names a certificate which is gone: NGINX doesn't start with it.
WITHOUT_CERTIFICATE = "server { listen 127.0.0.1:8097 ssl; ssl_certificate /gone.pem; ssl_certificate_key /gone.pem; }"


@pytest.mark.one_host
def test_host_whose_nginx_does_not_start_gets_no_release_and_is_brought_back(
    ansible: Ansible, host: Host, configure: Callable[..., str]
) -> None:
    before = as_root(host, STATE)
    configure(files={"sites/left.conf": "server { listen 127.0.0.1:8097; return 204; }"})
    as_root(host, f"echo '{WITHOUT_CERTIFICATE}' >/etc/nginx/sites/left.conf; systemctl restart nginx || true")
    try:
        refused = ansible.on(host).playbook("playbooks/deploy.yml", variables={"force": True})
        assert refused.status != 0
        assert "NGINX doesn't answer on this host (systemctl calls it " in refused.output
        assert 'cannot load certificate "/gone.pem"' in refused.output
        assert "Next: playbooks/site.yml" in refused.output
        assert not refused.changed
        # A change that NGINX takes, with one that it doesn't: what is said of it was asked.
        said = configure(files={"sites/newer.conf": "server { listen 127.0.0.1:8098; return 204; }"})
        assert "It doesn't answer with the old one either" in said
        repaired = ansible.on(host).playbook("playbooks/site.yml")
        assert repaired.status == 0, repaired.output
        assert "NGINX did not run, and starts without sites/left.conf" in repaired.output
        assert served(as_root(host, STATE)) == served(before)
    finally:
        as_root(host, "rm -f /etc/nginx/sites/left.conf; systemctl is-active --quiet nginx || systemctl start nginx")


@pytest.mark.one_host
def test_names_of_any_length_are_served(host: Host, configure: Callable[..., str]) -> None:
    before, sizes = as_root(host, STATE), as_root(host, "cat /etc/nginx/hash_sizes.conf")
    name = ".".join(["a" * 60, "b" * 60, "c" * 60, "d" * 58, "example.org"])
    site = f"server {{ listen 127.0.0.1:8098; server_name {name}; set $header_{'x' * 500} 1; return 204; }}"
    assert "could not build variables_hash" in configure(files={"sites/long.conf": site})
    larger = "".join(f"{table}_hash_bucket_size 1024;\n" for table in ("variables", "server_names"))
    try:
        assert "refuses" not in configure(files={"sites/long.conf": site, "hash_sizes.conf": larger})
        asked = (
            "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8098);"
            f"c.request('GET', '/', headers={{'Host': '{name}'}}); print(c.getresponse().status)"
        )
        assert as_root(host, f'python3 -c "{asked}"').strip() == "204"
    finally:
        configure(files={"hash_sizes.conf": sizes}, owned=["sites/long.conf"])
    assert served(as_root(host, STATE)) == served(before)
