"""Ansible module: whether a host is one that these roles can work on."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import pwd
import re
import shutil
import socket
from pathlib import Path

from ansible.module_utils.host_module import AnsibleModule

DOCUMENTATION = r"""
---
module: host_preflight
short_description: Refuses a host that these roles can't work on, and tells its release, packages and SSH ports
description:
  - Reads only. All that is wrong is in one message.
  - M(ansible.builtin.setup) takes three times as long for two facts, and each M(ansible.builtin.apt) a second to find
    out that there is nothing to install; the lists of packages and accounts let that be skipped.
options:
  releases:
    description: Debian's major versions that are supported.
    type: list
    elements: str
    required: true
  web:
    description: Whether NGINX is to listen on ports 80 and 443 of it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Host is a Debian that these roles support
  host_preflight:
    releases: ["12", "13"]
"""

RETURN = r"""
ansible_facts:
  description: distribution and distribution_major_version, as M(ansible.builtin.setup) names them, and
    installed_packages, the names of Debian packages that are completely installed,
    accounts, home and shell of each by its name,
    networks, the interface of each address, which is written with its prefix, and
    ssh_ports, where sshd or its socket listens.
  type: dict
  returned: always
"""

# What Ansible's own modules want to find: command (or Python module), and the package that has it.
COMMANDS = {"systemctl": "systemd"}
MODULES = {"apt": "python3-apt"}


def ssh_ports(module: AnsibleModule) -> list[int]:
    """Find the ports where sshd listens, or systemd for it; 22 where neither is known."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    _, effective, _ = module.run_command([sshd, "-T"]) if sshd else (0, "", "")
    _, socket, _ = module.run_command(["systemctl", "show", "ssh.socket", "--property=ActiveState,Listen"])
    found = re.findall(r"^listenaddress .*:(\d+)$", effective, re.MULTILINE)
    if "ActiveState=active" in socket:
        found += re.findall(r"^Listen=.*:(\d+) \(Stream\)$", socket, re.MULTILINE)
    return sorted({int(port) for port in found}) or [22]


def networks(module: AnsibleModule) -> dict[str, str]:
    """Tell which interface is in which network, by its addresses there."""
    status, listed, _ = module.run_command(["ip", "-json", "address"])
    links = json.loads(listed) if status == 0 else []
    return {
        f"{entry['local']}/{entry['prefixlen']}": link["ifname"]
        for link in links
        for entry in link.get("addr_info", [])
        # A network of one address is a floating one's.
        if entry.get("scope") == "global" and entry["prefixlen"] not in (32, 128)
    }


def no_ipv6() -> str:
    """Say what is wrong where the kernel knows no IPv6: NGINX can't listen on [::] then."""
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return (
            "IPv6 is switched off in its kernel, and NGINX listens on it: take ipv6.disable=1 out of the kernel's "
            "command line (/etc/default/grub, then update-grub) and reboot. net.ipv6.conf.all.disable_ipv6=1 may stay"
        )
    return ""


def other_servers(listed: str) -> list[str]:
    """Say which programs besides NGINX listen where it has to, by what ss lists."""
    found = set()
    for line in listed.splitlines():
        port = re.search(r":(80|443)\s", line)
        found |= {(port[1], name) for name in re.findall(r'\("([^"]+)",pid=\d+', line) if port and name != "nginx"}
    return [
        f"{name} listens on port {port}, which NGINX needs: stop it, and keep it from starting again (if that is its "
        f"unit: systemctl disable --now {name})"
        for port, name in sorted(found)
    ]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "releases": {"type": "list", "elements": "str", "required": True},
            "web": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    system = platform.freedesktop_os_release()
    name, version = system.get("ID", ""), system.get("VERSION_ID", "")
    problems = []
    supported = module.params["releases"]
    if name != "debian" or version not in supported:
        problems.append(
            f"it runs {system.get('PRETTY_NAME', name)}; supported are Debian {' and '.join(supported)}: "
            "install one of them, or take the host out of the inventory"
        )
    else:
        missing = [package for command, package in COMMANDS.items() if shutil.which(command) is None]
        missing += [package for name, package in MODULES.items() if importlib.util.find_spec(name) is None]
        if missing:
            problems.append(f"packages are missing that Ansible works with: apt-get install {' '.join(missing)}")
        if not Path("/run/systemd/system").is_dir():
            problems.append("systemd is not its init: containers without it can't hold services")
        if module.params["web"]:
            listening = [
                "ss",
                "--tcp",
                "--listening",
                "--numeric",
                "--processes",
                "--no-header",
                "sport = :80 or sport = :443",
            ]
            problems += filter(None, [no_ipv6(), *other_servers(module.run_command(listening)[1])])
    if os.geteuid() != 0:
        problems.append("tasks don't run as root: set ansible_become: true for it, or let the account use sudo")
    if problems:
        module.fail_json(msg="This host can't be used:\n" + "\n".join(f"- {problem}" for problem in problems))
    _, packages, _ = module.run_command(["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Package}\n"])
    facts = {
        "distribution": "Debian",
        "distribution_major_version": version,
        "installed_packages": [line[3:] for line in packages.splitlines() if line.startswith("ii ")],
        "accounts": {entry.pw_name: [entry.pw_dir, entry.pw_shell] for entry in pwd.getpwall()},
        "ssh_ports": ssh_ports(module),
        "networks": networks(module),
    }
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()
