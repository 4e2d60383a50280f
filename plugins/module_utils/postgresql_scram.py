"""How PostgreSQL keeps a password: as something that proves it, and from which it can't be had (RFC 5802)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

ROUNDS = 4096


def verifier(password: str, salt: bytes | None = None, rounds: int = ROUNDS) -> str:
    """Return what pg_authid holds for a password of printable ASCII; others would first have to be normalized.

    Made here and not by the server, so that the password itself is in no statement, and so in none of its logs.
    """
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = {name: base64.b64encode(part).decode() for name, part in (("s", salt), ("c", client), ("k", server))}
    return f"SCRAM-SHA-256${rounds}:{text['s']}${text['c']}:{text['k']}"


def proves(stored: str | None, password: str) -> bool:
    """Whether what the server holds is this password's."""
    match = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$[^:]+:.+", stored or "")
    if not match:
        return False
    made = verifier(password, base64.b64decode(match[2]), int(match[1]))
    return hmac.compare_digest(made, str(stored))
