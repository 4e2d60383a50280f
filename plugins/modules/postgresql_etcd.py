"""Ansible module: etcd on this host, as a member of the cluster's."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.addresses import host_form
from ansible.module_utils.filesystem import read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.postgresql_https import Client
from ansible.module_utils.postgresql_units import Unit

DOCUMENTATION = r"""
---
module: postgresql_etcd
short_description: A member of etcd that makes a cluster with the others, or joins theirs
description:
  - Writes Debian's /etc/default/etcd and starts the service. A host without data asks the others - where nobody
    answers, all of them begin together; where they have a cluster already, it joins that, also in the place of itself
    if it lost its data.
  - A member that has data keeps what it began with, whatever the inventory says now; etcd reads it no more.
  - The first step, start, waits for nobody, since a cluster needs most of its members. What has to wait is the step
    settle, one host after another.
options:
  step:
    description: start writes and starts; settle waits until it works, and restarts it where it has older settings.
    type: str
    choices: [start, settle]
    required: true
  name: {description: Of this member., type: str, required: true}
  members: {description: Address of each member by its name., type: dict, required: true}
  content: {description: "The file's text, without how the cluster begins.", type: str, required: true}
  certificates: {description: "Folder of key.pem, certificate.pem and authority.pem.", type: path, required: true}
  drop_in: {description: Our file of its unit., type: path, required: true}
  file: {description: Where the settings go., type: path, default: /etc/default/etcd}
  data: {description: Where etcd keeps its data., type: path, default: /var/lib/etcd/default}
  seconds: {description: To wait for a member to work., type: int, default: 60}
"""

EXAMPLES = r"""
- name: Member of etcd runs
  postgresql_etcd:
    step: start
    name: database1
    members: {database1: 192.0.2.21, database2: 192.0.2.22, database3: 192.0.2.23}
    content: "ETCD_NAME=database1\n"
    certificates: /etc/ssl/flask-on-metal-internal
    drop_in: /etc/systemd/system/etcd.service.d/50-flask-on-metal.conf
"""

RETURN = r"""
settled:
  description: Whether the member works, with the settings that are written down.
  returned: success
  type: bool
