"""Statements to the server of this host, as its superuser over its own socket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


class ServerError(Exception):
    """The server can't be asked, or refused; the text is its own."""


class Server:
    """Debian's server on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        """Note who runs commands."""
        self.module = module

    def run(self, statements: str, database: str = "postgres") -> str:
        """Run statements, and return what they print. They go through a pipe: arguments are for all to see."""
        words = ["runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
        words += ["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse", "--no-password", f"--dbname={database}"]
        status, out, err = self.module.run_command(words, data=statements, cwd="/")
        if status:
            raise ServerError(err.strip() or out.strip() or f"psql ended with {status}")
        return str(out).strip()

    def rows(self, query: str, database: str = "postgres") -> list[dict[str, Any]]:
        """Return what a query finds."""
        found: list[dict[str, Any]] = json.loads(
            self.run(f"SELECT coalesce(json_agg(row_to_json(found)), '[]') FROM ({query}) AS found;", database)
        )
        return found

    def reached(self) -> bool:
        """Whether it answers."""
        try:
            self.run("SELECT 1;")
        except ServerError:
            return False
        return True


def identifier(name: str) -> str:
    """Quote a name."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text."""
    return "'" + text.replace("'", "''") + "'"
