"""Ansible module: releases that nobody needs any more, taken away."""

from __future__ import annotations

import shutil

from ansible.module_utils.release import (
    RELEASE_ID,
    UNITS,
    Release,
    journal,
    release_module,
    running_instances,
    stands,
    stop_instance,
    systemctl,
)

DOCUMENTATION = r"""
---
module: release_prune
short_description: Keeps the last good releases, and removes older and unfinished ones
description:
  - Never removes the current release. Of the failed ones the newest stays for a look.
  - Settles what an interrupted run or somebody's hand left: the current release runs and starts at boot, and no other.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The current release., type: str, required: true}
  keep: {description: How many releases that were once active stay., type: int, required: true}
"""

EXAMPLES = r"""
- name: Five releases are kept
  release_prune: {app: news, id: 20260101T000000Z-0123abcd, keep: 5}
"""

RETURN = r"""
removed: {description: Ids of the releases that were removed., type: list, elements: str, returned: always}
stopped: {description: Ids of the instances that were stopped., type: list, elements: str, returned: always}
"""


def surplus(releases: list[Release], current: Release, keep: int) -> list[Release]:
    """Choose which of the releases (oldest first) go.

    The current one stays, and with it the newest good ones: `keep` in all, and at least one to roll back to. Of the
    failed ones the newest stays.
    """
    others = [release for release in releases if release != current]
    good = [release for release in others if release.good()]
    failed = [release for release in others if release.marked("failed")]
    stay = [current, *good[-max(keep - 1, 1) :], *failed[-1:]]
    return [release for release in others if release not in stay]


def main() -> None:
    """Run the module."""
    module, release = release_module({"keep": {"type": "int", "required": True}}, secret=())
    run, app = module.run_command, release.app
    current = app.current()
    if current is None:
        module.exit_json(changed=False, removed=[], stopped=[])
        return
    running = running_instances(run, app)
    stray = [Release(app, name) for name in sorted(running) if RELEASE_ID.match(name) and name != current.id]
    gone = surplus(app.releases(), current, module.params["keep"])
    # Served, and yet not marked: the run that switched to it was interrupted. Stopped or disabled: somebody did that.
    unsettled = not (current.marked("activated") and stands(run, current))
    if not module.check_mode:
        if unsettled:
            units = (current.socket, current.service)
            if complaint := systemctl(run, "enable", "--quiet", *units) or systemctl(run, "start", *units):
                module.fail_json(
                    msg=f"{current.id} is current and doesn't start:\n{journal(run, current)}\n{complaint}"
                )
            current.mark("activated")
        for old in stray:
            stop_instance(run, old)
        for old in gone:
            systemctl(run, "disable", "--quiet", old.service, old.socket)
            # The unit's drop-in goes with its release. No reload of systemd for it: the next start does one.
            shutil.rmtree(old.drop_in, ignore_errors=True)
            shutil.rmtree(old.runtime, ignore_errors=True)
            shutil.rmtree(old.folder)
        folders = {item.folder for item in app.releases()}
        for drop_in in UNITS.glob(f"{app.name}@*.service.d"):
            name = drop_in.name.partition("@")[2].removesuffix(".service.d")
            if RELEASE_ID.match(name) and Release(app, name).folder not in folders:
                shutil.rmtree(drop_in)
    module.exit_json(
        changed=bool(gone or stray or unsettled), removed=[old.id for old in gone], stopped=[old.id for old in stray]
    )


if __name__ == "__main__":
    main()
