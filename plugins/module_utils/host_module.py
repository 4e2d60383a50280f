"""The base of all modules: what they return can be shown on a terminal, whoever wrote it."""

from __future__ import annotations

from typing import NoReturn

from ansible.module_utils import basic
from ansible.module_utils.common.parameters import remove_values
from ansible.module_utils.visible import quoted, visible


class AnsibleModule(basic.AnsibleModule):  # type: ignore[misc]
    """Ansible's own prints messages as they are: an app could write whatever it likes on the operator's terminal."""

    def exit_json(self, **result: object) -> NoReturn:
        """Return a result."""
        super().exit_json(**{name: self.shown(value) for name, value in result.items()})
        raise AssertionError

    def fail_json(self, msg: str, **result: object) -> NoReturn:
        """Fail with a message."""
        super().fail_json(self.shown(msg), **{name: self.shown(value) for name, value in result.items()})
        raise AssertionError

    def warn(self, warning: str, **more: object) -> None:
        """Add a warning."""
        super().warn(self.shown(warning), **more)

    def shown(self, value: object) -> object:
        """Make control characters visible wherever there is text, names included.

        Secrets are cut out before: one that has such a character could not be found afterwards.
        """
        if isinstance(value, bytes):  # of a command that failed, as Ansible's run_command returns it
            value = value.decode(errors="surrogateescape")
        if isinstance(value, str):
            return visible(remove_values(value, self.no_log_values))
        if isinstance(value, dict):
            return {self.shown(name): self.shown(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.shown(item) for item in value]
        return value

    def quoted(self, text: str, size: int = 6000) -> str:
        """Mark each line of a foreign text; secrets are cut out before, since one may have several lines."""
        return quoted(remove_values(text, self.no_log_values), size)
