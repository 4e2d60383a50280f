"""Ansible module: unpacks the source of a release; its action of the same name brings the archive."""

from __future__ import annotations

import os
import pwd
import tarfile
from pathlib import Path

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import Release, release_module

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
  shared:
    description: Paths below the code that are links to the same paths below the app's folder shared.
    type: list
    elements: str
    default: []
  run: {description: The run that has the lock., type: str, required: true}
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
    run: 0123456789ab
"""


def share(module: AnsibleModule, release: Release, name: str) -> None:
    """Make a path of the code a link to what outlives the release; the first release makes it as a folder.

    What the source has there is refused unless it is an empty folder: it would be hidden without a word.
    """
    link, kept = release.folder / "code" / name, release.app.folder / "shared" / name
    if link.is_symlink() or link.is_file() or (link.is_dir() and any(link.iterdir())):
        module.fail_json(
            msg=f"the source has {name}, which is to be shared among releases (option shared): exclude it, or take it"
            " out of shared"
        )
    if link.is_dir():
        link.rmdir()
    link.parent.mkdir(parents=True, exist_ok=True)
    make_folder(release, kept)
    link.symlink_to(kept)


def make_folder(release: Release, folder: Path) -> None:
    """Make a folder of the app's below its shared one, and the folders on the way to it.

    The app may write there, and this is root: each step is taken from the folder before it, and follows no link.
    """
    account = pwd.getpwnam(release.app.name)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    handle = os.open(release.app.folder / "shared", flags)
    try:
        parts = folder.relative_to(release.app.folder / "shared").parts
        for number, part in enumerate(parts, 1):
            try:
                os.mkdir(part, 0o750, dir_fd=handle)
                os.chown(part, account.pw_uid, account.pw_gid, dir_fd=handle, follow_symlinks=False)
            except FileExistsError:
                if number == len(parts):
                    return  # whatever it is, a file included: the app's own
            below = os.open(part, flags, dir_fd=handle)
            os.close(handle)
            handle = below
    finally:
        os.close(handle)


def main() -> None:
    """Run the module."""
    module, release = release_module(
        {
            "archive": {"type": "path", "required": True},
            "shared": {"type": "list", "elements": "str", "default": []},
        },
        secret=(),
    )
    if module.check_mode:
        module.exit_json(changed=True)
    code = release.folder / "code"
    try:
        code.mkdir(mode=0o755, parents=True)
    except OSError as error:
        module.fail_json(msg=f"{code} can't be made: {error.strerror}")
    if module.params["archive"]:
        try:
            with tarfile.open(Path(module.params["archive"])) as archive:
                # Refuses what would land outside the folder or isn't a file, folder or link within.
                if hasattr(tarfile, "data_filter"):
                    archive.extractall(code, filter="data")
                else:
                    archive.extractall(code)  # made by our own action a moment ago
        except (tarfile.TarError, OSError) as error:
            module.fail_json(msg=f"the source can't be unpacked: {error}")
    try:
        for name in module.params["shared"]:
            share(module, release, name)
    except OSError as error:
        module.fail_json(msg=f"{error.filename} can't be shared among releases: {error.strerror}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
