"""Jinja filters for NGINX's own configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypedDict


class HashSize(TypedDict):
    """Sizes of one of NGINX's hash tables."""

    max_size: int  # buckets
    bucket_size: int  # bytes


OTHER_NAMES = 256
"""Names that are there without any app: NGINX's own variables, and those of nginx.conf."""


def hash_size(names: set[str]) -> HashSize:
    """Work out the sizes of a table that has these names.

    A name and its entry (ngx_hash_elt_t) take two pointers and the name, in whole pointers; a bucket ends with one
    more. NGINX refuses a configuration with a name that doesn't fit into a bucket, and complains where too many meet
    in one.
    """
    longest = max(map(len, names), default=0)
    entry = 8 + (longest + 2 + 7) // 8 * 8
    # Whole lines of the processor's cache. Four of the longest fit into a bucket, and there are eight buckets a name.
    bucket = (8 + 4 * max(entry, 32) + 63) // 64 * 64
    buckets = 1 << (8 * (len(names) + OTHER_NAMES)).bit_length()
    return {"max_size": buckets, "bucket_size": bucket}


def hash_sizes(texts: Iterable[str]) -> dict[str, HashSize]:
    """Work out the sizes of NGINX's hash tables from the texts of all sites, by the beginning of their directives."""
    whole = "\n".join(texts)
    variables = re.findall(r"\$([A-Za-z0-9_]+)|\(\?<([A-Za-z0-9_]+)>", whole)
    servers = re.findall(r"^\s*server_name\s+([^;]+);", whole, re.MULTILINE)
    return {
        "variables_hash": hash_size({name or capture for name, capture in variables}),
        "server_names_hash": hash_size({name for line in servers for name in line.split()}),
    }


class FilterModule:
    """What Ansible finds here."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters as templates do."""
        return {"hash_sizes": hash_sizes}
