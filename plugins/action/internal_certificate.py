"""Ansible action: a host's request is signed on the control node, so that the authority's key is on no host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

# Ansible finds a project's module_utils for what it sends to hosts only, and not for what runs on the control node.
ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[2] / "plugins" / "module_utils"))

from ansible.module_utils.internal_authority import AuthorityError, signed


class ActionModule(ActionBase):  # type: ignore[misc]
    """See plugins/modules/internal_certificate.py."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Have the host look; where a certificate is due, sign its request and hand the certificate back."""
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        authority, key = (self.text(args.pop(name, "")) for name in ("authority", "authority_key"))
        args["authority"] = authority
        result: dict[str, Any] = self._execute_module(module_args={**args, "step": "look"}, task_vars=task_vars)
        if result.get("failed") or not result.get("due"):
            return result
        try:
            certificate = signed(
                result["request"],
                authority,
                key,
                host=str(args["host"]),
                tier=str(args["tier"]),
                names=[str(name) for name in args["names"]],
                days=int(args["days"]),
            )
        except AuthorityError as error:
            raise AnsibleActionFail(
                f"The installation's own authority (certificate_internal_authority): {error}."
            ) from error
        installed: dict[str, Any] = self._execute_module(
            module_args={**args, "step": "install", "certificate": certificate}, task_vars=task_vars
        )
        return installed

    def text(self, path: str) -> str:
        """Read a file on the control node, decrypted where it is in the vault's form."""
        try:
            text: str = self._loader.get_text_file_contents(path)
        except AnsibleError as error:
            raise AnsibleActionFail(f"certificate_internal_authority: {error}") from error
        return text
