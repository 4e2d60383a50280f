"""Ansible module: the old release, stopped when nobody waits for it any more."""

from __future__ import annotations

from ansible.module_utils.kept_pages import forget
from ansible.module_utils.release import release_module, stop_instance, wait_for_empty_queue

DOCUMENTATION = r"""
---
module: release_drain
short_description: Stops a release that traffic has left
description:
  - Waits for the kernel's queue of the old socket and not for a time. Connections in it would be lost if it closed.
  - The service then finishes what it works on (a graceful stop), and its socket goes after it.
  - Pages that NGINX keeps are forgotten at the end, since the last of them may be its.
  - Where the queue doesn't run empty, because the workers are stuck, it is stopped all the same, with a warning.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release to stop., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  seconds:
    description: Time for the queue to run empty. The default is longer than NGINX waits for an answer by default.
    type: int
    default: 70
"""

EXAMPLES = r"""
- name: Old instance has stopped
  release_drain: {app: news, id: 20260101T000000Z-0123abcd, run: 0123456789ab}
"""


def main() -> None:
    """Run the module."""
    module, release = release_module({"seconds": {"type": "int", "default": 70}}, secret=())
    if module.check_mode:
        module.exit_json(changed=True)
    current = release.app.current()
    if current == release:
        module.fail_json(msg=f"{release.id} is what is served; it is not drained")
    if waiting := wait_for_empty_queue(release, module.params["seconds"]):
        module.warn(
            f"{release.id} was stopped with {waiting} requests that nobody took from its queue for"
            f" {module.params['seconds']} s: its workers were stuck"
        )
    if complaint := stop_instance(module.run_command, release):
        module.fail_json(
            msg=f"the new release serves, but the old one, {release.id}, did not stop cleanly: {complaint}"
        )
    # What it answered after the switch may have been kept.
    forget(release.app.name)
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