"""

BEGINNING = ("ETCD_INITIAL_CLUSTER", "ETCD_INITIAL_CLUSTER_STATE")


def peer_url(address: str) -> str:
    """Where members talk to each other."""
    return f"https://{host_form(address)}:2380"


def client_url(address: str) -> str:
    """Where Patroni talks to a member."""
    return f"https://{host_form(address)}:2379"


def beginning(members: Mapping[str, str], state: str) -> dict[str, str]:
    """Make the settings by which a member without data finds the others.

    Args:
        members: address of each by name.
        state: new or existing.
    """
    cluster = ",".join(f"{name}={peer_url(address)}" for name, address in members.items())
    return dict(zip(BEGINNING, (cluster, state), strict=True))


def kept(text: str | None) -> dict[str, str]:
    """Find what a member began with, in the file as it is."""
    found = dict(re.findall(r"^(\w+)=(.*)$", text or "", re.MULTILINE))
    return {name: found[name] for name in BEGINNING if name in found}


def own_entry(found: Iterable[Mapping[str, Any]], url: str) -> Mapping[str, Any] | None:
    """Find this host among the members of a cluster, as etcd lists them."""
    return next((member for member in found if url in member.get("peerURLs", [])), None)


class Etcd:
    """The member on this host, and the others."""

    def __init__(self, module: AnsibleModule) -> None:
        """Note who is who."""
        params = module.params
        self.module = module
        self.name: str = params["name"]
        self.members: dict[str, str] = params["members"]
        self.file = Path(params["file"])
        folder = Path(params["certificates"])
        self.client = Client(folder)
        # It reads a renewed certificate by itself, but not another authority's.
        self.unit = Unit(module, "etcd.service", [self.file, params["drop_in"], folder / "authority.pem"])

    @property
    def address(self) -> str:
        """Where this member is."""
        return self.members[self.name]

    def works(self) -> bool:
        """Whether this member takes part: it answers only when most of them agree."""
        answer = self.client.ask("GET", f"{client_url(self.address)}/health")
        return answer.good and isinstance(answer.value, dict) and answer.value.get("health") == "true"

    def has_data(self) -> bool:
        """Whether this member has begun, ever."""
        return (Path(self.module.params["data"]) / "member").is_dir()

    def call(self, action: str, body: object) -> list[dict[str, Any]] | None:
        """Ask the other members to list, add or remove one; returns the members then, or None where nobody answers."""
        said = ""
        for name, address in self.members.items():
            if name == self.name:
                continue
            answer = self.client.ask("POST", f"{client_url(address)}/v3/cluster/member/{action}", body, seconds=5)
            if answer.good:
                found: list[dict[str, Any]] = answer.value.get("members", [])
                return found
            if answer.status:
                said = f"{name}: {answer.value}"
        if said and action != "list":
            self.module.fail_json(
                msg=f"etcd's other members refuse to {action} {self.name}: {said}. A member that is gone for good is "
                f"in the way: {self.file} on another host says how etcdctl is called; list the members, remove that "
                "one (member remove <id>), and run this again"
            )
        return None

    def start_values(self) -> dict[str, str]:
        """Choose how this member begins: with the others, or in their cluster."""
        if self.has_data():
            return kept(read_text(self.file)) or beginning(self.members, "existing")
        found = self.call("list", {})
        if not found:
            return beginning(self.members, "new")
        url = peer_url(self.address)
        own = own_entry(found, url)
        if own and own.get("name") and not own.get("clientURLs"):
            # One of those that begin together; the others were quicker.
            return beginning(self.members, "new")
        if own and own.get("clientURLs"):
            # It took part once, and lost its data: whom etcd knows may not come back with nothing.
            if not self.module.check_mode:
                self.call("remove", {"ID": own["ID"]})
            own = None
        if own is None and not self.module.check_mode:
            self.call("add", {"peerURLs": [url]})
            found = self.call("list", {}) or found
        names = {peer_url(address): name for name, address in self.members.items()}
        known: dict[str, str] = {}
        for member in found:
            (peer, *_) = member["peerURLs"]
            known[member.get("name") or names.get(peer, "")] = peer
        known[self.name] = url
        if "" in known:
            self.module.fail_json(
                msg=f"etcd has a member at {known['']} that never began and is not in the inventory's group database. "
                "Put it back, or take it out of etcd: etcdctl member list, etcdctl member remove <id>"
            )
        text = ",".join(f"{name}={peer}" for name, peer in known.items())
        return dict(zip(BEGINNING, (text, "existing"), strict=True))

    def text(self) -> str:
        """Return the whole file."""
        lines = [f"{name}={value}" for name, value in self.start_values().items()]
        return "\n".join(
            [
                self.module.params["content"].rstrip("\n"),
                "",
                "# How this member began. Once it has data, etcd reads it no more.",
                *lines,
                "",
            ]
        )

    def start(self) -> dict[str, Any]:
        """Write the settings and start; wait only where the others have a cluster already."""
        before, after = read_text(self.file), self.text()
        changed = before != after
        joins = changed and not self.has_data() and "ETCD_INITIAL_CLUSTER_STATE=existing" in after
        diff = [
            {"before_header": str(self.file), "after_header": str(self.file), "before": before or "", "after": after}
        ]
        running = self.unit.running()
        if self.module.check_mode:
            return {"changed": changed or not running, "settled": True, "diff": diff if changed else []}
        if changed:
            write_atomically(self.file, after, 0o644)
        if not running:
            digest = self.unit.digest()
            self.unit.system("start", "--no-block")
            self.unit.remember(digest)
            if joins:
                self.wait()
        return {
            "changed": changed or not running,
            "settled": not self.unit.behind() and self.works(),
            "diff": diff if changed else [],
        }

    def settle(self) -> dict[str, Any]:
        """Wait until it works. With older settings it is restarted, which the others bear, one at a time."""
        behind = self.unit.behind()
        if self.module.check_mode:
            return {"changed": behind, "settled": True}
        if behind:
            # Not before it works: else two of three might be away at once.
            self.wait()
            digest = self.unit.digest()
            self.unit.system("restart")
            self.unit.remember(digest)
        self.wait()
        return {"changed": behind, "settled": True}

    def wait(self) -> None:
        """Wait until this member works."""
        end = time.monotonic() + self.module.params["seconds"]
        while not self.works():
            if time.monotonic() > end:
                others = ", ".join(sorted(set(self.members) - {self.name}))
                self.module.fail_json(
                    msg=f"etcd doesn't work here after {self.module.params['seconds']} s: it needs most of its "
                    "members. "
                    f"Do {others} run it, and does the firewall let ports 2379 and 2380 through among them?\n"
                    + self.unit.journal()
                )
            time.sleep(0.5)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["start", "settle"], "required": True},
            "name": {"type": "str", "required": True},
            "members": {"type": "dict", "required": True},
            "content": {"type": "str", "required": True},
            "certificates": {"type": "path", "required": True},
            "drop_in": {"type": "path", "required": True},
            "file": {"type": "path", "default": "/etc/default/etcd"},
            "data": {"type": "path", "default": "/var/lib/etcd/default"},
            "seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    etcd = Etcd(module)
    module.exit_json(**(etcd.start() if module.params["step"] == "start" else etcd.settle()))


if __name__ == "__main__":
    main()
