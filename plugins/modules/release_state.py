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

from ansible.module_utils import front_door
from ansible.module_utils.disk_space import caches, shortage, size, size_of
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import RELEASE_ID, RUNTIME, SERVED, UNITS, App, running_instances, stands, surplus

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
  known:
    description: Names of all apps that the inventory has for this host. Without it no others are looked for.
    type: list
    elements: str
  prepared:
    description:
      - Whether a release is all that the run makes. An app whose account isn't there is then refused, and so is a host
        whose NGINX doesn't serve.
    type: bool
    default: false
  keep:
    description: How many releases that were once active stay. What is more than that gives way where room is short.
    type: int
    default: 5
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
      releases newer than the current one that somebody went back from), settled and no_room (what the disk lacks for
      another release, or empty).
    - Settled means that the current one runs and starts at boot, that no other instance does, and that no run left
      half a release.
  type: dict
  returned: always
left:
  description: Ids of releases that run, or would after a boot, by the names of apps of ours that aren't in O(known).
  type: dict
  returned: always
host:
  description: cores, memory_mb, python (version) and uwsgi (version, empty where not installed).
  type: dict
  returned: always
"""


ACCOUNT = "Flask on Metal app"
"""How the comment of an app's account begins."""


def whose(name: str) -> str | None:
    """Who else has this name on the host, or None where it is free or an app's of ours."""
    ours = (UNITS / f"{name}@.service").exists()
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        account = None
    if account and not account.pw_gecos.startswith(ACCOUNT):
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
    no_room = shortage(app)
    if no_room:  # measured only then: it takes a while
        old = sum(map(size_of, surplus(app, module.params["keep"])))
        no_room = shortage(app, old + sum(map(size, caches())))
    running = {name for name in running_instances(module.run_command, app) if RELEASE_ID.match(name)}
    told = [release.told() for release in reversed(releases)]
    whole = not any(release["state"] == "unfinished" for release in told)
    return {
        "current": now,
        "record": current.record() if current else {},
        "releases": told,
        "no_room": no_room,
        "way_back": back.id if back else "",
        "withdrawn": [release.record() for release in releases if release.id > now and release.marked("withdrawn")],
        "settled": current is None
        or (whole and running <= {now} and current.marked("activated") and stands(module.run_command, current)),
    }


def left(module: AnsibleModule) -> dict[str, list[str]]:
    """Find the apps that left the inventory: their instances run on, and start at boot."""
    found: dict[str, list[str]] = {}
    if module.params["known"] is None:
        return found
    for account in pwd.getpwall():
        app = App(account.pw_name)
        if not account.pw_gecos.startswith(ACCOUNT) or app.name in module.params["known"]:
            continue
        enabled = {path.stem.partition("@")[2] for path in UNITS.glob(f"*.wants/{app.name}@*")}
        if instances := enabled | running_instances(module.run_command, app):
            found[app.name] = sorted(instances)
    return found


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
            "known": {"type": "list", "elements": "str"},
            "prepared": {"type": "bool", "default": False},
            "keep": {"type": "int", "default": 5},
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
    if module.params["prepared"] and (silence := front_door.silence(module.run_command)):
        problems.append(silence)
    if problems:
        module.fail_json(msg="\n".join(problems))
    module.exit_json(changed=False, apps=states, left=left(module), host=host_facts(module))


if __name__ == "__main__":
    main()
