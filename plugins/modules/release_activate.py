"""Ansible module: the moved link."""

from __future__ import annotations

from ansible.module_utils.filesystem import link_atomically
from ansible.module_utils.release import journal, release_module, systemctl
from ansible.module_utils.unix_http import ask_until_good

DOCUMENTATION = r"""
---
module: release_activate
short_description: Moves the traffic to a release that runs
description:
  - Enables the instance, then moves the link, so that the release that C(current) names is enabled at every instant. A
    boot after a crash anywhere in between brings it back.
  - Asks once more through the link, and moves it back where the answer isn't 200.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  host: {description: Host header of the request., type: str, required: true}
  path: {description: Path that is to answer 200., type: str, required: true}
  seconds: {description: Time for it., type: int, required: true}
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: Traffic goes to the new release
  release_activate: {app: news, id: 20260101T000000Z-0123abcd, host: news.example.org, path: /status, seconds: 30}
"""

RETURN = r"""
previous: {description: Id of the release that served before, or nothing., type: str, returned: always}
"""


def main() -> None:
    """Run the module."""
    module, release = release_module(
        {
            "host": {"type": "str", "required": True},
            "path": {"type": "str", "required": True},
            "seconds": {"type": "int", "required": True},
        }
    )
    args, run, app = module.params, module.run_command, release.app
    before = app.current()
    previous = before.id if before else ""
    if module.check_mode or previous == release.id:
        module.exit_json(changed=previous != release.id, previous=previous)
    if complaint := systemctl(run, "enable", "--quiet", release.socket, release.service):
        module.fail_json(msg=f"it can't be enabled: {complaint}")
    link_atomically(app.link, f"releases/{release.id}")
    path = app.link / "run" / "private" / "probe.sock"
    answer = ask_until_good(path, args["host"], args["path"], args["seconds"])
    if not answer.good:
        if before:
            link_atomically(app.link, f"releases/{previous}")
        else:
            app.link.unlink()
        module.fail_json(
            msg=f"after the switch {args['path']} answered {answer.status or 'nothing'} and not 200, so the link was"
            f" moved back:\n{answer.text}\nThe last lines of its journal:\n{journal(run, release)}"
        )
    release.mark("activated")
    module.exit_json(changed=True, previous=previous)


if __name__ == "__main__":
    main()
