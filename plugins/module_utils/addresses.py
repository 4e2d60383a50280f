"""What IPv4 and IPv6 addresses are, and how they are written."""

from __future__ import annotations

import ipaddress


def is_address(text: object) -> bool:
    """Tell whether it is an IPv4 or IPv6 address, without a zone."""
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return "%" not in str(text)


def is_network(text: object) -> bool:
    """Tell whether it is an address or a network."""
    try:
        ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        return False
    return True


def host_form(host: str) -> str:
    """Write a name or an address as it stands in a URL, a Host header or a listen: IPv6 short, and in brackets."""
    return f"[{ipaddress.ip_address(host).compressed}]" if is_address(host) and ":" in host else host
