"""Firewalls besides ours: a packet must pass each, and one of theirs may let no visitor in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Rule = list[dict[str, Any]]


def covers(right: object, port: int) -> bool:
    """Whether the right side of a match names a port; of a named set nobody knows, so it does."""
    if isinstance(right, int):
        return right == port
    if isinstance(right, dict) and "set" in right:
        return any(covers(one, port) for one in right["set"])
    if isinstance(right, dict) and "range" in right:
        first, last = right["range"]
        return bool(first <= port <= last)
    return True


def opens(rule: Rule, port: int) -> bool:
    """Whether a rule lets visitors in at a TCP port, as far as it can be told; what can't be read is taken to."""
    if not any("accept" in part for part in rule):
        return False
    if any("xt" in part for part in rule):
        return True  # in iptables' own words
    matches = [part["match"] for part in rule if "match" in part]
    payloads = [match for match in matches if match["left"].get("payload", {}).get("field") == "dport"]
    if payloads:
        return all(
            match["left"]["payload"].get("protocol") in ("tcp", "th")
            and (match.get("op") == "!=" or covers(match["right"], port))
            for match in payloads
        )
    # Without a port: all that comes, or all that comes by an interface. Answers, ICMP and some senders are nobody new.
    return all(
        match["left"].get("meta", {}).get("key") in ("iif", "iifname") and match["right"] != "lo" for match in matches
    )


def closes(rule: Rule) -> bool:
    """Whether nothing passes a rule."""
    return any(part.keys() & {"drop", "reject"} for part in rule) and not any(
        part.keys() & {"match", "xt"} for part in rule
    )


def shut_by(ruleset: Mapping[str, Any], ours: str, ports: Iterable[int]) -> list[str]:
    """Say which chains of other tables let no visitor in.

    Args:
        ruleset: what C(nft --json list ruleset) says.
        ours: name of our own table.
        ports: TCP ports that are to be open.
    """
    found = ruleset.get("nftables", [])
    rules = [entry["rule"] for entry in found if "rule" in entry]
    problems = []
    for chain in (entry["chain"] for entry in found if "chain" in entry):
        if chain.get("hook") != "input" or chain.get("type") != "filter" or chain["table"] == ours:
            continue
        table = [rule for rule in rules if (rule["family"], rule["table"]) == (chain["family"], chain["table"])]
        own = [rule["expr"] for rule in table if rule["chain"] == chain["name"]]
        # A chain that this one jumps to may let them in.
        missing = [port for port in ports if not any(opens(rule["expr"], port) for rule in table)]
        if missing and (chain.get("policy") == "drop" or any(map(closes, own))):
            problems.append(
                f"TCP {' and '.join(map(str, missing))}: the chain {chain['name']} of nftables' table "
                f"{chain['family']} {chain['table']} lets in what it names, and not that."
            )
    return problems
