"""Ansible module: the Debian root trees that throw-away hosts are booted from."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.test_host import TestHostError, last_lines, lock, read_json, remove, run

DOCUMENTATION = r"""
---
module: test_host_tree
short_description: Debian root trees that throw-away hosts are booted from
description:
  - Makes one root tree for each Debian release with C(mmdebstrap), all that are missing at the same time.
  - A tree is built beside the others and moved into place when it is complete. Two runs don't build it twice.
  - A tree has its time and a digest of what was asked for in its name, so hosts on an older one aren't disturbed.
    It goes when two are newer and no host was made from it. A layer whose tree is gone is used by nobody.
options:
  cache:
    description: Folder for the trees.
    type: path
    required: true
  state_dir:
    description: Folder of the hosts; trees that they were made from are kept.
    type: path
    required: true
  releases:
    description: Code names of Debian releases.
    type: list
    elements: str
    required: true
  packages:
    description: What a tree holds besides Debian's essential and important packages.
    type: list
    elements: str
    required: true
  mirror:
    description: Package archive. Empty for the one that mmdebstrap takes by itself.
    type: str
    default: ""
  max_age_days:
    description: A tree older than this is made anew. If that fails, the older one is still used, with a warning.
    type: int
    default: 30
  rebuild:
    description: Make the trees anew, however old they are.
    type: bool
    default: false
  attempts:
    description: How often a build is tried.
    type: int
    default: 3
"""

EXAMPLES = r"""
- name: Debian's root trees are there
  test_host_tree:
    cache: /var/cache/example/trees
    state_dir: /var/lib/example
    releases: [bookworm, trixie]
    packages: [systemd-sysv, openssh-server]
"""

RETURN = r"""
trees:
  description: Path of the root tree to use, by release.
  returned: always
  type: dict
"""

# Host keys belong to one host, not to all that are made from the tree; a name and a resolver as well.
CLEAN = 'rm -f "$1"/etc/ssh/ssh_host_*_key* "$1"/etc/hostname "$1"/etc/resolv.conf'


def newest(cache: Path, release: str, digest: str) -> Path | None:
    """Return the newest tree of a release that holds what is asked for now."""
    return max(cache.glob(f"{release}-{digest}-*"), key=lambda tree: tree.name, default=None)


def age_in_days(tree: Path) -> float:
    """Return how long ago a tree was made; its name says when."""
    return (time.time() - int(tree.name.rsplit("-", 1)[1])) / 86400


def build(params: dict[str, Any], release: str, digest: str, held: int) -> Path:
    """Make a tree beside the others and move it into place."""
    cache = Path(params["cache"])
    building = cache / f".building-{release}"
    target = cache / f"{release}-{digest}-{int(time.time())}"
    failure = TestHostError("no attempt was made")
    for attempt in range(1, params["attempts"] + 1):
        # Left by a build that was interrupted, or by the attempt before. The lock is ours, so no one is at work in it.
        remove(building)
        done = run(
            "mmdebstrap", "--mode=root", "--format=directory", "--variant=important",
            f"--include={','.join(params['packages'])}",
            '--aptopt=Acquire::Retries "3"',
            f"--customize-hook={CLEAN}",
            # As on an installed host: check mode asks them whether a package exists.
            "--skip=cleanup/apt/lists",
            release, str(building), *filter(None, [params["mirror"]]),
            check=False, timeout=1200, keep=(held,),
        )  # fmt: skip
        if done.returncode == 0:
            building.rename(target)
            return target
        failure = TestHostError(
            f"mmdebstrap could not make Debian {release} in {building} ({done.returncode}, attempt {attempt} of"
            f" {params['attempts']}). Its last words:\n{last_lines(done.stderr)}\n"
            "If this machine cannot reach Debian's package archive, name a mirror that it can reach"
            " (-e test_host_mirror=<URL>), or use Debian hosts of your own: inventory/example shows how."
        )
        time.sleep(2 * attempt)
    remove(building)
    raise failure


def ensure(params: dict[str, Any], release: str, digest: str, check: bool) -> tuple[Path | None, bool, str]:
    """Return the tree to use, whether it was made for that, and a warning."""
    cache = Path(params["cache"])

    def good() -> Path | None:
        tree = newest(cache, release, digest)
        return tree if tree and not params["rebuild"] and age_in_days(tree) < params["max_age_days"] else None

    if good() or check:
        return newest(cache, release, digest), not good(), ""
    with lock(cache / f".{release}.lock") as held:
        # Another run may have made it while this one waited.
        if good():
            return good(), False, ""
        tree = newest(cache, release, digest)
        try:
            return build(params, release, digest, held), True, ""
        except TestHostError as error:
            if tree is None or params["rebuild"]:
                raise
            return tree, False, f"Debian {release} is {age_in_days(tree):.0f} days old and was not made anew: {error}"


def prune(params: dict[str, Any]) -> None:
    """Remove trees that no host was made from, but the two newest of a release: another run may be using the second."""
    cache = Path(params["cache"])
    records = Path(params["state_dir"]).glob("*/*/host.json")
    # One that lies over a layer is the last of the two.
    used = {read_json(record).get("tree", "").rpartition(":")[2] for record in records}
    for release in params["releases"]:
        with lock(cache / f".{release}.lock"):
            for tree in sorted(cache.glob(f"{release}-*-*"), key=age_in_days)[2:]:
                if str(tree) not in used:
                    remove(tree)


def main() -> None:
    """Make the trees that are missing."""
    module = AnsibleModule(
        argument_spec={
            "cache": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "releases": {"type": "list", "elements": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "required": True},
            "mirror": {"type": "str", "default": ""},
            "max_age_days": {"type": "int", "default": 30},
            "rebuild": {"type": "bool", "default": False},
            "attempts": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    params = module.params
    wanted = f"{sorted(params['packages'])} {params['mirror']} {CLEAN} lists"
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:8]
    os.umask(0o022)
    try:
        with ThreadPoolExecutor() as pool:
            pending = [
                pool.submit(ensure, params, release, digest, module.check_mode) for release in params["releases"]
            ]
            made = [one.result() for one in pending]
        if any(changed for _, changed, _ in made) and not module.check_mode:
            prune(params)
    except TestHostError as error:
        module.fail_json(msg=str(error))
    for _, _, warning in made:
        if warning:
            module.warn(warning)
    module.exit_json(
        changed=any(changed for _, changed, _ in made),
        trees={release: str(tree or "") for release, (tree, _, _) in zip(params["releases"], made, strict=True)},
    )


if __name__ == "__main__":
    main()
