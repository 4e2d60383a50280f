"""Ansible module: a release's instance, started beside the one that serves."""

from __future__ import annotations

from ansible.module_utils.release import journal, release_module, systemctl

DOCUMENTATION = r"""
---
module: release_start
short_description: Starts the instance of a release, which nobody asks yet
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
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
    module, release = release_module()
    if module.check_mode:
        module.exit_json(changed=True)
    run = module.run_command
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
