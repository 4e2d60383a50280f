"""Ansible module: a virtual environment of locked wheels, beside those of releases."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.sandbox import Sandbox, Unfit, taken_environment
from ansible.module_utils.uv import make_environment

DOCUMENTATION = r"""
---
module: wheel_environment
short_description: A virtual environment of locked wheels
description:
  - Made as that of a release is, by the uv that a release has brought - as an account without rights, in a sandbox. It
    is root's afterwards.
  - One that is there is left as it is.
options:
  path: {description: Where. The folder that it is in is there., type: path, required: true}
  lock: {description: A requirements file with hashes on the host., type: path, required: true}
  environment:
    description: For uv, as HTTPS_PROXY or UV_DEFAULT_INDEX. Not shown; what is secret in it is cut out of the output.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Other servers are installed
  wheel_environment:
    path: /opt/example/venv
    lock: /opt/example/requirements.txt
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "lock": {"type": "path", "required": True},
            "environment": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    environment, path = taken_environment(module), Path(module.params["path"])
    if path.exists():
        module.exit_json(changed=False)
    if not module.check_mode:
        os.umask(0o022)
        try:
            sandbox = Sandbox(path.parent.name, environment)
            make_environment(sandbox, path, Path(module.params["lock"]), path.parent)
        except Unfit as unfit:
            # Half of one would be taken for a whole one.
            shutil.rmtree(path, ignore_errors=True)
            module.fail_json(msg=f"{path} could not be made:\n{unfit}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
