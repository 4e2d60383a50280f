"""Talks to the agents: a process for each, and a line of JSON each way."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Sequence
from typing import Any


class AgentError(Exception):
    """An agent can't be reached, or could not do what it was asked for. The text says which and why."""


class Agent:
    """One end of the benchmark."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Start it.

        Args:
            name: The host, for messages.
            command: Starts agent.py there: over SSH, or here.
        """
        self.name = name
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        """Have something done, and return what came of it. A `get` that found nobody is no error.

        Raises:
            AgentError: It wasn't done.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise AgentError(f"the agent on {self.name} can't be reached: see what SSH or sudo said above") from error
        line = self._process.stdout.readline()
        if not line:
            raise AgentError(f"the agent on {self.name} ended: see what SSH, sudo or Python said above")
        result: dict[str, Any] = json.loads(line)
        if "error" in result and do != "get":
            raise AgentError(f"{self.name}: {do}: {result['error']}")
        return result

    def end_load(self) -> None:
        """End the steady load that another thread waits for. An agent that is gone has none."""
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """End it. A load that is under way ends by itself, within its seconds."""
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
