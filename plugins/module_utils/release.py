"""A release on its host: where its parts are, what state it is in, and the systemd instances that run it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.filesystem import read_text, write_atomically

RELEASE_ID = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}\Z")
SERVED = Path("/srv")
RUNTIME = Path("/run")
UNITS = Path("/etc/systemd/system")
# Installed by `uv_tool`; a link to the version in use.
UV = Path("/opt/flask-on-metal/uv/bin/uv")

RunCommand = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class App:
    """An app on this host, by its name."""

    name: str

    @property
    def folder(self) -> Path:
        """What is the app's: /srv/<name>."""
        return SERVED / self.name

    @property
    def link(self) -> Path:
        """The one link that says what is served."""
        return self.folder / "current"

    def current(self) -> Release | None:
        """Tell the release that is served: what the link says, never what a time stamp suggests."""
        try:
            target = self.link.readlink()
        except OSError:
            return None
        return Release(self, target.name) if RELEASE_ID.match(target.name) else None

    def releases(self) -> list[Release]:
        """All releases that have a folder, the oldest first."""
        try:
            names = sorted(path.name for path in (self.folder / "releases").iterdir())
        except FileNotFoundError:
            return []
        return [Release(self, name) for name in names if RELEASE_ID.match(name)]


@dataclass(frozen=True)
class Release:
    """One version of an app, with all it needs."""

    app: App
    id: str

    @property
    def folder(self) -> Path:
        """/srv/<app>/releases/<id>."""
        return self.app.folder / "releases" / self.id

    @property
    def runtime(self) -> Path:
        """/run/<app>/<id>: the socket, and the folder `private` of the app's own."""
        return RUNTIME / self.app.name / self.id

    @property
    def probe_socket(self) -> Path:
        """Where the instance answers HTTP to this host's root."""
        return self.runtime / "private" / "probe.sock"

    @property
    def service(self) -> str:
        """Its systemd service."""
        return f"{self.app.name}@{self.id}.service"

    @property
    def socket(self) -> str:
        """Its systemd socket."""
        return f"{self.app.name}@{self.id}.socket"

    @property
    def drop_in(self) -> Path:
        """Folder of what this release varies in the generic unit."""
        return UNITS / f"{self.service}.d"

    def record(self) -> dict[str, Any]:
        """Read release.json; nothing where it isn't there or isn't whole."""
        try:
            found = json.loads(read_text(self.folder / "release.json") or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def mark(self, state: str) -> None:
        """Note that the release was `activated` or has `failed`, with the time (UTC)."""
        text = time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime())
        write_atomically(self.folder / state, text, 0o644)

    def marked(self, state: str) -> bool:
        """Whether `mark` was called for this state."""
        return (self.folder / state).exists()

    def good(self) -> bool:
        """Whether the release was once active and nothing was held against it since: a rollback may go there."""
        return self.marked("activated") and not self.marked("failed")


# --- the instance's processes


def systemctl(run: RunCommand, *words: str) -> str:
    """Run systemctl; returns what it complained of, or nothing."""
    status, out, err = run(["systemctl", *words])
    return "" if status == 0 else (out + err).strip() or f"systemctl {words[0]} ended with status {status}"


def running_instances(run: RunCommand, app: App) -> set[str]:
    """Ids of the app's releases of which a unit is loaded and not inactive."""
    _, out, _ = run(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--full",
         f"{app.name}@*.service", f"{app.name}@*.socket"]
    )  # fmt: skip
    ids = set()
    for line in out.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        instance = re.match(r"^[^@]+@([^.]+)\.(?:service|socket)$", fields[0])
        if instance and fields[2] != "inactive":
            ids.add(instance.group(1))
    return ids


def stands(run: RunCommand, release: Release) -> bool:
    """Whether a release's service and socket both run, and will after a boot."""
    status, out, _ = run(["systemctl", "show", "--property=ActiveState,UnitFileState", release.service, release.socket])
    return status == 0 and sorted(out.split()) == ["ActiveState=active"] * 2 + ["UnitFileState=enabled"] * 2


def stop_instance(run: RunCommand, release: Release) -> str:
    """Disable and stop a release's units: the service gracefully first, its socket after it.

    Both in one order, where systemd goes backwards through the service's After=: stopped one by one, a connection that
    still waits in the socket would start the service again in between.
    """
    complaints = [
        systemctl(run, "disable", "--quiet", release.service, release.socket),
        systemctl(run, "stop", release.service, release.socket),
    ]
    systemctl(run, "reset-failed", release.service, release.socket)
    return "; ".join(filter(None, complaints))


def journal(run: RunCommand, release: Release, lines: int = 30) -> str:
    """Fetch the last lines that the instance wrote, traceback included."""
    _, out, _ = run(
        ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--lines={lines}", f"--unit={release.service}"]
    )
    return out.strip()


def queue_length(run: RunCommand, path: Path) -> int:
    """Count the connections to a listening unix socket that nobody accepted yet (Recv-Q); 0 without a listener."""
    # Without an answer of ss the module fails: no queue that could not be read is taken for an empty one.
    _, out, _ = run(["ss", "--unix", "--listening", "--no-header"], check_rc=True)
    for line in out.splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4] == str(path):
            return int(fields[2])
    return 0


# --- the modules' common part


def release_module(
    arguments: dict[str, Any] | None = None, secret: Iterable[str] = ("secrets",)
) -> tuple[AnsibleModule, Release]:
    """Make an Ansible module that works on one release (`app`, `id`), and that release.

    Values of `secrets` are cut out of whatever the module returns: an app's traceback may show them.
    """
    spec: dict[str, Any] = {"app": {"type": "str", "required": True}, "id": {"type": "str", "required": True}}
    spec.update({name: {"type": "dict", "default": {}, "no_log": True} for name in secret})
    module = AnsibleModule(argument_spec={**spec, **(arguments or {})}, supports_check_mode=True)
    # What a release consists of is read by its app's account, however strict root's own umask is on this host.
    os.umask(0o022)
    if not RELEASE_ID.match(module.params["id"]):
        module.fail_json(msg=f"{module.params['id']!r} is no release id")
    return module, Release(App(module.params["app"]), module.params["id"])
