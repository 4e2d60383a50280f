"""Ansible module: unpacks the source of a release; its action of the same name brings the archive."""

from __future__ import annotations

import tarfile
from pathlib import Path

from ansible.module_utils.release import release_module

DOCUMENTATION = r"""
---
module: release_fetch
short_description: The code of a release in its folder
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  source: {description: Where the code is on the control node or in a repository., type: str, required: true}
  version: {description: Branch or tag or commit., type: str, required: true}
  exclude: {description: Patterns of what is left out., type: list, elements: str, required: true}
  digest: {description: Digest that the source is to have., type: str, required: true}
"""

EXAMPLES = r"""
- name: Code is on the host
  release_fetch:
    app: news
    id: 20260101T000000Z-0123abcd
    source: /home/me/news
    version: ""
    exclude: [.git]
    digest: "{{ digest }}"
"""


def main() -> None:
    """Run the module."""
    module, release = release_module({"archive": {"type": "path", "required": True}}, secret=())
    if module.check_mode:
        module.exit_json(changed=True)
    code = release.folder / "code"
    code.mkdir(mode=0o755, parents=True)
    if module.params["archive"]:
        try:
            with tarfile.open(Path(module.params["archive"])) as archive:
                # Refuses what would land outside the folder or isn't a file, folder or link within.
                if hasattr(tarfile, "data_filter"):
                    archive.extractall(code, filter="data")
                else:
                    archive.extractall(code)  # made by our own action a moment ago
        except tarfile.TarError as error:
            module.fail_json(msg=f"the source can't be unpacked: {error}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
