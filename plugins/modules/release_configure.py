"""Ansible module: what a release runs with, written down in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from ansible.module_utils.filesystem import link_atomically, write_atomically
from ansible.module_utils.release import release_module

DOCUMENTATION = r"""
---
module: release_configure
short_description: The files that a release runs with
description:
  - C(wsgi.py), C(uwsgi.ini), C(environment) and C(release.json) in its folder, the drop-in of its unit, and the link to
    its sockets.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  files: {description: Contents of wsgi.py and uwsgi.ini and drop_in by these names., type: dict, required: true}
  environment_file: {description: Content of the environment file. Root's alone., type: str, required: true}
  record: {description: What release.json says., type: dict, required: true}
"""

EXAMPLES = r"""
- name: What the release runs with is written down
  release_configure:
    app: news
    id: 20260101T000000Z-0123abcd
    run: 0123456789ab
    files: "{{ rendered }}"
    environment_file: ""
    record: {version: "1.0"}
"""


def main() -> None:
    """Run the module."""
    module, release = release_module(
        {
            "files": {"type": "dict", "required": True},
            "environment_file": {"type": "str", "required": True, "no_log": True},
            "record": {"type": "dict", "required": True},
        },
        secret=(),
    )
    args, folder = module.params, release.folder
    public: dict[Path, str] = {
        folder / "wsgi.py": args["files"]["wsgi.py"],
        folder / "uwsgi.ini": args["files"]["uwsgi.ini"],
        release.drop_in / "release.conf": args["files"]["drop_in"],
    }
    private: dict[Path, str] = {
        folder / "release.json": json.dumps(args["record"], indent=2, sort_keys=True) + "\n",
        folder / "environment": args["environment_file"],
    }
    if not module.check_mode:
        try:
            release.drop_in.mkdir(mode=0o755, exist_ok=True)
            for files, mode in ((public, 0o644), (private, 0o600)):
                for path, content in files.items():
                    write_atomically(path, content, mode)
            link_atomically(folder / "run", str(release.runtime))
        except OSError as error:
            module.fail_json(msg=f"the files of the release can't be written below {folder}: {error.strerror}")
    # The environment has secrets, and the record is about the run: neither is shown.
    diff = [{"before": "", "after": content, "after_header": str(path)} for path, content in public.items()]
    module.exit_json(changed=True, diff=diff)


if __name__ == "__main__":
    main()
