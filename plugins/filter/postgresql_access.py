"""Jinja filters for who may reach PostgreSQL, and from where."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible finds a project's module_utils for modules only; this runs on the control node.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.addresses import is_network


def not_networks(texts: Iterable[object]) -> list[str]:
    """List those that are neither addresses nor networks."""
    return [str(text) for text in texts if not is_network(text)]


def as_network(text: str) -> str:
    """Write an address or a network as pg_hba.conf takes it: with the length of its prefix."""
    return str(ipaddress.ip_network(text, strict=False))


def quoted(name: str) -> str:
    """Write a name so that pg_hba.conf takes it for a name: `all` and `replication` mean something else without."""
    return '"' + name.replace('"', '""') + '"'


def postgresql_hba(databases: Iterable[str], clients: Iterable[str], members: Iterable[str]) -> list[str]:
    """Make the lines of pg_hba.conf. What none of them lets in is refused.

    Args:
        databases: names, which are those of their accounts as well.
        clients: addresses and networks that accounts of databases may come from.
        members: addresses of the cluster's hosts; none for a server by itself.
    """
    lines = []
    members = list(members)
    if members:
        # Patroni asks its own server how far it is.
        lines.append("local replication replicator scram-sha-256")
    # An account of the host is the account of that name. postgres is the superuser, by this line alone.
    lines.append("local all all peer")
    for address in members:
        # A standby that follows, and one that is brought back to where it left the leader's history (pg_rewind).
        lines.append(f"hostssl replication replicator {as_network(address)} scram-sha-256 clientcert=verify-ca")
        lines.append(f"hostssl all postgres {as_network(address)} scram-sha-256 clientcert=verify-ca")
    names = ",".join(quoted(name) for name in databases)
    if names:
        sources = list(dict.fromkeys(as_network(client) for client in clients))
        # sameuser: each account to the database of its name. samehost: any address of the server itself.
        lines += [f"hostssl sameuser {names} {source} scram-sha-256" for source in ["samehost", *sources]]
    return lines


class FilterModule:
    """What Ansible finds here."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters as templates do."""
        return {
            "not_networks": not_networks,
            "postgresql_hba": postgresql_hba,
        }
