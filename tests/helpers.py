"""What the tests know of the hosts: which promises their inventory makes, and ways to run things there."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from helpers_http import is_address
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent

RELEASE_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")

LEAKED_ON_PURPOSE = "canary traceback"
"""What stands in the same line as a secret that a test had an app print, to see that nobody repeats it."""


# --- what the inventory promises -------------------------------------------------------------------------------------


class Secret:
    """A value that no assertion, traceback or log of the tests shows."""

    def __init__(self, value: Any) -> None:
        """Keep the value."""
        self._value = value

    def reveal(self) -> Any:
        """Return the value, for a file of mode 0600 or a comparison whose outcome alone is shown."""
        return self._value

    def __repr__(self) -> str:
        """Show that there is one."""
        return "<secret>"


@dataclass(frozen=True)
class App:
    """One entry of flask_apps, with the defaults filled in."""

    name: str
    domains: list[str]
    wsgi: str
    source: str
    health_path: str
    max_body: str
    headers: dict[str, str]
    static: dict[str, str]
    environment: dict[str, str]
    secrets: dict[str, Secret]
    entry: Secret = field(repr=False)

    @property
    def names(self) -> list[str]:
        """Its domains that are names."""
        return [domain for domain in self.domains if not is_address(domain)]

    @property
    def addresses(self) -> list[str]:
        """Its domains that are addresses."""
        return [domain for domain in self.domains if is_address(domain)]

    @property
    def canonical(self) -> str:
        """The domain that the other names lead to."""
        return (self.names or self.addresses)[0]

    @property
    def max_body_bytes(self) -> int:
        """The largest body that it takes."""
        unit = " kmg".find(self.max_body[-1].lower())
        factor: int = 1024 ** max(unit, 0)
        return factor * int(self.max_body.rstrip("kKmMgG"))


@dataclass(frozen=True)
class Promised:
    """What the inventory says of one host."""

    host: str
    addresses: list[str]
    apps: list[App]
    options: dict[str, Any]
    groups: list[str]
    others: dict[str, list[Secret]]
    """What is secret besides the apps' own, by the account that may know it."""


def resolved(name: str) -> list[str]:
    """Resolve a name to all its addresses; an address is its own."""
    found = socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


TIERS = ["web", "balancer", "database"]
ROLES = ["host", "certificate", "nginx", "uwsgi", "flask_app", "balancer", "postgresql"]
OPTIONS = [
    "host_timezone",
    "host_sysctl",
    "host_packages",
    "host_sysctl_hardening",
    "host_firewall",
    "host_ssh_hardening",
    "host_ssh_allow_users",
    "host_ssh_rate",
    "host_updates",
    "host_updates_reboot",
    "host_journal_max_use",
    "balancer_addresses",
    "certificate_directory",
    "certificate_internal_directory",
    "nginx_large_header_buffers",
    "nginx_client_timeout",
    "nginx_headers",
    "nginx_http3",
    "nginx_tls",
    "nginx_access_log",
    "postgresql_databases",
    "postgresql_synchronous",
    "uwsgi_backlog",
]
# Of the databases' accounts no host but the databases has a password by itself; an app's URL holds its own.
OTHER_SECRETS = """{
  'root': [certificate_acme_eab_hmac_key]
          + (postgresql_databases | map(attribute='password') if 'database' in group_names else []),
  'postgres': [postgresql_superuser_password, postgresql_replication_password, postgresql_rest_password],
}"""


