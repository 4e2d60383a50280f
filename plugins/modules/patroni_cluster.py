"""Ansible module: Patroni on this host, and the settings that the whole cluster shares."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.postgresql_https import Client
from ansible.module_utils.postgresql_units import Unit

DOCUMENTATION = r"""
---
module: patroni_cluster
short_description: A member of a Patroni cluster that runs, and the cluster's own settings
description:
  - Starts Patroni, or has it read its changed file. Waits until there is a leader and this member follows it.
  - The leader alone brings the settings that all share (Patroni's dynamic configuration) to what is given. Settings
    that are not given are left as they are.
  - Some of PostgreSQL's own need a restart of it. The step restart does that from the leader's host, one member after
    another and the leader last, and only where Patroni says that one is pending.
options:
  step:
    description: run starts, reloads and configures; restart restarts PostgreSQL where that is pending.
    type: str
    choices: [run, restart]
    required: true
  unit: {description: "Patroni's service, as patroni@17-main.service.", type: str, required: true}
  name: {description: Of this member., type: str, required: true}
  api: {description: "URL of this member's REST API.", type: str, required: true}
  certificates: {description: "Folder of key.pem, certificate.pem and authority.pem.", type: path, required: true}
  files: {description: That Patroni reads., type: list, elements: path, required: true}
  settings: {description: Dynamic configuration., type: dict, required: true}
  user: {description: Name at the REST API., type: str, default: patroni}
  password: {description: Its password., type: str, required: true}
  seconds: {description: To wait for a leader and for this member., type: int, default: 300}
"""

EXAMPLES = r"""
- name: Member follows the leader
  patroni_cluster:
    step: run
    unit: patroni@17-main.service
    name: database1
    api: https://192.0.2.21:8008
    certificates: /etc/ssl/flask-on-metal-internal
    files: [/etc/patroni/17-main.yml]
    settings: {ttl: 20}
    password: "{{ vault_rest }}"
"""

RETURN = r"""
leader: {description: Name of the leader., type: str, returned: success}
unsettled:
  description: Whether this run changed what may need a restart of PostgreSQL, or one is pending.
  returned: success
  type: bool
"""

# Of a member that does its work: before Patroni 4 a standby is running, from then on it says what it does.
WORKING = ("running", "streaming", "in archive recovery")

# Of a member that has what was committed, and may follow the leader.
SECOND = ("sync_standby", "quorum_standby")


def patch_for(now: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of what is wanted that is otherwise now. Lists count as a whole."""
    patch: dict[str, Any] = {}
    for name, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(now.get(name), Mapping):
            if inner := patch_for(now[name], value):
                patch[name] = inner
        elif name not in now or now[name] != value:
            patch[name] = value
    return patch


def patched(now: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a patch makes of settings."""
    after = dict(copy.deepcopy(now))
    for name, value in patch.items():
        inner = after.get(name)
        after[name] = patched(inner, value) if isinstance(value, Mapping) and isinstance(inner, Mapping) else value
    return after


def leader_of(members: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Find the leader that does its work."""
    return next((one for one in members if one["role"] == "leader" and one["state"] in WORKING), None)


def follows(member: Mapping[str, Any] | None, leader: Mapping[str, Any] | None) -> bool:
    """Whether a member does its work and has the leader's history: a former leader runs before it is brought back."""
    if member is None or leader is None or member["state"] not in WORKING:
        return False
    return bool(member.get("timeline") == leader.get("timeline"))


def restart_order(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List the members whose PostgreSQL has to restart: the leader last, before it the one that commits wait for."""
    pending = [one for one in members if one.get("pending_restart")]
    return sorted(pending, key=lambda one: (one["role"] == "leader", one["role"] in SECOND, one["name"]))


class Patroni:
    """The member on this host, and the cluster."""

    def __init__(self, module: AnsibleModule) -> None:
        """Note who is who."""
        params = module.params
        self.module = module
        self.name: str = params["name"]
        folder = Path(params["certificates"])
        self.client = Client(folder, (params["user"], params["password"]))
        pair = [folder / "key.pem", folder / "certificate.pem", folder / "authority.pem"]
        self.unit = Unit(module, params["unit"], [*params["files"], *pair])

    def ask(self, method: str, path: str, body: object = None) -> object:
        """Ask this member; None where it doesn't answer."""
        answer = self.client.ask(method, f"{self.module.params['api']}/{path}", body, seconds=5)
        if method != "GET" and not answer.good:
            self.module.fail_json(msg=f"Patroni refuses {method} /{path}: {answer.status} {answer.value}")
        return answer.value if answer.good else None

    def members(self) -> list[dict[str, Any]]:
        """List the members; none where Patroni doesn't answer."""
        found = self.ask("GET", "cluster")
        return list(found.get("members", [])) if isinstance(found, dict) else []

    def shared(self) -> dict[str, Any]:
        """Fetch the settings that all share."""
        found = self.ask("GET", "config")
        if isinstance(found, dict):
            return found
        self.module.fail_json(msg="Patroni doesn't tell the settings that the cluster shares. Run this again")
        return {}

    def wait(self) -> list[dict[str, Any]]:
        """Wait for a leader, and until this member is it or follows it; returns the members."""
        end = time.monotonic() + self.module.params["seconds"]
        while True:
            members = self.members()
            own = next((one for one in members if one["name"] == self.name), None)
            if follows(own, leader_of(members)):
                return members
            if time.monotonic() > end:
                state = own["state"] if own else "not to be seen"
                leader = "there is a leader" if leader_of(members) else "there is no leader"
                self.module.fail_json(
                    msg=f"Patroni's member {self.name} is {state} after {self.module.params['seconds']} s, "
                    f"and {leader}. "
                    "A large database takes its time to be copied: then run this again. Else: patronictl -c "
                    f"{self.module.params['files'][0]} list\n{self.unit.journal()}"
                )
            time.sleep(0.5)

    def take_up(self) -> tuple[bool, bool]:
        """Start it, or have it read its files; tells whether that was needed, and whether it ran before."""
        running, enabled = self.unit.running(), self.unit.enabled()
        behind = not running or self.unit.behind()
        if not self.module.check_mode and (behind or not enabled):
            if not enabled:
                self.unit.system("enable")
            digest = self.unit.digest()
            if behind:
                self.unit.system("reload" if running else "start")
            self.unit.remember(digest)
        return behind or not enabled, running

    def run(self) -> dict[str, Any]:
        """Run, and as the leader bring the shared settings to what is wanted."""
        changed, running = self.take_up()
        if self.module.check_mode and not running:
            return {"changed": True, "leader": "", "unsettled": False}
        members = self.wait()
        leader = leader_of(members)
        assert leader is not None
        unsettled = (changed and running) or any(one.get("pending_restart") for one in members)
        result: dict[str, Any] = {"changed": changed, "leader": leader["name"], "unsettled": unsettled}
        if leader["name"] == self.name:
            now = self.shared()
            patch = patch_for(now, self.module.params["settings"])
            if patch:
                if not self.module.check_mode:
                    self.ask("PATCH", "config", patch)
                result["diff"] = {"before": pretty(now), "after": pretty(patched(now, patch))}
                result |= {"changed": True, "unsettled": True}
            self.wait_for_second()
        return result

    def restart(self) -> dict[str, Any]:
        """Restart PostgreSQL where that is pending. The leader's host does it for all, so that it is one at a time."""
        members = self.wait()
        leader = leader_of(members)
        assert leader is not None
        result = {"changed": False, "leader": leader["name"], "unsettled": False}
        if leader["name"] != self.name:
            return result
        if not self.module.check_mode:
            # Each member looks for new settings once in a round, and says in the next that it has to restart.
            time.sleep(2 * int(self.module.params["settings"].get("loop_wait", 10)) + 1)
        order = restart_order(self.members())
        for member in order:
            if self.module.check_mode:
                break
            url = member["api_url"].rsplit("/", 1)[0] + "/restart"
            answer = self.client.ask("POST", url, {"restart_pending": True}, seconds=120)
            if not answer.good:
                self.module.fail_json(
                    msg=f"PostgreSQL of {member['name']} could not be restarted, which it has to be for its changed "
                    f"settings: {answer.status} {answer.value}. The others were left as they are; once it is well, "
                    "run this again"
                )
            self.wait_for(member["name"])
        self.wait_for_second()
        return result | {"changed": bool(order), "restarted": [one["name"] for one in order]}

    def wait_for(self, name: str) -> None:
        """Wait until a member is back, before the next one goes."""
        end = time.monotonic() + self.module.params["seconds"]
        while True:
            members = self.members()
            member = next((one for one in members if one["name"] == name), {"state": "", "pending_restart": True})
            if follows(member, leader_of(members)) and not member.get("pending_restart"):
                return
            if time.monotonic() > end:
                self.module.fail_json(msg=f"PostgreSQL of {name} isn't back after its restart. Look into its journal")
            time.sleep(0.5)

    def wait_for_second(self) -> None:
        """Wait for the member that commits wait for: until there is one, nobody may follow this leader if it is lost.

        Patroni chooses it in its next rounds. Where no other member is well there is none, which is no failure.
        """
        params = self.module.params
        end = time.monotonic() + 6 * int(params["settings"].get("loop_wait", 10))
        while params["settings"].get("synchronous_mode") and not self.module.check_mode and time.monotonic() < end:
            members = self.members()
            if len(members) < 2 or any(one["role"] in SECOND for one in members):
                return
            time.sleep(0.5)


def pretty(settings: Mapping[str, Any]) -> str:
    """Lay out settings for a diff."""
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["run", "restart"], "required": True},
            "unit": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "api": {"type": "str", "required": True},
            "certificates": {"type": "path", "required": True},
            "files": {"type": "list", "elements": "path", "required": True},
            "settings": {"type": "dict", "required": True},
            "user": {"type": "str", "default": "patroni"},
            "password": {"type": "str", "required": True, "no_log": True},
            "seconds": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    patroni = Patroni(module)
    module.exit_json(**(patroni.run() if module.params["step"] == "run" else patroni.restart()))


if __name__ == "__main__":
    main()
