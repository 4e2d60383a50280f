"""Ansible module: whether the apps on a host do their work."""

from __future__ import annotations

from ansible.module_utils.addresses import host_form
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import App, probe, unwell
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
        path, seconds = entry["health_path"], int(entry["health_timeout"])
        if app.current() is None:
            module.fail_json(msg=f"{app.name} has no release that serves")
        answer = probe(app.link / "run", {"host": host_form(entry["domains"][0]), "path": path, "seconds": seconds})
        if not answer.good:
            said = unwell(path, answer, lambda text: one_line(text[:200]))
            module.fail_json(msg=f"{app.name} isn't well: {path} got no 200, but {said}")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
