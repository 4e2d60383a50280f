"""Ansible module: a refused release, stopped and explained."""

from __future__ import annotations

from ansible.module_utils.release import release_module, serving, stop_instance, systemctl
from ansible.module_utils.release_lock import Lock

DOCUMENTATION = r"""
---
module: release_abandon
short_description: Stops a release that was refused, and fails with all that the operator needs
description:
  - The folder of a new release is kept for a look, and marked. A release that was marked is never a rollback target.
  - A release that had served before and was to be gone back to keeps its folder and gets no mark.
  - Gives the run's lock back.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The refused release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  step: {description: Name of the task that refused it., type: str, required: true}
  reason: {description: What that task said., type: str, required: true}
  next: {description: The command to run when the cause is mended., type: str, required: true}
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: Refused release is out of the way
  release_abandon:
    app: news
    id: 20260101T000000Z-0123abcd
    run: 0123456789ab
    step: Probe
    reason: "{{ why }}"
    next: ansible-playbook playbooks/deploy.yml
"""


def main() -> None:
    """Run the module."""
    arguments = {name: {"type": "str", "required": True} for name in ("step", "reason", "next")}
    # What is done here concerns the refused release alone, and is right even when somebody broke the lock.
    module, release = release_module(arguments, locked=False)
    args, run = module.params, module.run_command
    current = release.app.current()
    lines = [f"Release {release.id} of {release.app.name} was refused at the step “{args['step']}”: {args['reason']}"]
    if current == release:
        lines[0] = f"Release {release.id} of {release.app.name} serves, but “{args['step']}” failed: {args['reason']}"
        lines.append("What else follows the switch, the next run does.")
    elif release.folder.is_dir() and not module.check_mode:
        lines.append(f"Its folder is kept for a look: {release.folder}")
        try:
            if not release.marked("activated"):
                release.mark("failed")
        except OSError as error:
            # A full disk, for one. Without a mark it counts as unfinished: no way back leads there either.
            lines.append(f"It can't be marked as failed ({error.strerror}), so the next run removes it.")
        # A release that nobody waits for needs no grace; one whose probe hangs would take all of it.
        if not serving(run, release):
            systemctl(run, "kill", "--signal=SIGKILL", release.service)
        if complaint := stop_instance(run, release):
            lines.append(f"Its instance did not stop cleanly: {complaint}")
    if current is None:
        lines.append("Nothing served before, and nothing does now.")
    elif current != release:
        lines.append(f"The release {current.id} goes on serving.")
    lines.append(f"Its whole journal, on the host: journalctl -u {release.service}")
    lines.append(f"Next: mend the cause, then: {args['next']}")
    if not module.check_mode:
        Lock(release.app.name).give_back(args["run"])
    module.fail_json(msg="\n".join(lines))


if __name__ == "__main__":
    main()
