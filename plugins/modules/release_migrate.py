"""Ansible module: the database brought to a release's schema."""

from __future__ import annotations

from ansible.module_utils.release import release_module

DOCUMENTATION = r"""
---
module: release_migrate
short_description: Runs an app's migration with the new release's environment, before it starts
description:
  - The command runs as the app's account in a unit of its own, with the release's environment file read by systemd as
    the app's is. It can write where the app can.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  command: {description: What to run in the code's folder., type: str, required: true}
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: Database has the new release's schema
  release_migrate:
    app: news
    id: 20260101T000000Z-0123abcd
    command: alembic upgrade head
"""


def main() -> None:
    """Run the module."""
    module, release = release_module({"command": {"type": "str", "required": True}})
    if module.check_mode:
        module.exit_json(changed=True)
    name, folder = release.app.name, release.folder
    properties = {
        "User": name,
        "Group": name,
        "WorkingDirectory": str(folder / "code"),
        "EnvironmentFile": str(folder / "environment"),
        "UMask": "0027",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "ReadWritePaths": str(release.app.folder / "shared"),
    }
    # systemd replaces ${…} and $$ in a command; these are the shell's.
    command = module.params["command"].replace("$", "$$")
    status, out, err = module.run_command(
        ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={name}-migrate-{release.id}",
         *(f"--property={key}={value}" for key, value in properties.items()),
         f"--setenv=PATH={folder}/venv/bin:/usr/bin:/bin", f"--setenv=PYTHONPATH={folder}/code",
         "/bin/sh", "-c", command]
    )  # fmt: skip
    if status:
        module.fail_json(msg=f"`{module.params['command']}` ended with status {status}:\n{(out + err).strip()[-6000:]}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
