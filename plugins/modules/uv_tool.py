"""Ansible module: uv at its locked version, in a place of its own."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.filesystem import link_atomically, read_text, write_atomically
from ansible.module_utils.release import UV

DOCUMENTATION = r"""
---
module: uv_tool
short_description: uv, which builds the environments of releases, installed from a lock with hashes
options:
  lock:
    description: Content of a requirements file with hashes that names uv.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: The tool uv is installed
  uv_tool:
    lock: "{{ lookup('ansible.builtin.file', 'requirements-uv.txt') }}"
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"lock": {"type": "str", "required": True}}, supports_check_mode=True)
    lock = module.params["lock"]
    link = UV.parent.parent
    folder = link.with_name(f"uv-{hashlib.sha256(lock.encode()).hexdigest()[:8]}")
    # Written last, so that an interrupted installation is started over.
    complete = folder / "requirements.txt"
    if read_text(complete) == lock and link.is_symlink() and link.readlink() == Path(folder.name):
        module.exit_json(changed=False)
    if module.check_mode:
        module.exit_json(changed=True)
    if read_text(complete) != lock:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        module.run_command(["/usr/bin/python3", "-m", "venv", str(folder)], check_rc=True)
        written = folder / "lock.txt"
        write_atomically(written, lock, 0o644)
        status, out, err = module.run_command(
            [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir",
             "--require-hashes", "--only-binary", ":all:", "--requirement", str(written)]
        )  # fmt: skip
        if status:
            module.fail_json(
                msg=f"uv could not be installed: is the package index reachable from this host? {(err or out).strip()}"
            )
        written.replace(complete)
    link_atomically(link, folder.name)
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
