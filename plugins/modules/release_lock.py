"""Ansible module: the lock on an app's releases, taken or given back."""

from __future__ import annotations

import time

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import App, open_again
from ansible.module_utils.release_lock import Holder, Lock, now

DOCUMENTATION = r"""
---
module: release_lock
short_description: Takes the lock on an app's releases on this host, or gives it back
description:
  - It dies with a reboot, and when nobody has renewed it for its limit. The phases of a release renew it.
  - That somebody else has it is no failure of the module but its answer, so that the locks of several hosts can be
    taken one after the other, up to the first that is refused.
options:
  app: {description: Name of the app., type: str, required: true}
  run: {description: The run that wants it; 12 hex digits., type: str, required: true}
  state: {description: Whether it is to be held., type: str, choices: [present, absent], default: present}
  who: {description: Who runs it., type: str, default: ""}
  origin: {description: The machine that the run is on., type: str, default: ""}
  what: {description: What the run does., type: str, default: ""}
  limit: {description: Seconds., type: int, default: 600}
  current:
    description: Id of the release that the run takes for the current one. The lock is refused where another one is.
    type: str
  broken: {description: The run whose lock is broken., type: str, default: ""}
"""

EXAMPLES = r"""
- name: Releases of the app are this run's alone
  release_lock: {app: news, run: 0123456789ab, who: me, origin: laptop, what: deploy}
"""

RETURN = r"""
refused: {description: Why it was not taken and who has it; empty if it was taken., type: str, returned: always}
held_by: {description: The run that has it; empty if none does., type: str, returned: always}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "run": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "who": {"type": "str", "default": ""},
            "origin": {"type": "str", "default": ""},
            "what": {"type": "str", "default": ""},
            "limit": {"type": "int", "default": 600},
            "current": {"type": "str"},
            "broken": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    args = module.params
    lock = Lock(args["app"])
    if args["state"] == "absent":
        if not module.check_mode:
            lock.give_back(args["run"])
        module.exit_json(changed=False, refused="", held_by="")
    wanted = Holder(
        run=args["run"],
        who=args["who"],
        origin=args["origin"],
        what=args["what"],
        phase="lock",
        since=time.time(),
        renewed=now(),
        limit=args["limit"],
    )
    other = None if module.check_mode else lock.take(wanted, args["broken"])
    refused, held_by = "", args["run"]
    if other:
        refused, held_by = f"are locked by another run:\n{other.told()}", other.run
    elif args["current"] is not None and not module.check_mode:
        found = App(args["app"]).current()
        current = found.id if found else ""
        # Of a run that was killed; what is current is brought back by this one.
        open_again(App(args["app"]))
        if current != args["current"]:
            lock.give_back(args["run"])
            refused, held_by = f"have changed since this run looked at them: {current} is current now.", ""
    # Held for minutes and gone afterwards: nothing of the host's state.
    module.exit_json(changed=False, refused=refused, held_by=held_by)


if __name__ == "__main__":
    main()