def read_promises(ansible: Ansible) -> dict[str, Promised]:
    """Read what the inventory says of each host, as the roles see it: templated, with all defaults."""
    with private_folder() as folder:
        values = ", ".join(f"'{name}': {name}" for name in OPTIONS)
        content = (
            "{{ {'apps': flask_apps | with_defaults, 'address': ansible_host | default(inventory_hostname), "
            "'address6': test_host_address6 | default(''), 'groups': group_names, 'others': " + OTHER_SECRETS + ", "
            "'options': {" + values + "}} | to_json }}"
        )
        play = {
            "hosts": ":".join(TIERS),
            "gather_facts": False,
            # The roles' defaults are wanted, and none of their tasks.
            "tasks": [
                *({"import_role": {"name": role, "rolespec_validate": False}, "tags": "roles"} for role in ROLES),
                {
                    "name": "Promises are written down",
                    "ansible.builtin.copy": {
                        "content": content,
                        "dest": f"{folder}/{{{{ inventory_hostname }}}}.json",
                        "mode": "0600",
                    },
                    "delegate_to": "localhost",
                    "become": False,
                    "no_log": True,
                },
            ],
        }
        ansible.play([play], environment={"ANSIBLE_SKIP_TAGS": "roles"})
        found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return {name: _promised(name, value) for name, value in found.items()}


def _promised(host: str, value: dict[str, Any]) -> Promised:
    def app(entry: dict[str, Any]) -> App:
        plain = {
            name: entry[name] for name in ("name", "domains", "wsgi", "source", "health_path", "headers", "static")
        }
        return App(
            **plain,
            max_body=str(entry["max_body"]),
            environment={name: str(text) for name, text in entry["environment"].items()},
            secrets={name: Secret(str(text)) for name, text in entry["secrets"].items()},
            entry=Secret(entry),
        )

    apps = [app(entry) for entry in value["apps"]]
    known = [*resolved(value["address"]), value["address6"], *(one for item in apps for one in item.addresses)]
    addresses = [ipaddress.ip_address(address).compressed for address in known if address]
    others = {account: [Secret(text) for text in texts if text] for account, texts in value["others"].items()}
    return Promised(host, list(dict.fromkeys(addresses)), apps, value["options"], value["groups"], others)


# --- ways to run things ----------------------------------------------------------------------------------------------


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that is gone afterwards, since what is in it may be secret."""
    with tempfile.TemporaryDirectory(prefix="flask-on-metal-") as name:
        yield Path(name)


class Unquoted(str):
    """Text that Ansible takes as it is, braces included."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(Unquoted, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))


