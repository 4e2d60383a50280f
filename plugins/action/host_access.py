"""Ansible action: firewall and sshd are changed, and a really new connection has to confirm it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.plugins.connection import ConnectionBase

# They come before what ansible.cfg and the inventory say, and ssh takes the first value of an option.
NEW = "-o ControlMaster=no -o ControlPath=none"


class ActionModule(ActionBase):  # type: ignore[misc]
    """See plugins/modules/host_access.py."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Apply; where that changed something, come again by a new connection, or wait until it is undone."""
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        result: dict[str, Any] = self._execute_module(module_args=args, task_vars=task_vars)
        if result.get("failed") or not result.get("changed") or self._task.check_mode:
            return result
        seconds = float(args.get("undo_seconds", 60))
        begin = time.monotonic()
        said = ""
        with self.new_connections(seconds):
            # A refused one is tried again (sshd is just reading its configuration), a lost one as often as there is
            # time. What comes too late would meet a host that is changing back.
            while time.monotonic() - begin < seconds / 2:
                said = self.ask("confirm", task_vars)
                if not said:
                    return result
                time.sleep(1)
            left = begin + seconds - time.monotonic()
            self._display.warning(f"no new connection succeeded; waiting {left:.0f} s for the host to undo the change")
            back = self.until_undone(begin + seconds, task_vars)
        raise AnsibleActionFail(message(result.get("changes", []), said, back))

    @contextmanager
    def new_connections(self, seconds: float) -> Iterator[None]:
        """Have each call make a connection of its own, as the same account, by the same way."""
        connection = self._connection
        if connection.transport != "ssh":
            # Whether it is new is for the host to say: it looks when its sshd began to serve this connection.
            if type(connection).reset is not ConnectionBase.reset:
                connection.reset()
            yield
            return
        before = {name: connection.get_option(name) for name in ("ssh_args", "timeout")}
        connection.set_option("ssh_args", f"{NEW} {before['ssh_args'] or ''}")
        connection.set_option("timeout", min(int(before["timeout"] or 10), max(3, int(seconds / 5))))
        try:
            yield
        finally:
            for name, value in before.items():
                connection.set_option(name, value)

    def ask(self, step: str, task_vars: dict[str, Any] | None) -> str:
        """Run one step of the module; returns what stood in its way, and nothing where it did its work."""
        try:
            answer = self._execute_module(module_args={"step": step}, task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            return str(error).strip()
        if answer.get("failed") or answer.get("unreachable"):
            return str(answer.get("msg") or answer.get("module_stderr") or answer).strip()
        return "" if step == "confirm" else f"state {answer.get('state')}"

    def until_undone(self, deadline: float, task_vars: dict[str, Any] | None) -> bool:
        """Wait for the host's timer; tells whether the host can be reached again, as it was before."""
        time.sleep(max(0.0, deadline - time.monotonic()))
        while time.monotonic() < deadline + 60:
            if self.ask("look", task_vars) == "state undone":
                return True
            time.sleep(1)
        return False


def message(changes: list[str], said: str, back: bool) -> str:
    """Say what was tried, what is the case now, and what to do."""
    now = (
        "The host has put everything back by itself, and a new connection works again."
        if back
        else "The host should have put everything back by itself, but no new connection works. On its console:\n"
        "  systemctl status flask-on-metal-undo.timer; ls /var/lib/flask-on-metal/access"
    )
    return (
        "After this change no new SSH connection got in, so it was not kept:\n"
        + "".join(f"- {change}\n" for change in changes)
        + f"The last try said: {said}\n{now}\n"
        "Next: look at host_firewall_rules, host_ssh_allow_users and at how this machine logs in (account, key, port; "
        "passwords are refused), then run again. If the host is only slow, raise host_access_undo_seconds."
    )
