"""Ansible callback: the control node dies, at the first task of a phase. For the tests of interrupted runs."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: kill
type: aggregate
short_description: Kills the run by SIGKILL when a phase begins
description:
  - Where the environment variable FLASK_ON_METAL_KILL names a phase (Fetch, Build, …) or a task, the whole process
    group of the run is killed FLASK_ON_METAL_KILL_AFTER seconds (0) after its first task was sent to a host. With 0
    the task never gets there.
requirements:
  - enable in configuration (callbacks_enabled)
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Waits for a phase."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kill"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Learn when."""
        super().__init__()
        self.phase = os.environ.get("FLASK_ON_METAL_KILL", "")
        self.after = float(os.environ.get("FLASK_ON_METAL_KILL_AFTER", "0"))
        self.disabled = not self.phase
        self.timer: threading.Timer | None = None

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Die at once, before anything was sent."""
        if not self.after and self.begins(task):
            die()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Die a little later, while the task is under way."""
        if self.after and not self.timer and self.begins(task):
            self.timer = threading.Timer(self.after, die)
            self.timer.start()

    def begins(self, task: Any) -> bool:
        """Tell whether a task is of the phase, or is the one; a name may begin with the role's."""
        name = task.get_name().rpartition(" : ")[2]
        return bool(name == self.phase or name.startswith(f"{self.phase} | "))


def die() -> None:
    """Kill the run with all its workers, as a lost machine would end them."""
    os.killpg(0, signal.SIGKILL)
