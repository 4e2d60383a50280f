"""Ansible module: whether a host can be a database server, and what its numbers follow from."""

from __future__ import annotations

import grp
import os
import re
import socket
from pathlib import Path

from ansible.module_utils.host_module import AnsibleModule

DOCUMENTATION = r"""
---
module: postgresql_preflight
short_description: Refuses a host that can't be the database server that it is to be, and tells its cores and memory
description:
  - Reads only. All that is wrong is in one message.
options:
  version: {description: PostgreSQL's major version., type: int, required: true}
  cluster: {description: Whether it is to be a member of a cluster., type: bool, required: true}
  address: {description: The address that it is to listen on., type: str, required: true}
  certificates:
    description: Folder of key.pem, certificate.pem and authority.pem. Not given, nobody looks for them.
    type: path
"""

EXAMPLES = r"""
- name: Host can be a database server
  postgresql_preflight:
    version: 17
    cluster: true
    address: 192.0.2.21
    certificates: /etc/ssl/flask-on-metal-internal
"""

RETURN = r"""
cores: {description: Of the host., type: int, returned: success}
memory_mb: {description: Of the host., type: int, returned: success}
watchdog: {description: Whether it has a watchdog device., type: bool, returned: success}
"""


def own_address(address: str) -> bool:
    """Whether this host has the address."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def certificate_problem(folder: Path) -> str:
    """Say what keeps the servers from using the host's certificate, or nothing."""
    call = "include role certificate (tasks_from: internal) before role postgresql"
    missing = [name for name in ("key.pem", "certificate.pem", "authority.pem") if not (folder / name).is_file()]
    if missing:
        return f"{folder} lacks {', '.join(missing)}: {call}"
    try:
        group = grp.getgrnam("ssl-cert")
    except KeyError:
        return f"there is no group ssl-cert that could read {folder}/key.pem: install the package ssl-cert, then {call}"
    if (folder / "key.pem").stat().st_gid != group.gr_gid:
        return f"{folder}/key.pem is not of the group ssl-cert, so PostgreSQL can't read it: {call}"
    return ""


def server_problem(version: int, cluster: bool, etc: Path = Path("/etc")) -> str:
    """Say which server of the other form is on the host, or nothing: its data are nobody's to throw away."""
    plain = etc / "postgresql" / str(version) / "main" / "postgresql.conf"
    member = etc / "patroni" / f"{version}-main.yml"
    if cluster and plain.exists():
        return (
            f"it is a server by itself ({plain.parent}) and is to be a member of a cluster. Save what it holds "
            f"(pg_dumpall), take it away (pg_dropcluster --stop {version} main), run this again, and load it there"
        )
    if not cluster and member.exists():
        return (
            f"it is a member of a cluster ({member}) and is to be a server by itself. Put the other hosts of the "
            "cluster back into the group database, or save what it holds (pg_dumpall) and take patroni and etcd away"
        )
    return ""


def other_version_problem(version: int, etc: Path = Path("/etc")) -> str:
    """Say which server of another version has the data and the port, or nothing.

    An upgrade of Debian brings a new version and leaves the old server as it is. The new one would be empty, on another
    port, and nobody would notice before an app does.
    """
    plain = {int(path.parts[-3]): path for path in etc.glob("postgresql/[0-9]*/main/postgresql.conf")}
    members = {int(path.name.partition("-")[0]): path for path in etc.glob("patroni/[0-9]*-main.yml")}
    text = plain[version].read_text() if version in plain else ""
    own = re.findall(r"^\s*port\s*=?\s*'?(\d+)", text, re.MULTILINE)
    # Where an upgrade went well, the old server stays, on another port, until somebody drops it.
    if version in members or (version in plain and own[-1:] in ([], ["5432"])):
        return ""
    others = {number: path for number, path in (plain | members).items() if number != version}
    if not others:
        return ""
    number, path = max(others.items())
    there = f" There is one already, on port {own[-1]}." if own else ""
    drop = f"pg_dropcluster --stop {version} main (the empty one; look before), "
    if number in members:
        todo = (
            f"save what the cluster holds (pg_dumpall, with PostgreSQL {number}), take {path} away, and load it again"
        )
    elif number < version:
        todo = (
            f"while no app writes: save the data (pg_dumpall), apt-get install postgresql-{version}, {drop}"
            f"pg_upgradecluster {number} main. Then run this again, and when all is well: pg_dropcluster {number} main"
        )
    else:
        todo = (
            f"save the data (pg_dumpall), {drop if own else ''}pg_dropcluster --stop {number} main, run this again, "
            "and load them there"
        )
    return (
        f"it has a server of PostgreSQL {number} ({path}); its Debian brings {version}, which would be another server, "
        f"empty and on another port.{there} Take the data along: {todo}"
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "int", "required": True},
            "cluster": {"type": "bool", "required": True},
            "address": {"type": "str", "required": True},
            "certificates": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    problems = [server_problem(params["version"], params["cluster"]), other_version_problem(params["version"])]
    if not own_address(params["address"]):
        problems.append(
            f"it has no address {params['address']}: set internal_address to the one that the other hosts reach it by"
        )
    if params["certificates"] and not module.check_mode:
        problems.append(certificate_problem(Path(params["certificates"])))
    if any(problems):
        lines = "\n".join(f"- {problem}" for problem in problems if problem)
        module.fail_json(msg=f"This host can't be a database server:\n{lines}")
    module.exit_json(
        changed=False,
        cores=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        watchdog=Path("/dev/watchdog").exists(),
    )


if __name__ == "__main__":
    main()
