"""Checks the options of all hosts on the control node, before anything on a host is touched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible import context
from ansible.errors import AnsibleAction, AnsibleError
from ansible.parsing.vault import EncryptedString
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible.vars.hostvars import HostVars

ROOT = Path(__file__).resolve().parents[2]
# Ansible finds a project's module_utils for what it sends to hosts only, and not for what runs on the control node.
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))

from ansible.module_utils import option_check

try:
    from ansible._internal._datatag._tags import Origin
except ImportError:
    # It is ansible-core's own. Without it no number's place is known, and each that is to be text needs quotes.
    Origin = None

ALIASES = {
    "app": "flask_app_only",
    "force": "flask_app_force",
    "resolve": "flask_app_resolve",
    "version": "flask_app_version",
    "break_lock": "flask_app_break_lock",
    "stop_first": "flask_app_stop_first",
    "to": "flask_app_to",
    "maintenance": "flask_app_maintenance",
    "pages": "flask_app_purge",
    "drain": "balancer_drain",
    "force_certificates": "certificate_acme_force",
}
"""What the playbooks take with -e, and the options that they set by it."""


class ActionModule(ActionBase):  # type: ignore[misc]
    """See plugins/modules/check_options.py."""

    BYPASS_HOST_LOOP = True  # once for all hosts, whatever the play says
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a result, or fail with one message for all problems."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "group": {"type": "str", "default": "web"},
                "others": {"type": "list", "elements": "str", "default": []},
                "roles": {"type": "list", "elements": "str", "default": []},
            }
        )
        variables = task_vars or {}
        inventory = [str(source) for source in context.CLIARGS.get("inventory") or ()]
        if text := option_check.empty_group(arguments["group"], variables["groups"], inventory):
            raise failure(f"the group {arguments['group']} has no hosts", text)

        groups = [arguments["group"], *arguments["others"]]
        roles = option_check.load_roles(ROOT / "roles", arguments["roles"])
        members = [host for group in groups for host in variables["groups"].get(group, ())]
        if twice := sorted({host for host in members if members.count(host) > 1}):
            raise failure(
                "hosts are in several groups",
                f"{', '.join(twice)}: in more than one of {', '.join(groups)}. Each host is one of them, as its"
                " certificate says. No host was touched.",
            )
        in_play = set(variables["ansible_play_hosts_all"])
        hosts = [host for group in groups for host in variables["groups"].get(group, ()) if host in in_play]
        reports, options = {}, {}
        for host in dict.fromkeys(hosts):
            evaluator = self._evaluator(roles, variables["hostvars"], host)
            reports[host], options[host] = option_check.check_host(roles, evaluator)
        option_check.check_only(reports, options)

        problems = {host: report.problems for host, report in reports.items()}
        if any(problems.values()):
            text = option_check.report_text(problems, inventory)
            raise failure(text.partition(".")[0], text)
        right = f"The options of {option_check.count(len(hosts), 'host')} are right."
        return result | {
            "changed": False,
            "msg": right if hosts else f"No host of {arguments['group']} is in the limit.",
        }

    def _evaluator(
        self, roles: Mapping[str, option_check.Role], hostvars: HostVars, host: str
    ) -> option_check.Evaluator:
        """Return the variables of one host, and how to evaluate them; the roles' defaults can be referred to."""
        raw: dict[str, Any] = dict(hostvars.raw_get(host))
        for alias, option in ALIASES.items():
            if alias in raw and option not in raw:
                raw[option] = raw[alias]
        specs = [item for role in roles.values() for item in role.options.items()]
        defaults = {option: spec["default"] for option, spec in specs if "default" in spec}
        templar = Templar(loader=self._loader, variables=defaults | raw | {"hostvars": hostvars})

        def evaluate(value: object) -> object:
            try:
                return templar.template(value)
            except (AnsibleError, RecursionError, TypeError, ValueError) as error:
                raise option_check.CannotEvaluate(str(error).partition("\n")[0]) from error

        def read(path: str) -> str:
            try:
                text: str = self._loader.get_text_file_contents(path)
            except AnsibleError as error:
                raise option_check.CannotEvaluate(str(error).partition("\n")[0]) from error
            return text

        @cache
        def content(path: str) -> str:
            return read(path)

        def written(value: object) -> option_check.Written | None:
            origin = Origin.get_tag(value) if Origin else None
            if not origin or not origin.path or not origin.line_num or not origin.col_num:
                return None
            try:
                text = content(origin.path)
            except (OSError, option_check.CannotEvaluate):
                return None
            return option_check.Written.at(origin.path, text, origin.line_num, origin.col_num)

        return option_check.Evaluator(raw, evaluate, lambda value: isinstance(value, EncryptedString), read, written)


def failure(short: str, text: str) -> AnsibleAction:
    """Return an error with a short heading and the text as its result: Ansible shows both, and it is there once."""
    return AnsibleAction(short, result={"failed": True, "changed": False, "msg": text})
