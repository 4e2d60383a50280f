"""NGINX on this host, asked whether it serves: the one thing that no file and no unit's state can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ansible.module_utils.unix_http import ask_until_good
from ansible.module_utils.visible import quoted

STATUS_SOCKET = Path("/run/nginx/status.sock")
"""Where NGINX tells this host's root which configuration it serves."""
PATIENCE = 5.0
"""Seconds in which a server that systemd starts anew is there again."""


def silence(run: Callable[..., tuple[int, str, str]]) -> str:
    """Say that NGINX doesn't serve, why, and what to do; nothing where it serves."""
    if ask_until_good(STATUS_SOCKET, "localhost", "/configuration", PATIENCE).good:
        return ""
    _, state, _ = run(["systemctl", "is-active", "nginx.service"])
    # Not `nginx -t`: it says nothing of a port that somebody else has.
    _, said, _ = run(
        ["journalctl", "--no-pager", "--quiet", "--output=cat", "--boot", "--lines=12", "--unit=nginx.service"]
    )
    return (
        f"NGINX doesn't answer on this host (systemctl calls it {state.strip() or 'unknown'}), so no app of it is "
        f"reached. The last lines of its journal:\n{quoted(said) or '(none)'}\n"
        "Next: playbooks/site.yml, which has it serve again"
    )
