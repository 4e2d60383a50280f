"""Jinja filters over the groups of an inventory: which hosts are a tier, and where the other tiers reach them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError

# Ansible finds a project's module_utils for modules only; this runs on the control node.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.addresses import host_form


def tier_addresses(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List the addresses by which the other hosts of the installation reach these.

    Args:
        hosts: Names of hosts in the inventory.
        hostvars: Their variables.

    Raises:
        AnsibleFilterError: One has no address but a name, which a firewall and a peer can't use.
    """
    return [tier_address(host, hostvars) for host in hosts]


def tier_address(host: str, hostvars: Mapping[str, Mapping[str, Any]]) -> str:
    """Tell a host's internal_address, or else its ansible_host; see `tier_addresses`."""
    variables = hostvars[host]
    value = str(variables.get("internal_address") or variables.get("ansible_host") or host)
    try:
        return ipaddress.ip_address(value).compressed
    except ValueError:
        raise AnsibleFilterError(
            f"{host}: the other hosts of the installation reach it by an address, and {value} is none. Give it an "
            "internal_address in the inventory, as in  internal_address: 192.0.2.11"
        ) from None


def peers(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List where balancers reach web hosts: address and port, as 192.0.2.11:8443 or [2001:db8::11]:8443."""
    return [
        f"{host_form(tier_address(host, hostvars))}:{hostvars[host].get('nginx_balancer_port', 8443)}" for host in hosts
    ]


def by_family(addresses: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Sort addresses and networks by what nftables calls their family: ip or ip6."""
    found: dict[str, list[str]] = {}
    for address in addresses:
        found.setdefault("ip6" if ":" in address else "ip", []).append(address)
    return sorted(found.items())


def interface_of(address: str, networks: Mapping[str, str]) -> str:
    """Find the interface whose network an address is in.

    Args:
        address: An IPv4 or IPv6 address.
        networks: Interfaces by their addresses with prefixes, as host_preflight tells them.

    Raises:
        AnsibleFilterError: The host is in no such network.
    """
    for network, interface in networks.items():
        if ipaddress.ip_address(address) in ipaddress.ip_interface(network).network:
            return interface
    raise AnsibleFilterError(
        f"{address} is in no network of this host ({', '.join(networks)}). An address that moves has to "
        "be in one of the balancers: change balancer_addresses"
    )


def same_family_first(addresses: Iterable[str], like: str) -> list[str]:
    """Order addresses so that those of another one's family come first."""
    return sorted(addresses, key=lambda address: (":" in address) != (":" in like))


class FilterModule:
    """Hands the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        """List them by name."""
        return {
            "tier_addresses": tier_addresses,
            "tier_address": tier_address,
            "peers": peers,
            "by_family": by_family,
            "interface_of": interface_of,
            "same_family_first": same_family_first,
        }
