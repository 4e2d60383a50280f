"""Ansible module: the moved link."""

from __future__ import annotations

from ansible.module_utils import front_door
from ansible.module_utils.filesystem import link_atomically
from ansible.module_utils.kept_pages import forget
from ansible.module_utils.release import PROBE_ARGUMENTS, open_again, probe, probe_failure, release_module, systemctl

DOCUMENTATION = r"""
---
module: release_activate
short_description: Moves the traffic to a release that runs
description:
  - Enables the instance, then moves the link, so that the release that C(current) names is enabled at every instant. A
    boot after a crash anywhere in between brings it back.
  - Asks once more through the link, and moves it back where the answer isn't 200, or where NGINX serves no more.
  - Where NGINX doesn't serve, nothing is moved.
  - Pages that NGINX keeps are forgotten with it, so that no visitor meets the old release's.
  - The link C(previous) then names what served before, so that pages which it sent still find their static files.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  host: {description: Host header of the request., type: str, required: true}
  path: {description: Path that is to answer 200., type: str, required: true}
  seconds: {description: Time for it., type: int, required: true}
  withdraw:
    description: Whether what served before is marked as gone back from, so that no rollback goes there by itself.
    type: bool
    default: false
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: Traffic goes to the new release
  release_activate:
    {app: news, id: 20260101T000000Z-0123abcd, run: 0123456789ab, host: news.example.org, path: /status, seconds: 30}
"""

RETURN = r"""
previous: {description: Id of the release that served before, or nothing., type: str, returned: always}
"""


def main() -> None:
    """Run the module."""
    module, release = release_module({**PROBE_ARGUMENTS, "withdraw": {"type": "bool", "default": False}})
    run, app = module.run_command, release.app
    before = app.current()
    previous = before.id if before else ""
    if module.check_mode or before == release:
        module.exit_json(changed=before != release, previous="" if before == release else previous)

    if silence := front_door.silence(run):
        module.fail_json(msg=f"nothing was switched: {silence}")
    if complaint := systemctl(run, "enable", "--quiet", release.socket, release.service):
        module.fail_json(msg=f"it can't be enabled: {complaint}")
    # Noted first: a rollback that is killed in between must not make the next deploy repeat what it went back from.
    # One that goes forward again withdraws nothing, and takes back what a killed one noted.
    if before and module.params["withdraw"] and release.id < before.id:
        before.mark("withdrawn")
    elif before:
        before.unmark("withdrawn")
    link_atomically(app.link, f"releases/{release.id}")
    answer = probe(app.link / "run", module.params)
    silence = front_door.silence(run) if answer.good else ""
    if silence or not answer.good:
        if before:
            link_atomically(app.link, f"releases/{before.id}")
            before.unmark("withdrawn")
            forget(app.name)
        else:
            app.link.unlink()
        why = (
            f"NGINX was silent, so the link was moved back: {silence}"
            if silence
            else f"its probe failed, so the link was moved back: {probe_failure(module, release, answer)}"
        )
        module.fail_json(msg=f"after the switch {why}")
    release.mark("activated")
    release.unmark("withdrawn")
    if before:
        link_atomically(app.previous_link, f"releases/{before.id}")
    forget(app.name)
    open_again(app)
    module.exit_json(changed=True, previous=previous)


if __name__ == "__main__":
    main()
