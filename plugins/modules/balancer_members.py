"""Ansible module: which web hosts a balancer leaves out, and whether it still talks to one."""

from __future__ import annotations

import re
import time
from pathlib import Path

from ansible.module_utils.filesystem import read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule

DOCUMENTATION = r"""
---
module: balancer_members
short_description: Web hosts that a balancer leaves out
description:
  - What is out stays out, through every run and every boot, until it is taken in again. The upstreams are rendered from
    it.
options:
  out:
    description: Hosts to leave out from now on.
    type: list
    elements: str
    default: []
  in:
    description: Hosts to take in again.
    type: list
    elements: str
    default: []
  passing:
    description: Whether hosts go out for a moment only. Those that somebody else took out are left out then.
    type: bool
    default: false
  all:
    description: All web hosts, one of which has to remain. Empty where it doesn't matter.
    type: list
    elements: str
    default: []
  quiet:
    description: Addresses and ports of hosts, as 192.0.2.11:8443. Waits until this balancer has no connection to them.
    type: list
    elements: str
    default: []
  seconds:
    description: How long that may take.
    type: int
    default: 90
"""

EXAMPLES = r"""
- name: Web host gets no more requests
  balancer_members:
    out: [web1.example.org]
"""

RETURN = r"""
out:
  description: The hosts that are left out now.
  returned: success
  type: list
  elements: str
known:
  description: The hosts that this balancer's upstreams name.
  returned: success
  type: list
  elements: str
apps:
  description: The apps that this host serves as a balancer, by now.
  returned: success
  type: list
  elements: str
"""

OPERATOR, RUN = "an operator", "a run"
STATE = Path("/var/lib/flask-on-metal/balancer/out")


UPSTREAMS = Path("/etc/nginx/sites")


def connections(module: AnsibleModule, peers: list[str]) -> int:
    """Count this host's connections to others, as the kernel has them."""
    words = ["ss", "-Htn", "state", "established", " or ".join(f"dst {peer}" for peer in peers)]
    _, listed, _ = module.run_command(words, check_rc=True)
    return len(listed.splitlines())


def changed(before: dict[str, str], out: list[str], back: list[str], by: str) -> dict[str, str]:
    """Tell who is out, and by whom, after some go out or come back.

    Whom an operator took out stays out until an operator takes it in.
    """
    after = dict(before)
    for name in out:
        if by == OPERATOR or name not in after:
            after[name] = by
    for name in back:
        if by in (OPERATOR, after.get(name)):
            after.pop(name, None)
    return after


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "out": {"type": "list", "elements": "str", "default": []},
            "in": {"type": "list", "elements": "str", "default": []},
            "passing": {"type": "bool", "default": False},
            "all": {"type": "list", "elements": "str", "default": []},
            "quiet": {"type": "list", "elements": "str", "default": []},
            "seconds": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    params = module.params
    by = RUN if params["passing"] else OPERATOR
    before = {path.name: (read_text(path) or "").strip() for path in STATE.iterdir()} if STATE.is_dir() else {}
    after = changed(before, params["out"], params["in"], by)
    if params["out"] and params["all"] and set(params["all"]) <= set(after):
        module.fail_json(
            msg=f"{', '.join(sorted(before)) or 'none'} of the web hosts are out already; without"
            f" {', '.join(params['out'])} none would remain. Nothing was changed."
        )
    if not module.check_mode:
        for name in after:
            if after[name] != before.get(name):
                STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
                write_atomically(STATE / name, after[name] + "\n", 0o644)
        for name in before.keys() - after.keys():
            (STATE / name).unlink()
    if params["quiet"] and not module.check_mode:
        end = time.monotonic() + params["seconds"]
        while (left := connections(module, params["quiet"])) and time.monotonic() < end:
            time.sleep(0.1)
        if left:
            module.fail_json(
                msg=f"{', '.join(params['quiet'])}: {left} connections of this balancer are left after"
                f" {params['seconds']} s, since somebody waits for a long answer. It is out; nothing else was changed."
            )
    texts = {path.parent.name: path.read_text() for path in UPSTREAMS.glob("*/upstream.conf")}
    known = {name for text in texts.values() for name in re.findall(r"^ *server .*;  # (\S+)$", text, re.MULTILINE)}
    module.exit_json(changed=before != after, out=sorted(after), known=sorted(known), apps=sorted(texts))


if __name__ == "__main__":
    main()
