"""Ansible module: kept pages, forgotten."""

from __future__ import annotations

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.kept_pages import forget

DOCUMENTATION = r"""
---
module: kept_pages
short_description: Makes NGINX forget pages that it keeps
description:
  - Takes away the files of an app's kept pages. NGINX then asks the app anew, without a reload.
  - Supports check mode.
options:
  app: {description: Name of the app., type: str, required: true}
  paths:
    description: Paths of the pages, with or without a query; an asterisk at the end is anything. Empty means all.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Story is asked for anew
  kept_pages: {app: news, paths: ["/story/7"]}
"""

RETURN = r"""
number: {description: How many pages were forgotten., type: int, returned: always}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "paths": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        number = forget(module.params["app"], module.params["paths"], only_look=module.check_mode)
    except OSError as error:
        module.fail_json(msg=f"kept pages of {module.params['app']} can't be forgotten: {error}")
    module.exit_json(changed=number > 0, number=number)


if __name__ == "__main__":
    main()
