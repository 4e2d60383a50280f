"""Ansible module: a refused release, stopped and explained."""

from __future__ import annotations

from typing import Any

from ansible.module_utils import front_door
from ansible.module_utils.disk_space import shed
from ansible.module_utils.filesystem import link_atomically
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.kept_pages import forget
from ansible.module_utils.release import (
    Release,
    RunCommand,
    open_again,
    probe_socket,
    release_module,
    serving,
    stop_instance,
    stopped_first,
    systemctl,
    wait_for_empty_queue,
)
from ansible.module_utils.release_lock import Lock
from ansible.module_utils.unix_http import ask_app

DOCUMENTATION = r"""
---
module: release_abandon
short_description: Stops a release that was refused, and fails with all that the operator needs
description:
  - The folder of a new release is kept for a look, and marked. A release that was marked is never a rollback target.
    Its environment and large files of its code are removed: a failed release must not be what fills the disk.
  - A release that had served before and was to be gone back to keeps its folder and gets no mark.
  - Where it serves already and another host of the run refused it, traffic goes back to what served before, which
    still runs.
  - Gives the run's lock back.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The refused release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  step: {description: Name of the task that refused it., type: str, required: true}
  reason: {description: What that task said., type: str, required: true}
  next: {description: The command to run when the cause is mended., type: str, required: true}
  back:
    description: Whether traffic has gone to it on this host, and is to go back.
    type: bool
    default: false
  previous:
    description: Where traffic is to go back. Empty where nothing served before.
    type: str
    default: ""
  served_before:
    description: Whether it is an earlier release that a rollback went to.
    type: bool
    default: false
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


def still_serving(run: RunCommand, release: Release) -> str:
    """Say whether the release that `current` names serves: its instance is asked, and NGINX."""
    path = release.record().get("health", {}).get("path") or "/"
    # Which status it is doesn't matter: as long as the app answers, it is as well as it was.
    if not ask_app(probe_socket(release.runtime), "localhost", path, 5).status:
        return f"The release {release.id} is current as before, and its instance doesn't answer: {release.service}"
    if silence := front_door.silence(run):
        return f"The release {release.id} is current as before. {silence}"
    return f"The release {release.id} goes on serving."


def abandon(module: AnsibleModule, release: Release, lines: list[str]) -> None:
    """Put a refused release out of the way, and add to the message's lines what was found and done."""
    args, run = module.params, module.run_command
    current = release.app.current()
    lines.append(
        f"Release {release.id} of {release.app.name} was refused at the step “{args['step']}”: {args['reason']}"
    )
    if current == release and args["back"] and not module.check_mode:
        current = Release(release.app, args["previous"]) if args["previous"] else None
        if current:
            link_atomically(release.app.link, f"releases/{current.id}")
            # Pages that it sent in the meantime find their static files.
            link_atomically(release.app.previous_link, f"releases/{release.id}")
            current.unmark("withdrawn")
        else:
            release.app.link.unlink()
        if not args["served_before"]:
            release.unmark("activated")
        wait_for_empty_queue(release, 70)
        forget(release.app.name)
        lines.append("It served here already, and this host has gone back.")
    if current == release:
        lines[0] = f"Release {release.id} of {release.app.name} serves, but “{args['step']}” failed: {args['reason']}"
        lines.append("What else follows the switch, the next run does.")
    elif release.folder.is_dir() and not module.check_mode:
        lines.append(f"Its folder is kept for a look: {release.folder}")
        # A release that nobody waits for needs no grace; one whose probe hangs would take all of it.
        if not args["back"] and not serving(release):
            systemctl(run, "kill", "--signal=SIGKILL", release.service)
        if complaint := stop_instance(run, release):
            lines.append(f"Its instance did not stop cleanly: {complaint}")
        if not release.marked("activated"):
            # Not what served for a while: pages that it sent still ask for its files.
            if not args["back"]:
                shed(release)
                lines.append("Its environment is removed, and so are the files of its code above 1 MB.")
            try:
                release.mark("failed")
            except OSError as error:
                # A full disk, for one. Without a mark it counts as unfinished: no way back leads there either.
                lines.append(f"It can't be marked as failed ({error.strerror}), so the next run removes it.")
    if current is None:
        lines.append("Nothing served before, and nothing does now.")
    elif current != release:
        if stopped_first(current.app) and not module.check_mode:
            complaint = systemctl(run, "start", current.socket) or systemctl(run, "start", current.service)
            lines.append(f"{current.id} was stopped first, and {complaint or 'runs again'}.")
            open_again(current.app)
        lines.append(still_serving(run, current))


def main() -> None:
    """Run the module."""
    arguments: dict[str, Any] = {name: {"type": "str", "required": True} for name in ("step", "reason", "next")}
    arguments |= {name: {"type": "bool", "default": False} for name in ("back", "served_before")}
    arguments["previous"] = {"type": "str", "default": ""}
    # What is done here concerns the refused release alone, and is right even when somebody broke the lock.
    module, release = release_module(arguments, locked=False)
    lines: list[str] = []
    try:
        abandon(module, release, lines)
    except OSError as error:
        lines.append(f"It could not be put out of the way ({error}): the next run does what is left.")
    finally:
        # Whatever went wrong: the run ends here, and nobody else would give it back.
        if not module.check_mode:
            Lock(release.app.name).give_back(module.params["run"])
    lines.append(f"Its whole journal, on the host: journalctl -u {release.service}")
    lines.append(f"Next: mend the cause, then: {module.params['next']}")
    module.fail_json(msg="\n".join(lines))


if __name__ == "__main__":
    main()
