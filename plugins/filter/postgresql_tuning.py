"""Jinja filter that works out PostgreSQL's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible finds a project's module_utils for modules only; this runs on the control node.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.postgresql_tuning import Tuning, tuned


def postgresql_tuning(host: Mapping[str, Any], connections: int, memory_mb: int = 0) -> Tuning:
    """Work out the numbers of a server.

    Args:
        host: cores and memory_mb, as postgresql_preflight told them.
        connections: that clients may open.
        memory_mb: the operator's choice; 0 means the host's memory.
    """
    memory = int(memory_mb) or int(host["memory_mb"])
    numbers: Tuning = tuned(memory_mb=memory, cores=int(host["cores"]), connections=int(connections))
    return numbers


class FilterModule:
    """What Ansible finds here."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter as templates do."""
        return {"postgresql_tuning": postgresql_tuning}
