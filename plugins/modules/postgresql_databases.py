"""Ansible module: a database for each app, with an account of its own."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.postgresql_psql import Server, ServerError, identifier, literal
from ansible.module_utils.postgresql_scram import proves, verifier

DOCUMENTATION = r"""
---
module: postgresql_databases
short_description: A database for each name, with an account of that name that owns it
description:
  - Makes accounts and databases, changes passwords, and takes from everybody else what PostgreSQL gives to all.
  - Where the server of this host follows another one, it does nothing - a standby gets all of it from its leader.
  - Accounts and databases that are not given are left as they are.
  - A password is compared with what the server holds, by the same salt, and is in no statement.
options:
  databases: {description: Name and password of each., type: list, elements: dict, default: []}
  passwords: {description: Passwords of accounts that are there already, by their names., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: Each app has a database
  postgresql_databases:
    databases: [{name: news, password: "{{ vault_news }}"}]
"""

RETURN = r"""
done:
  description: What was (or would be) done.
  returned: success
  type: list
  elements: str
"""

ROLES = "SELECT rolname AS name, rolpassword AS password, rolcanlogin AS login, rolsuper AS super FROM pg_authid"
# PUBLIC is the grantee 0. Without entries of its own a database has those that PostgreSQL gives each one.
DATABASES = """
    SELECT datname AS name, pg_get_userbyid(datdba) AS owner, EXISTS (
      SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0
    ) AS open FROM pg_database
"""
SCHEMA = """
    SELECT pg_get_userbyid(nspowner) AS owner, EXISTS (
      SELECT FROM aclexplode(coalesce(nspacl, acldefault('n', nspowner))) WHERE grantee = 0
    ) AS open FROM pg_namespace WHERE nspname = 'public'
"""


class Databases:
    """What the server has, and what it is to have."""

    def __init__(self, module: AnsibleModule, server: Server) -> None:
        """Begin with nothing done."""
        self.module, self.server = module, server
        self.done: list[str] = []

    def change(self, text: str, statements: str, database: str = "postgres") -> None:
        """Note a change, and make it."""
        self.done.append(text)
        if not self.module.check_mode:
            self.server.run(statements, database)

    def account(self, name: str, password: str, roles: dict[str, dict[str, Any]]) -> None:
        """Make an account, or set its password."""
        role = roles.get(name)
        secret = literal(verifier(password))
        if role is None:
            self.change(f"account {name}", f"CREATE ROLE {identifier(name)} LOGIN PASSWORD {secret};")
        elif not role["login"] or not proves(role["password"], password):
            self.change(f"password of {name}", f"ALTER ROLE {identifier(name)} LOGIN PASSWORD {secret};")

    def database(self, name: str, found: dict[str, dict[str, Any]]) -> None:
        """Make a database, or mend whose it is and who else gets in."""
        quoted = identifier(name)
        now = found.get(name)
        if now is None:
            # From template0: what somebody put into template1 is not for every app.
            self.change(f"database {name}", f"CREATE DATABASE {quoted} OWNER {quoted} TEMPLATE template0;")
        elif now["owner"] != name:
            self.change(f"owner of database {name}", f"ALTER DATABASE {quoted} OWNER TO {quoted};")
        if now is None or now["open"]:
            self.change(f"rights on database {name}", f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC;")
        if now is None and self.module.check_mode:
            return
        for schema in self.server.rows(SCHEMA, name):
            if schema["owner"] != name or schema["open"]:
                self.change(
                    f"schema public of {name}",
                    f"ALTER SCHEMA public OWNER TO {quoted}; REVOKE ALL ON SCHEMA public FROM PUBLIC;",
                    name,
                )

    def bring_about(self) -> None:
        """Do what is to be done."""
        roles = {role["name"]: role for role in self.server.rows(ROLES)}
        for name, password in self.module.params["passwords"].items():
            if name in roles and not proves(roles[name]["password"], password):
                self.account(name, password, roles)
        found = {database["name"]: database for database in self.server.rows(DATABASES)}
        for entry in self.module.params["databases"]:
            name = entry["name"]
            if roles.get(name, {}).get("super"):
                self.module.fail_json(msg=f"postgresql_databases: {name} is a superuser's name. Choose another one")
            self.account(name, entry["password"], roles)
            self.database(name, found)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "databases": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                },
            },
            "passwords": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    server = Server(module)
    if module.check_mode and not server.reached():
        # A clean host: an earlier task would have started it.
        module.exit_json(changed=True, done=[f"database {entry['name']}" for entry in module.params["databases"]])
    databases = Databases(module, server)
    try:
        if server.run("SELECT pg_is_in_recovery();") == "f":
            databases.bring_about()
    except ServerError as error:
        module.fail_json(msg=f"PostgreSQL: {error}", done=databases.done)
    module.exit_json(changed=bool(databases.done), done=databases.done)


if __name__ == "__main__":
    main()
