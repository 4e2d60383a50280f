"""Ansible module: whether web hosts answer this balancer."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils.addresses import host_form
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.unix_http import Answer, ImpatientTLSSocket, exchange, until_good
from ansible.module_utils.visible import one_line

DOCUMENTATION = r"""
---
module: balancer_probe
short_description: Asks web hosts for the health of apps, as a balancer does
description:
  - Connects to the balancers' port of each web host, with the certificates that NGINX uses, and asks for each app.
  - All of them have to answer 200, and are asked until they do or the app's health_timeout is over.
options:
  peers:
    description: Addresses and ports by the hosts' names, as 192.0.2.11:8443.
    type: dict
    required: true
  apps:
    description: The apps, each with name, domains, health_path and health_timeout.
    type: list
    elements: dict
    required: true
  certificates: {description: "Folder of key.pem, certificate.pem and authority.pem.", type: path, required: true}
  one:
    description: Whether it is enough that one of them answers for each app.
    type: bool
    default: false
  refusal: {description: What the message begins with where they don't., type: str, default: ""}
"""

EXAMPLES = r"""
- name: Web host answers this balancer
  balancer_probe:
    peers: {web1.example.org: "192.0.2.11:8443"}
    apps: [{name: news, domains: [news.example.org], health_path: /status, health_timeout: 30}]
    certificates: /etc/ssl/flask-on-metal-internal
"""

# What a web host's certificate says that it is.
NAME = "web.flask-on-metal.internal"


class PeerConnection(http.client.HTTPConnection):
    """HTTP over TLS to an address, with certificates of the installation's authority on both sides."""

    def __init__(self, peer: str, host: str, certificates: Path, seconds: float) -> None:
        """Note where to connect; `seconds` is the time for all of it."""
        super().__init__(host_form(host), timeout=seconds)  # IPv6: its end isn't a port
        self.end = time.monotonic() + seconds
        self.address, _, port = peer.rpartition(":")
        self.peer_port = int(port)
        self.context = ssl.create_default_context(cafile=str(certificates / "authority.pem"))
        self.context.sslsocket_class = ImpatientTLSSocket
        self.context.load_cert_chain(certificates / "certificate.pem", certificates / "key.pem")

    def connect(self) -> None:
        """Open the connection to the peer, whatever the host's name leads to."""
        plain = socket.create_connection((self.address.strip("[]"), self.peer_port), timeout=self.timeout)
        plain.settimeout(max(self.end - time.monotonic(), 0.001))
        wrapped = self.context.wrap_socket(plain, server_hostname=NAME)
        assert isinstance(wrapped, ImpatientTLSSocket)
        wrapped.end = self.end
        self.sock = wrapped


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "peers": {"type": "dict", "required": True},
            "apps": {"type": "list", "elements": "dict", "required": True},
            "certificates": {"type": "path", "required": True},
            "one": {"type": "bool", "default": False},
            "refusal": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    certificates = Path(params["certificates"])

    def ask(peer: str, app: dict[str, Any], seconds: float) -> Answer:
        """Ask a web host once."""
        try:
            connection = PeerConnection(peer, app["domains"][0], certificates, seconds)
        except OSError as error:
            module.fail_json(msg=f"{certificates}: this host's certificate can't be used ({error}). Run site.yml")
        return exchange(connection, app["health_path"])

    def first_good(peers: dict[str, str], app: dict[str, Any], seconds: float) -> Answer:
        """Ask one web host after the other until one answers well; the last answer, if none does."""
        answer = Answer(0, "no host is left")
        for peer in peers.values():
            answer = ask(peer, app, max(seconds / len(peers), 1))
            if answer.good:
                break
        return answer

    peers: dict[str, str] = params["peers"]
    for app in params["apps"]:
        for group in [peers] if params["one"] else [{name: peer} for name, peer in peers.items()]:
            answer = until_good(partial(first_good, group, app), float(app["health_timeout"]) if group else 0)
            if not answer.good:
                said = f"{answer.status or ''} {one_line(answer.text[:200])}".strip()
                who = f"{app['name']} of {', '.join(group) or 'nobody'}"
                module.fail_json(msg=f"{params['refusal']} {who} answers: {said}".strip())
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
