"""Ansible module: a release's instance, started beside the one that serves."""

from __future__ import annotations

from ansible.module_utils.release import journal, release_module, stop_first, systemctl

DOCUMENTATION = r"""
---
module: release_start
short_description: Starts the instance of a release, which nobody asks yet
description:
  - What serves runs on, unless it is to be stopped first. Visitors get the page for maintenance then.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  stop_first: {description: Whether what serves is stopped before., type: bool, default: false}
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: New instance runs
  release_start:
    app: news
    id: 20260101T000000Z-0123abcd
    run: 0123456789ab
"""


def main() -> None:
    """Run the module."""
    module, release = release_module({"stop_first": {"type": "bool", "default": False}})
    if module.check_mode:
        module.exit_json(changed=True)
    run, before = module.run_command, release.app.current()
    if module.params["stop_first"] and before and before != release and (said := stop_first(run, before)):
        module.fail_json(msg=f"{before.id} was to be stopped first, and did not stop: {said}")
    # The socket first: it must be systemd that holds it.
    complaint = (
        systemctl(run, "daemon-reload")
        or systemctl(run, "start", release.socket)
        or systemctl(run, "start", release.service)
    )
    if complaint:
        said = module.quoted(journal(release))
        module.fail_json(msg=f"it does not start. The last lines of its journal:\n{said}\n{complaint}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
