"""Ansible module: unpacks the source of a release; its action of the same name brings the archive."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
from pathlib import Path

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import Release, release_module
from ansible.module_utils.sandbox import Sandbox, Unfit, compile_code, take_over

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


# What keeps an empty folder in a repository; option_check has them too.
PLACEHOLDERS = {".gitkeep", ".keep", ".gitignore"}
# A path that ends so is a file, and the app makes it.
FILE = re.compile(
    r".*[^/]\.(db3?|sqlite3?|json|toml|ya?ml|ini|cfg|conf|env|txt|log|csv|xml|pem|key|lock|pid|pickle|pkl)",
    re.IGNORECASE,
)


def is_in_use(path: Path) -> bool:
    """Tell whether the source has more at a path than empty folders and what keeps them in a repository."""
    if path.is_symlink() or path.is_file():
        return not (path.name in PLACEHOLDERS and not path.is_symlink())
    return path.is_dir() and any(map(is_in_use, path.iterdir()))


def unpack(release: Release, archive: Path) -> None:
    """Unpack and compile the code, as an account without rights; it is root's afterwards.

    Raises:
        Unfit: it doesn't fit on the disk, or would be written elsewhere.
    """
    code = release.folder / "code"
    sandbox = Sandbox(release.app.name)
    sandbox.give(code)
    with archive.open("rb") as stream:
        words = ["/usr/bin/tar", "--extract", "--gzip", "--no-same-owner", "--no-same-permissions"]
        status, out, err = sandbox.run(words, where=code, writes=[code], stdin=stream)
    if status:
        raise Unfit((err or out).strip())
    compile_code(sandbox, code, code)
    take_over(code)


def share(module: AnsibleModule, release: Release, name: str) -> None:
    """Make a path of the code a link to what outlives the release; the first release makes it as a folder.

    What the source has there is refused unless it is an empty folder: it would be hidden without a word.
    """
    link, kept = release.folder / "code" / name, release.app.folder / "shared" / name
    # Where links on its way lead: another shared path, for one, is the app's to change, and this is root.
    folder, code = link.parent.resolve(), (release.folder / "code").resolve()
    if not folder.is_relative_to(code):
        module.fail_json(
            msg=f"the link on the way to {name}, which is to be shared among releases (option shared), leads out of the"
            " source: replace it, or share what it names"
        )
    link = folder / link.name
    if is_in_use(link):
        module.fail_json(
            msg=f"the source has {name}, which is to be shared among releases (option shared): exclude it, or take it"
            " out of shared"
        )
    folders = [path.relative_to(link) for path in link.rglob("*") if path.is_dir()]
    if link.is_dir():
        shutil.rmtree(link)
    folder.mkdir(parents=True, exist_ok=True)
    if FILE.fullmatch(name):
        make_folder(release, kept.parent)
    else:
        for inner in (kept, *map(kept.joinpath, folders)):
            make_folder(release, inner)
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


def close(release: Release) -> None:
    """Give what is not for everybody to the app's group: the archive has no owners, and the app has to read it."""
    group = pwd.getpwnam(release.app.name).pw_gid
    for folder, _, names in os.walk(release.folder / "code"):
        for path in (Path(folder, name) for name in names):
            state = path.lstat()
            if stat.S_ISREG(state.st_mode) and not state.st_mode & stat.S_IROTH:
                os.chown(path, -1, group, follow_symlinks=False)


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
        if module.params["archive"]:
            unpack(release, Path(module.params["archive"]))
    except Unfit as unfit:
        module.fail_json(msg=f"the source can't be unpacked: {unfit}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename or code} can't be made: {error.strerror}")
    try:
        close(release)
    except OSError as error:
        module.fail_json(msg=f"{error.filename} can't be given to the app's group: {error.strerror}")
    try:
        for name in module.params["shared"]:
            share(module, release, name)
    except OSError as error:
        module.fail_json(msg=f"{error.filename} can't be shared among releases: {error.strerror}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
