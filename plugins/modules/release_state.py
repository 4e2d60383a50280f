"""Ansible module: what a release needs to know of its host, for all apps in one round trip."""

from __future__ import annotations

import grp
import os
import platform
import pwd
import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import RELEASE_ID, RUNTIME, SERVED, UNITS, App, running_instances, stands

DOCUMENTATION = r"""
---
module: release_state
short_description: What each app's releases are like, and what the host has for the next one
description:
  - Reads only. Refuses an app whose name belongs to somebody else on this host.
options:
  apps:
    description: Names of the apps.
    type: list
    elements: str
    required: true
  prepared:
    description: Whether an app whose account isn't there is refused, since a release alone doesn't make it.
    type: bool
    default: false
  free_mb:
    description: Megabytes that the disk of /srv must have free.
    type: int
    default: 500
"""

EXAMPLES = r"""
- name: State of the releases is known
  release_state:
    apps: [news]
"""

RETURN = r"""
apps:
  description:
    - By name, current (id or empty), record (release.json of the current one), releases (all, newest first, each with
      id, state, version, when and by), way_back (id of where a rollback goes, or empty), withdrawn (records of the
      releases newer than the current one that somebody went back from) and settled.
    - Settled means that the current one runs and starts at boot, that no other instance does, and that no run left
      half a release.
  type: dict
  returned: always
host:
  description: cores, memory_mb, python (version) and uwsgi (version, empty where not installed).
  type: dict
  returned: always
"""


def whose(name: str) -> str | None:
    """Who else has this name on the host, or None where it is free or an app's of ours."""
    ours = (UNITS / f"{name}@.service").exists()
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        account = None
    if account and not account.pw_gecos.startswith("Flask on Metal app"):
        return f"the account {name} (user id {account.pw_uid})"
    # The instance runs in the group of its name: an app named disk or shadow would get more than it was meant to.
    try:
        group = grp.getgrnam(name)
    except KeyError:
        group = None
    if group and not (account and account.pw_gid == group.gr_gid):
        return f"the group {name} (group id {group.gr_gid})"
    if ours:
        return None
    for folder in ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/system"):
        for unit in (f"{name}.service", f"{name}.socket", f"{name}@.service", f"{name}@.socket"):
            if Path(folder, unit).exists():
                return f"the unit {folder}/{unit}"
    for entry in (RUNTIME / name, SERVED / name):
        if entry.exists() and not account:
            return f"the entry {entry}"
    return None


def state_of(module: AnsibleModule, app: App) -> dict[str, Any]:
    """Tell what an app's releases are like."""
    current, releases, back = app.current(), app.releases(), app.way_back()
    now = current.id if current else ""
    running = {name for name in running_instances(module.run_command, app) if RELEASE_ID.match(name)}
    told = [release.told() for release in reversed(releases)]
    whole = not any(release["state"] == "unfinished" for release in told)
    return {
        "current": now,
        "record": current.record() if current else {},
        "releases": told,
        "way_back": back.id if back else "",
        "withdrawn": [release.record() for release in releases if release.id > now and release.marked("withdrawn")],
        "settled": current is None
        or (whole and running <= {now} and current.marked("activated") and stands(module.run_command, current)),
    }


def host_facts(module: AnsibleModule) -> dict[str, Any]:
    """Gather what the formulas and the checks of a release want to know."""
    version = ""
    if shutil.which("uwsgi-core"):
        _, out, _ = module.run_command(["uwsgi-core", "--version"])
        version = re.sub(r"[^0-9.].*$", "", out.strip())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": memory,
        "python": platform.python_version(),
        "uwsgi": version,
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "apps": {"type": "list", "elements": "str", "required": True},
            "prepared": {"type": "bool", "default": False},
            "free_mb": {"type": "int", "default": 500},
        },
        supports_check_mode=True,
    )
    problems, states = [], {}
    for name in module.params["apps"]:
        app = App(name)
        if other := whose(name):
            problems.append(f"the app's name {name} is taken on this host by {other}: give the app another name")
            continue
        if module.params["prepared"] and not (UNITS / f"{name}@.service").exists():
            problems.append(f"the host is not prepared for the app {name}: run playbooks/site.yml first")
            continue
        if app.link.exists() and not app.link.is_symlink():
            problems.append(f"{app.link} is to be a link, and is something else; move it away")
            continue
        states[name] = state_of(module, app)
    free = shutil.disk_usage("/srv").free // 2**20
    if free < module.params["free_mb"]:
        problems.append(
            f"the disk of /srv has {free} MB free, a release wants {module.params['free_mb']}: make room there"
        )
    if problems:
        module.fail_json(msg="\n".join(problems))
    module.exit_json(changed=False, apps=states, host=host_facts(module))


if __name__ == "__main__":
    main()
