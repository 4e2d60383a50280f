"""Another firewall on the host that lets no visitor in is told; one that does isn't."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest
from ansible.module_utils.other_firewalls import shut_by

OF_BEFORE = """
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport 22 accept
        %s
    }
}
"""
LIKE_FIREWALLD = """
table inet firewalld {
    chain filter_INPUT {
        type filter hook input priority 10; policy accept;
        ct state established,related accept
        jump zones
        reject with icmpx admin-prohibited
    }
    chain zones { %s }
}
"""
OURS = "table inet flask_on_metal { chain input { type filter hook input priority 0; policy drop; }; }"
OTHERS = """
table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }
table inet f2b-table {
    set addr { type ipv4_addr; }
    chain f2b-chain { type filter hook input priority -1; policy accept; tcp dport 22 ip saddr @addr reject; }
}
"""


def ruleset(text: str) -> dict[str, Any]:
    """Load rules into a network namespace that is nobody's, and read them as the module does."""
    if os.geteuid() or not shutil.which("nft") or not shutil.which("unshare"):
        pytest.skip("only root, with nftables, makes a namespace with rules")
    read: dict[str, Any] = json.loads(
        subprocess.run(
            ["unshare", "--net", "sh", "-c", "nft --file - && nft --json list ruleset"],
            input=text, capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    return read


@pytest.mark.parametrize(
    ("text", "shut"),
    [
        ("", []),
        (OURS + OTHERS, []),
        (OF_BEFORE % "", ["TCP 80 and 443: the chain input of nftables' table inet filter"]),
        (OURS + OF_BEFORE % "tcp dport 80 accept", ["TCP 443: "]),
        (OF_BEFORE % "udp dport { 80, 443 } accept", ["TCP 80 and 443: "]),
        (OF_BEFORE % "ip saddr 192.0.2.0/24 accept", ["TCP 80 and 443: "]),
        (OF_BEFORE % "tcp dport { 80, 400-500 } accept", []),
        (OF_BEFORE % "tcp dport 1-1024 counter accept", []),
        (OF_BEFORE % "iifname eth0 accept", []),
        (OF_BEFORE % "accept", []),
        (LIKE_FIREWALLD % "tcp dport 22 accept;", ["TCP 80 and 443: the chain filter_INPUT"]),
        (LIKE_FIREWALLD % "tcp dport { 22, 80, 443 } ct state new accept;", []),
    ],
)
def test_tables_that_let_no_visitor_in_are_named(text: str, shut: list[str]) -> None:
    found = shut_by(ruleset(text), "flask_on_metal", (80, 443))
    assert len(found) == len(shut), found
    for problem, words in zip(found, shut, strict=True):
        assert words in problem
