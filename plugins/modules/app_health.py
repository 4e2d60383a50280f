"""Ansible module: whether the apps on a host do their work."""

from __future__ import annotations

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import App
from ansible.module_utils.unix_http import ask_until_good
from ansible.module_utils.visible import one_line

DOCUMENTATION = r"""
---
module: app_health
short_description: Asks the apps of a host for their health
description:
  - Asks the release of each app that is served here at its own socket, until it answers 200.
options:
  apps:
    description: The apps, each with name, domains, health_path and health_timeout.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Apps do their work
  app_health:
    apps: [{name: news, domains: [news.example.org], health_path: /status, health_timeout: 30}]
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"apps": {"type": "list", "elements": "dict", "required": True}}, supports_check_mode=True
    )
    for entry in module.params["apps"]:
        app = App(entry["name"])
        if app.current() is None:
            module.fail_json(msg=f"{app.name} has no release that serves")
        socket = app.link / "run" / "private" / "probe.sock"
        answer = ask_until_good(socket, entry["domains"][0], entry["health_path"], int(entry["health_timeout"]))
        if not answer.good:
            said = f"{answer.status} {one_line(answer.text[:200])}"
            module.fail_json(msg=f"{app.name} isn't well: {entry['health_path']} answers {said}")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
