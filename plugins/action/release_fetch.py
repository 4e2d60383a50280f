"""Ansible action: sends the source to a host, where the module of the same name unpacks it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Ansible finds a project's module_utils for modules only; this runs on the control node.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.release_source import Source, SourceError, time_of


class ActionModule(ActionBase):  # type: ignore[misc]
    """Archives a source on the control node and transfers it."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Transfer the archive and run the module that unpacks it."""
        super().run(tmp, task_vars)
        args = self._task.args
        source = Source.parse(args["source"], args["version"], tuple(args["exclude"]))
        arguments = {"archive": "", **{name: args[name] for name in ("app", "id", "run", "shared")}}
        if source.kind != "requirement" and not self._task.check_mode:
            handle, name = tempfile.mkstemp(suffix=".tar.gz")
            os.close(handle)
            try:
                source.write_archive(Path(name), time_of(args["id"]))
                # The source is read twice, for its digest and for the archive: an edit in between would be served
                # under the id of what it replaced.
                if source.digest() != args["digest"]:
                    raise AnsibleActionFail(
                        f"{args['app']}: the source {source.text} changed during the run; run again"
                    )
                remote = self._connection._shell.join_path(self._make_tmp_path(), "code.tar.gz")
                arguments["archive"] = self._transfer_file(name, remote)
                self._fixup_perms2((self._connection._shell.tmpdir, remote))
            except SourceError as error:
                raise AnsibleActionFail(f"{args['app']}: {error}") from error
            finally:
                Path(name).unlink()
        try:
            result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result
