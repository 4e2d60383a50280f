"""Ansible callback: a record of what a run did, for the tests that count."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import action_loader

DOCUMENTATION = r"""
name: record
type: aggregate
short_description: Writes one JSON file for each run, without arguments and results
description:
  - Where the environment variable FLASK_ON_METAL_RECORDS names a folder, each run of ansible-playbook leaves
    <number>-<check|run>-<playbook>.json in it. It is a list of host, task, action, changed, skipped, failed, reached
    and seconds, with one entry for each item of a loop.
  - Arguments, items and results are never written, since they may be secret.
requirements:
  - enable in configuration (callbacks_enabled)
"""

# Includes are worked out on the control node, and have no plugin that says so.
INCLUDES = {"meta", "include_tasks", "include_role", "import_tasks", "import_role", "import_playbook"}


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Collects what is told of each task, and writes it at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()
        folder = os.environ.get("FLASK_ON_METAL_RECORDS", "")
        self.folder = Path(folder) if folder else None
        self.disabled = self.folder is None
        self.playbook = ""
        self.entries: list[dict[str, Any]] = []
        self.started: dict[tuple[str, str], float] = {}

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Learn the playbook's name."""
        self.playbook = Path(playbook._file_name).stem

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Start the watch."""
        self.started[host.get_name(), task._uuid] = time.monotonic()

    # --- the end of a task, or of one item of its loop

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note a task that went well."""
        self.note(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note a task that failed."""
        self.note(result, failed=True)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note a host that could not be reached."""
        self.note(result, failed=True)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Note a task that was skipped."""
        self.note(result, skipped=True)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Note an item that went well."""
        self.note(result, item=True)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Note an item that failed."""
        self.note(result, item=True, failed=True)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Note an item that was skipped."""
        self.note(result, item=True, skipped=True)

    def note(self, result: Any, *, item: bool = False, skipped: bool = False, failed: bool = False) -> None:
        """Add an entry. Of a loop its items are noted, and not the task over them."""
        task, found = result.task, result.result
        if task.loop is not None and not item and "results" in found:
            return
        key = (result.host.get_name(), task._uuid)
        now = time.monotonic()
        self.entries.append(
            {
                "host": result.host.get_name(),
                "task": task.get_name(),
                "action": task.action,
                "changed": bool(found.get("changed", False)) and not skipped,
                "skipped": skipped,
                "failed": failed,
                "reached": reached(task.action, found, skipped=skipped),
                "seconds": round(now - self.started.get(key, now), 3),
            }
        )
        self.started[key] = now  # the next item's time begins here

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the record."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("*.json"))) + 1
        kind = "check" if context.CLIARGS.get("check") else "run"
        path = self.folder / f"{number:02}-{kind}-{self.playbook}.json"
        path.write_text(json.dumps(self.entries, indent=1) + "\n", encoding="utf-8")


def reached(action: str, result: dict[str, Any], *, skipped: bool) -> bool:
    """Tell whether a task went to its host, rather than be done or skipped on the control node."""
    if action.rpartition(".")[2] in INCLUDES:
        return False
    # A module that skips itself, as `command` does in check mode, was there to say so.
    if skipped and ("skip_reason" in result or "skipped_reason" in result or "censored" in result):
        return False
    delegated = result.get("_ansible_delegated_vars", {}).get("ansible_delegated_host")
    if delegated in ("localhost", "127.0.0.1", "::1"):
        return False
    plugin = action_loader.get(action, class_only=True) if action in action_loader else None
    return bool(getattr(plugin, "_requires_connection", True))
