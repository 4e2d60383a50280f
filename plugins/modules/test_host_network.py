"""Ansible module: the network of one set of throw-away hosts."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import socket
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.test_host import (
    TestHostError,
    launch,
    lock,
    processes,
    read_json,
    run,
    stop,
    under_systemd,
    write_json,
)

DOCUMENTATION = r"""
---
module: test_host_network
short_description: The network of one set of throw-away hosts
description:
  - A bridge of the set's own, with an IPv4 network that is free on this machine and an IPv6 network (unique local
    addresses); an nftables table of its own that lets the hosts reach the package archive from behind this machine's
    address; a cache for Debian packages that listens on the bridge alone.
  - The IPv4 network is another one each time a set is made, so that nothing that remembers an old host by its address
    (an SSH connection that is kept open, say) meets a new one.
  - Only IPv4 leaves the machine. Forwarding IPv6 would make the machine a router, and as such it would stop
    listening to the router that it has its own IPv6 address from.
  - Where a firewall of the machine forwards nothing by default (Docker's does), rules for the bridge are put in front.
  - What is changed in the kernel's settings is written down and put back when the last set goes.
options:
  state:
    description: Whether the network is to be there.
    type: str
    choices: [present, absent]
    default: present
  set:
    description: Short name of the set; part of the names of bridge and table.
    type: str
    required: true
  state_dir:
    description: Folder for what is known about all sets.
    type: path
    required: true
  hosts:
    description: Names of hosts that need an address. They keep it as long as the set is there.
    type: list
    elements: str
    default: []
  package_cache:
    description: Program that caches packages, given an address to listen on and a folder. Not started if empty.
    type: path
    default: ""
  package_cache_dir:
    description: Folder for the packages.
    type: path
    default: ""
"""

EXAMPLES = r"""
- name: The hosts have a network
  test_host_network:
    set: 1a2b3c
    state_dir: /var/lib/example
    hosts: [one, two]
"""

RETURN = r"""
network:
  description:
    - bridge, network4, gateway4, network6, gateway6, package_proxy, and hosts (address4 and address6 of each, by name).
    - Numbers from 200 on are never given to a host, so tests may use them for floating addresses.
  returned: when present
  type: dict
"""

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
LOCK = Path("/run/flask-on-metal-test.lock")
PROXY_PORT = 3142
FIRST_NUMBER, LAST_NUMBER = 10, 199

# One masquerade rule. The other chain keeps a TCP connection's segments as small as the way out needs: a machine that
# is itself virtual often has a smaller MTU than the bridge.
TABLE = """
table inet {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {network4} ip daddr != {network4} masquerade
  }}
  chain forward {{
    type filter hook forward priority mangle; policy accept;
    iifname "{bridge}" tcp flags syn tcp option maxseg size set rt mtu
  }}
}}
"""


def free_network4() -> ipaddress.IPv4Network:
    """Choose a /24 that neither an address, a route nor a name server of this machine lies in."""
    taken = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in json.loads(run("ip", "-json", "-4", "route", "show", "table", "all").stdout or "[]")
        if route.get("dst", "default") not in ("default", "0.0.0.0/0")
    ]
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and ":" not in words[1]:
            taken.append(ipaddress.ip_network(words[1]))
    # A route as wide as 10.0.0.0/8 (a VPN) leaves nothing free in it: then the other private ranges.
    for pool in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"):
        candidates = list(ipaddress.ip_network(pool).subnets(new_prefix=24))
        for candidate in random.sample(candidates, k=min(len(candidates), 256)):
            if isinstance(candidate, ipaddress.IPv4Network) and not any(candidate.overlaps(other) for other in taken):
                return candidate
    raise TestHostError("no private IPv4 network of 256 addresses is free here; see: ip route show table all")


def chosen(record: dict[str, Any], hosts: list[str]) -> dict[str, Any]:
    """Return the record with a network, and a number for each host; what was given before stays."""
    record = json.loads(json.dumps(record))
    if "network4" not in record:
        record["network4"] = str(free_network4())
        # RFC 4193: fd, then 40 random bits.
        noise = random.getrandbits(40).to_bytes(5, "big").hex()
        record["network6"] = str(ipaddress.ip_network(f"fd{noise[:2]}:{noise[2:6]}:{noise[6:]}::/64"))
        record["numbers"] = {}
    free = (number for number in range(FIRST_NUMBER, LAST_NUMBER + 1) if number not in record["numbers"].values())
    for host in hosts:
        if host not in record["numbers"]:
            record["numbers"][host] = next(free, None)
            if record["numbers"][host] is None:
                raise TestHostError(f"{host} is one host too many: a set has room for {LAST_NUMBER - FIRST_NUMBER + 1}")
    return record


def described(record: dict[str, Any], bridge: str) -> dict[str, Any]:
    """Return the network as its users see it."""
    network4 = ipaddress.ip_network(record["network4"])
    network6 = ipaddress.ip_network(record["network6"])
    return {
        "bridge": bridge,
        "network4": str(network4),
        "network6": str(network6),
        "gateway4": str(network4[1]),
        "gateway6": str(network6[1]),
        "hosts": {
            # The same digits in both: 10.1.2.10 and fd…::10.
            host: {"address4": str(network4[number]), "address6": str(network6[int(str(number), 16)])}
            for host, number in record["numbers"].items()
        },
    }


def forward_chains(policies: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Return the chains that decide what this machine forwards, as family, table and name."""
    listed = json.loads(run("nft", "--json", "list", "chains").stdout)["nftables"]
    chains = [entry["chain"] for entry in listed if "chain" in entry]
    return [
        (chain["family"], chain["table"], chain["name"])
        for chain in chains
        if chain["family"] in ("ip", "ip6", "inet")
        and chain.get("hook") == "forward"
        and chain.get("policy") in policies
    ]


