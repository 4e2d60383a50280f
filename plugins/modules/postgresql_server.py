"""Ansible module: a PostgreSQL server by itself, with the settings that are written down."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.postgresql_psql import Server, ServerError
from ansible.module_utils.postgresql_units import Unit

DOCUMENTATION = r"""
---
module: postgresql_server
short_description: A PostgreSQL server that runs with the settings that are written down
description:
  - Starts it, or has it read its changed files. What it doesn't understand is looked for first, and told.
  - Settings that a reload doesn't bring, as shared_buffers, restart it.
options:
  unit: {description: "Debian's service of it, as postgresql@17-main.service.", type: str, required: true}
  files: {description: That it reads., type: list, elements: path, required: true}
  log: {description: Its log., type: path, required: true}
  seconds: {description: To wait for its answer., type: int, default: 60}
"""

EXAMPLES = r"""
- name: Server runs
  postgresql_server:
    unit: postgresql@17-main.service
    files: [/etc/postgresql/17/main/conf.d/50-flask-on-metal.conf]
    log: /var/log/postgresql/postgresql-17-main.log
"""

RETURN = r"""
restarted:
  description: Settings for which it was (or would be) restarted.
  returned: success
  type: list
  elements: str
"""

# Of a setting that waits for a restart the server says that it could not be applied, just as of one that it can't use.
MISTAKES = """
    SELECT found.sourcefile AS file, found.sourceline AS line, concat_ws(': ', found.name, error) AS error
      FROM pg_file_settings AS found LEFT JOIN pg_settings AS known USING (name)
      WHERE error IS NOT NULL AND NOT (error = 'setting could not be applied' AND known.context = 'postmaster')
    UNION ALL
    SELECT current_setting('hba_file'), line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL
"""


class Local:
    """The server and its service."""

    def __init__(self, module: AnsibleModule) -> None:
        """Note what is wanted."""
        self.module = module
        self.server = Server(module)
        self.unit = Unit(module, module.params["unit"], module.params["files"])

    def fail(self, text: str) -> None:
        """End with a message, and the end of the server's log."""
        try:
            log = Path(self.module.params["log"]).read_text(encoding="utf-8", errors="replace")[-2000:]
        except OSError:
            log = "(nothing)"
        self.module.fail_json(msg=f"{text}\nIts log ends with:\n{log.strip()}")

    def wait(self) -> None:
        """Wait for its answer."""
        end = time.monotonic() + self.module.params["seconds"]
        while not self.server.reached():
            if time.monotonic() > end:
                self.fail(f"PostgreSQL ({self.unit.name}) doesn't answer after {self.module.params['seconds']} s.")
            time.sleep(0.3)

    def reload(self) -> None:
        """Have it read its files, once they were looked over."""
        if mistakes := self.server.rows(MISTAKES):
            lines = "\n".join(f"- {one['file']}, line {one['line']}: {one['error']}" for one in mistakes)
            self.fail(f"PostgreSQL doesn't understand its files, and goes on with the settings that it has:\n{lines}")
        before = self.loaded()
        self.unit.system("reload")
        end = time.monotonic() + 10
        while self.loaded() == before and time.monotonic() < end:
            time.sleep(0.1)

    def loaded(self) -> str:
        """When it last read its files."""
        return self.server.run("SELECT pg_conf_load_time();")

    def waiting(self) -> list[str]:
        """List the settings that wait for a restart."""
        return [
            row["name"] for row in self.server.rows("SELECT name FROM pg_settings WHERE pending_restart ORDER BY 1")
        ]

    def bring_about(self) -> dict[str, Any]:
        """Start, reload or restart it, whichever is needed."""
        running = self.unit.running() and self.server.reached()
        behind = not running or self.unit.behind()
        if self.module.check_mode:
            return {"changed": behind, "restarted": []}
        restarted: list[str] = []
        if behind:
            digest = self.unit.digest()
            if running:
                self.reload()
            else:
                # Debian's unit says that it is there even where the server didn't start.
                self.unit.system("restart")
            self.wait()
            if restarted := self.waiting():
                self.unit.system("restart")
                self.wait()
            self.unit.remember(digest)
        return {"changed": behind, "restarted": restarted}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "required": True},
            "log": {"type": "path", "required": True},
            "seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    local = Local(module)
    try:
        module.exit_json(**local.bring_about())
    except ServerError as error:
        local.fail(f"PostgreSQL: {error}.")


if __name__ == "__main__":
    main()