def as_it_is(value: Any) -> Any:
    """Mark all texts of a value as not to be templated."""
    if isinstance(value, dict):
        return {name: as_it_is(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_it_is(item) for item in value]
    # Ansible takes `!unsafe ''` for nothing at all.
    return Unquoted(value) if isinstance(value, str) and value else value


def changed_apps(
    promises: dict[str, Promised], change: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Say with variables that the apps of some hosts have other options.

    Args:
        promises: of the hosts that are meant.
        change: takes a host's name and an app's entry, and returns the entry as it is to be.
    """
    entries = {
        # As an operator writes it: without what has no default.
        name: [
            change(name, {key: value for key, value in app.entry.reveal().items() if value is not None})
            for app in promised.apps
        ]
        for name, promised in promises.items()
    }
    return {"test_apps": as_it_is(entries), "flask_apps": "{{ test_apps[inventory_hostname] }}"}


@dataclass(frozen=True)
class Run:
    """What came of one run of ansible-playbook."""

    status: int
    output: str
    record: list[dict[str, Any]]
    leaked: bool = False  # whether a secret was in the output, where it is cut out now

    def without(self, secrets: Iterable[Secret]) -> Run:
        """Cut secrets out of the output, so that no message of a test can show them."""
        output = self.output
        for secret in secrets:
            output = output.replace(str(secret.reveal()), "<secret>")
        return replace(self, output=output, leaked=output != self.output)

    @property
    def changed(self) -> list[str]:
        """Hosts and tasks that changed something."""
        return [f"{entry['host']}: {entry['task']}" for entry in self.record if entry["changed"]]


@dataclass(frozen=True)
class Ansible:
    """Ansible on this machine, with the inventory and the limit that the tests were given."""

    inventory: str
    limit: str = ""

    def on(self, host: Host) -> Ansible:
        """Run on this host alone."""
        return replace(self, limit=f"{inventory_name(host)},localhost")

    def playbook(
        self,
        path: str | Path,
        *,
        variables: dict[str, Any] | None = None,
        timeout: float = 300,
        verbosity: int = 0,
        environment: dict[str, str] | None = None,
        check: bool = False,
    ) -> Run:
        """Run a playbook of this project. Variables travel in a file that nobody else can read."""
        with private_folder() as folder:
            extra = folder / "variables.yml"
            extra.touch(mode=0o600)
            extra.write_text(yaml.dump(variables or {}, Dumper=_Dumper, allow_unicode=True))
            words = [str(PROGRAMS / "ansible-playbook"), str(path), "-e", f"@{extra}"]
            if check:
                words.append("--check")
            if self.inventory:
                words += ["-i", self.inventory]
            if self.limit:
                words += ["--limit", self.limit]
            surroundings = {
                **os.environ,
                "ANSIBLE_NOCOLOR": "1",
                # Molecule's, which wins over the line before.
                "ANSIBLE_FORCE_COLOR": "0",
                "ANSIBLE_STDOUT_CALLBACK": "default",
                "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "record,assembled",
                "ANSIBLE_VERBOSITY": str(verbosity),
                "FLASK_ON_METAL_RECORDS": str(folder / "records"),
                **(environment or {}),
            }
            done = subprocess.run(
                words, cwd=ROOT, env=surroundings, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False,
                # A process group of its own: some tests kill it.
                start_new_session=True,
            )  # fmt: skip
            records = sorted((folder / "records").glob("*.json"))
            return Run(done.returncode, done.stdout, json.loads(records[0].read_text()) if records else [])

    def play(self, plays: list[dict[str, Any]], **more: Any) -> Run:
        """Run plays that are written here, and fail with Ansible's output where they fail."""
        with private_folder() as folder:
            path = folder / "plays.json"
            path.write_text(json.dumps(plays))
            done = self.playbook(path, **more)
        if done.status:
            raise RuntimeError(f"ansible-playbook failed:\n{done.output}")
        return done


def as_root(host: Host, script: str, *words: str) -> str:
    """Have root run a bash script on a host, whoever the host is reached as, and return its output.

    The words are $1, $2 and so on in the script.
    """
    command = f"set -euo pipefail\n{script}"
    line = shlex.join(["bash", "-c", command, "bash", *words])
    done = host.run('if [ "$(id -u)" = 0 ]; then sh -c %s; else sudo -n -- sh -c %s; fi', line, line)
    if done.rc:
        raise RuntimeError(f"on {host.backend.get_pytest_id()}, status {done.rc}: {done.stderr.strip()}\n{script}")
    return str(done.stdout)


def ssh_of(host: Host) -> Any:
    """Find what reaches a host by SSH: testinfra keeps it behind what asks Ansible's inventory."""
    runner = getattr(host.backend, "ansible_runner", None)
    options = {name: getattr(host.backend, name, None) for name in ("ssh_config", "ssh_identity_file")}
    inner = runner.get_host(host.backend.host, **options) if runner else host
    return getattr(inner, "backend", None)


def keep_open(host: Host, control_path: str) -> Host:
    """Have a host reached over one connection."""
    backend = ssh_of(host)
    extra = getattr(backend, "ssh_extra_args", None)
    if extra and "controlpath" not in extra.lower():
        backend.ssh_extra_args = f"{extra} -o ControlPath={control_path}"
    return host


def inventory_name(host: Host) -> str:
    """Tell a host's name in the inventory."""
    return str(host.backend.get_pytest_id()).removeprefix("ansible://")


def groups_of(host: Host) -> list[str]:
    """Tell a host's groups in the inventory."""
    return list(host.ansible.get_variables()["group_names"])


def blocks(text: str) -> dict[str, str]:
    """Split a script's output at its headings, which are lines of the form "== name"."""
    parts = re.split(r"^== (.+)\n", text, flags=re.MULTILINE)
    return {name: body.rstrip("\n") for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def pairs(text: str) -> dict[str, str]:
    """Read lines of the form name=value, as `systemctl show` prints them."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
