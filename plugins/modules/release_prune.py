"""Ansible module: releases that nobody needs any more, taken away."""

from __future__ import annotations

import shutil

from ansible.module_utils.release import (
    RELEASE_ID,
    UNITS,
    Release,
    journal,
    release_module,
    remove,
    running_instances,
    stands,
    stop_instance,
    surplus,
    systemctl,
    wait_for_empty_queue,
)
from ansible.module_utils.release_lock import Lock

DOCUMENTATION = r"""
---
module: release_prune
short_description: Keeps the last good releases, and removes older and unfinished ones
description:
  - Never removes the current release, the one that a rollback goes to, nor the one that was served before. Of the
    failed ones the newest stays for a look.
  - Settles what an interrupted run or somebody's hand left: the current release runs and starts at boot, and no other.
  - Gives the run's lock back, since it is the last phase.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The current release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
  keep: {description: How many releases that were once active stay., type: int, required: true}
"""

EXAMPLES = r"""
- name: Five releases are kept
  release_prune: {app: news, id: 20260101T000000Z-0123abcd, run: 0123456789ab, keep: 5}
"""

RETURN = r"""
removed: {description: Ids of the releases that were removed., type: list, elements: str, returned: always}
stopped: {description: Ids of the instances that were stopped., type: list, elements: str, returned: always}
"""


def main() -> None:
    """Run the module."""
    module, release = release_module({"keep": {"type": "int", "required": True}})
    run, app = module.run_command, release.app
    current = app.current()
    lock = Lock(app.name)
    if current is None:
        if not module.check_mode:
            lock.give_back(module.params["run"])
        module.exit_json(changed=False, removed=[], stopped=[])
        return
    running = running_instances(run, app)
    stray = [Release(app, name) for name in sorted(running) if RELEASE_ID.match(name) and name != current.id]
    gone = surplus(app, module.params["keep"])
    # Served, and yet not marked: the run that switched to it was interrupted. Stopped or disabled: somebody did that.
    unsettled = not (current.marked("activated") and stands(run, current))
    if not module.check_mode:
        if unsettled:
            units = (current.socket, current.service)
            if complaint := systemctl(run, "enable", "--quiet", *units) or systemctl(run, "start", *units):
                module.fail_json(
                    msg=f"{current.id} is current and doesn't start:\n{module.quoted(journal(current))}\n{complaint}"
                )
            current.mark("activated")
        # A rollback that was killed before it moved the link left what it was to withdraw.
        current.unmark("withdrawn")
        for old in stray:
            # The run that switched away from it may have been killed a moment ago.
            wait_for_empty_queue(old, 10)
            stop_instance(run, old)
        for old in gone:
            remove(run, old)
        folders = {item.folder for item in app.releases()}
        for drop_in in UNITS.glob(f"{app.name}@*.service.d"):
            name = drop_in.name.partition("@")[2].removesuffix(".service.d")
            if RELEASE_ID.match(name) and Release(app, name).folder not in folders:
                shutil.rmtree(drop_in)
        lock.give_back(module.params["run"])
    module.exit_json(
        changed=bool(gone or stray or unsettled), removed=[old.id for old in gone], stopped=[old.id for old in stray]
    )


if __name__ == "__main__":
    main()
