"""The writings in which a secret might lie around: as it is, in base64, quoted for a URL, JSON, systemd or a shell."""

from __future__ import annotations

import base64
import json
import re
import shlex
import urllib.parse
from collections.abc import Iterable

# Shorter ones would be found by chance.
SHORTEST = 8


def forms(secret: str) -> set[str]:
    """Write a secret in all forms in which it might lie around; of one with several lines, the longest line."""
    line = max(secret.splitlines() or [""], key=len)
    if len(line) < SHORTEST:
        return set()
    found = {line, urllib.parse.quote(line), urllib.parse.quote(line, safe=""), urllib.parse.quote_plus(line)}
    # In JSON and YAML, in systemd's words, and in a shell's.
    found |= {json.dumps(line)[1:-1], re.sub(r'(["\\$`])', r"\\\1", line), shlex.quote(line).strip("'")}
    raw = line.encode()
    for offset in range(3):
        # In the middle of something longer it has three possible forms; what its neighbours change is cut off.
        text = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        inner = text[(4 if offset else 0) : len(text) - 2]
        found |= {inner, inner.replace("+", "-").replace("/", "_")} if len(inner) >= SHORTEST else set()
    return found


def found_in(output: str, texts: Iterable[str]) -> bool:
    """Tell whether something is in what a run said."""
    return any(text in output for text in texts)
