"""Ansible module: a refused release, stopped and explained."""

from __future__ import annotations

from ansible.module_utils.release import release_module, stop_instance

DOCUMENTATION = r"""
---
module: release_abandon
short_description: Stops a release that was refused, marks it, and fails with all that the operator needs
description:
  - The folder is kept for a look. A release that was marked is never a rollback target.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The refused release., type: str, required: true}
  step: {description: Name of the task that refused it., type: str, required: true}
  reason: {description: What that task said., type: str, required: true}
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: Refused release is out of the way
  release_abandon: {app: news, id: 20260101T000000Z-0123abcd, step: probe, reason: "{{ why }}"}
"""


def main() -> None:
    """Run the module."""
    module, release = release_module(
        {"step": {"type": "str", "required": True}, "reason": {"type": "str", "required": True}}
    )
    current = release.app.current()
    kept = ""
    if release.folder.is_dir() and current != release and not module.check_mode:
        release.mark("failed")
        kept = f"Its folder is kept for a look: {release.folder}\n"
        stop_instance(module.run_command, release)
    serving = (
        f"The release {current.id} goes on serving." if current else "Nothing served before, and nothing does now."
    )
    if current == release:
        serving = "It serves already: only what follows the switch is missing, and the next run does it."
    module.fail_json(
        msg=f"Release {release.id} of {release.app.name} was refused at the step “{module.params['step']}”: "
        f"{module.params['reason']}\n{kept}{serving}\n"
        f"Next: mend the cause and run again. The whole journal, on the host: journalctl -u '{release.service}'"
    )


if __name__ == "__main__":
    main()