def our_rules(chain: tuple[str, str, str], comment: str) -> list[int]:
    """Return the handles of our rules in a chain of someone else."""
    listed = run("nft", "--json", "--handle", "list", "chain", *chain, check=False)
    if listed.returncode:
        return []
    rules = [entry["rule"] for entry in json.loads(listed.stdout)["nftables"] if "rule" in entry]
    return [rule["handle"] for rule in rules if rule.get("comment") == comment]


class Network:
    """The network of one set, and the steps that bring it about or take it away."""

    def __init__(self, params: dict[str, Any], check: bool) -> None:
        """Take the module's arguments; in check mode nothing is done, only noted."""
        self.params = params
        self.check = check
        self.changes: list[str] = []
        self.root = Path(params["state_dir"])
        self.folder = self.root / params["set"]
        self.bridge = f"fom-{params['set']}"
        self.table = f"flask_on_metal_test_{params['set']}"
        self.record = read_json(self.folder / "network.json")

    def change(self, what: str) -> bool:
        """Note a change, and tell whether it is to be made."""
        self.changes.append(what)
        return not self.check

    def present(self) -> dict[str, Any]:
        """Bring the network about."""
        record = chosen(self.record, self.params["hosts"])
        if record != self.record and self.change("addresses"):
            write_json(self.folder / "network.json", record)
        network = described(record, self.bridge)
        self.forwarding_on()
        self.bridge_up(network)
        if not self.has_table() and self.change("nftables table"):
            run("nft", "-f", "-", stdin=TABLE.format(table=self.table, **network))
        for chain in forward_chains(("drop",)):
            if len(our_rules(chain, self.table)) < 2 and self.change(f"forwarding in chain {' '.join(chain)}"):
                for direction in ("iifname", "oifname"):
                    run("nft", "insert", "rule", *chain, direction, self.bridge, "accept", "comment", f'"{self.table}"')
        network["package_proxy"] = self.cache_up(network["gateway4"])
        return network

    def has_table(self) -> bool:
        """Tell whether our nftables table is there."""
        return bool(run("nft", "list", "table", "inet", self.table, check=False).returncode == 0)

    def forwarding_on(self) -> None:
        """Let the kernel forward IPv4, having written down what was set before."""
        if FORWARDING.read_text().strip() == "1":
            return
        if self.change("net.ipv4.ip_forward"):
            before = self.root / "kernel.json"
            if not before.exists():
                write_json(before, {"ip_forward": FORWARDING.read_text().strip()})
            FORWARDING.write_text("1\n")

    def bridge_up(self, network: dict[str, Any]) -> None:
        """Make the bridge, with this machine's addresses on it."""
        listed = run("ip", "-json", "address", "show", "dev", self.bridge, check=False)
        links = json.loads(listed.stdout or "[]") if listed.returncode == 0 else []
        have = {address["local"] for link in links for address in link.get("addr_info", [])}
        if {network["gateway4"], network["gateway6"]} <= have:
            return
        if not self.change(f"bridge {self.bridge}"):
            return
        if not links:
            # forward_delay 0: a port carries traffic at once, not after 15 s of learning.
            run("ip", "link", "add", self.bridge, "type", "bridge", "forward_delay", "0")
        # Where IPv6 is off for new interfaces, it is on for this one.
        switch = Path(f"/proc/sys/net/ipv6/conf/{self.bridge}/disable_ipv6")
        if not switch.exists():
            raise TestHostError("this machine's kernel has IPv6 switched off, and the hosts are reached over IPv6 too")
        switch.write_text("0\n")
        run("ip", "link", "set", self.bridge, "up")
        run("ip", "address", "replace", f"{network['gateway4']}/24", "dev", self.bridge)
        run("ip", "address", "replace", f"{network['gateway6']}/64", "dev", self.bridge, "nodad")

    def cache_up(self, address: str) -> str:
        """Start the package cache, and return its URL."""
        program, folder = self.params["package_cache"], self.params["package_cache_dir"]
        if not program:
            return ""
        # A copy, for the process may outlive the clone that it came from.
        copy = self.folder / Path(program).name
        argv = ["/usr/bin/python3", str(copy), address, str(PROXY_PORT), folder]
        if not processes(*argv[1:]) and self.change("package cache"):
            copy.write_bytes(Path(program).read_bytes())
            Path(folder).mkdir(parents=True, exist_ok=True)
            log = self.folder / "package_cache.log"
            launch(f"flask-on-metal-test-{self.params['set']}-package-cache", argv, log)
            wait_for(address, PROXY_PORT, log)
        return f"http://{address}:{PROXY_PORT}"

    def absent(self) -> None:
        """Take the network away, each part whether or not the others are there."""
        copy = self.folder / Path(self.params["package_cache"] or "none").name
        if processes(str(copy)) and self.change("package cache"):
            stop(str(copy))
            if under_systemd():
                unit = f"flask-on-metal-test-{self.params['set']}-package-cache.service"
                run("systemctl", "reset-failed", unit, check=False)
        for chain in forward_chains(("drop", "accept")):
            for handle in our_rules(chain, self.table):
                if self.change(f"forwarding in chain {' '.join(chain)}"):
                    run("nft", "delete", "rule", *chain, "handle", str(handle))
        if self.has_table() and self.change("nftables table"):
            run("nft", "delete", "table", "inet", self.table)
        if Path(f"/sys/class/net/{self.bridge}").exists() and self.change(f"bridge {self.bridge}"):
            run("ip", "link", "delete", self.bridge)
        if self.folder.exists() and self.change(str(self.folder)):
            for name in ("network.json", "package_cache.log", copy.name, "known_hosts", "ssh_config", "supervise"):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()
        before = self.root / "kernel.json"
        if not list(self.root.glob("*/network.json")) and before.exists() and self.change("net.ipv4.ip_forward"):
            FORWARDING.write_text(f"{read_json(before).get('ip_forward', '0')}\n")
            before.unlink()
        if not self.check and self.root.is_dir() and not self.root.is_mount() and not list(self.root.iterdir()):
            self.root.rmdir()


def wait_for(address: str, port: int, log: Path) -> None:
    """Wait until something listens."""
    for _ in range(100):
        with socket.socket() as connection:
            connection.settimeout(1)
            if connection.connect_ex((address, port)) == 0:
                return
        time.sleep(0.05)
    raise TestHostError(f"the package cache does not listen on {address}:{port}; see {log}:\n{log.read_text()[-800:]}")


def main() -> None:
    """Bring the network about, or take it away."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "set": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "package_cache": {"type": "path", "default": ""},
            "package_cache_dir": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    changes: list[str] = []
    result: dict[str, Any] = {}
    try:
        # All sets share the kernel's settings and its list of networks.
        with lock(LOCK):
            network = Network(module.params, module.check_mode)
            changes = network.changes
            if module.params["state"] == "present":
                result["network"] = network.present()
            else:
                network.absent()
    except TestHostError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changes), changes=changes, **result)


if __name__ == "__main__":
    main()
