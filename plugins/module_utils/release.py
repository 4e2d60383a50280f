"""A release on its host: where its parts are, what state it is in, and the systemd instances that run it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.bounded import run_bounded
from ansible.module_utils.filesystem import account_ids, read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release_lock import Lock, LockLost
from ansible.module_utils.unix_http import Answer, ask_app_until_good
from ansible.module_utils.unix_sockets import connected, queue_length
from ansible.module_utils.visible import one_line

RELEASE_ID = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}\Z")
SERVED = Path("/srv")
RUNTIME = Path("/run")
UNITS = Path("/etc/systemd/system")
RUNTIME_UNITS = Path("/run/systemd/system")

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

    @property
    def previous_link(self) -> Path:
        """What was served before: pages that it sent still find their static files."""
        return self.folder / "previous"

    def current(self) -> Release | None:
        """Tell the release that is served: what the link says, never what a time stamp suggests."""
        return self._linked(self.link)

    def previous(self) -> Release | None:
        """Tell the release that was served before."""
        return self._linked(self.previous_link)

    def _linked(self, link: Path) -> Release | None:
        try:
            target = link.readlink()
        except OSError:
            return None
        return Release(self, target.name) if RELEASE_ID.match(target.name) else None

    def way_back(self) -> Release | None:
        """Find the newest good release older than the current one: where a rollback goes."""
        current = self.current()
        older = [release for release in self.releases() if current and release.id < current.id and release.good()]
        return older[-1] if older else None

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

    def mark(self, mark: str) -> None:
        """Note that the release was `activated`, has `failed` or was `withdrawn` (rolled back from), and when (UTC)."""
        text = time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime())
        write_atomically(self.folder / mark, text, 0o644)

    def unmark(self, mark: str) -> None:
        """Take a mark back."""
        (self.folder / mark).unlink(missing_ok=True)

    def marked(self, mark: str) -> bool:
        """Whether the release bears this mark."""
        return (self.folder / mark).exists()

    def startable(self) -> bool:
        """Whether the release once served and never failed: it can be gone back to by name."""
        return self.marked("activated") and not self.marked("failed")

    def good(self) -> bool:
        """Whether the release is startable and nobody went back from it: a rollback goes there by itself."""
        return self.startable() and not self.marked("withdrawn")

    def state(self) -> str:
        """Say in a word what the release is."""
        if self.app.current() == self:
            return "current"
        for mark in ("failed", "withdrawn"):
            if self.marked(mark):
                return mark
        return "good" if self.marked("activated") else "unfinished"

    def told(self) -> dict[str, Any]:
        """Tell what an operator asks for: id, state, version, when (UTC) it was activated or failed, by whom."""
        record, state = self.record(), self.state()
        mark = state if state in ("failed", "withdrawn") else "activated"
        return {
            "id": self.id,
            "state": state,
            # A directory has no version; its digest tells one from another.
            "version": str(record.get("version") or record.get("source", "")[:12]),
            "when": (read_text(self.folder / mark) or "").strip(),
            "by": str(record.get("by", "")),
            "health": record.get("health", {}),
        }


def surplus(app: App, keep: int) -> list[Release]:
    """Choose which of an app's releases go.

    Those that once served and can be started stay, `keep` in all and the newest first; the current one, the one that
    was served before and the way back are among them, however old. Of the failed ones the newest stays.
    """
    releases, needed = app.releases(), {app.current(), app.previous(), app.way_back()}
    fixed = [release for release in releases if release in needed]
    others = [release for release in releases if release not in needed]
    startable = [release for release in others if release.startable()]
    failed = [release for release in others if release.marked("failed")]
    room = max(keep - len(fixed), 0)
    stay = [*fixed, *startable[len(startable) - min(room, len(startable)) :], *failed[-1:]]
    return [release for release in releases if release not in stay]


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


@contextlib.contextmanager
def awake(fifo: Path) -> Iterator[None]:
    """Have uWSGI's master look at once whether its workers have ended.

    It looks once a second, and whenever its FIFO has something; a newline is no command there.
    """
    over = threading.Event()

    def nudge() -> None:
        while not over.wait(0.02):
            # The folder is the app's: a link or a file in the FIFO's place is not written to.
            with contextlib.suppress(OSError):
                descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
                try:
                    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                        os.write(descriptor, b"\n")
                finally:
                    os.close(descriptor)

    nudger = threading.Thread(target=nudge, daemon=True)
    nudger.start()
    try:
        yield
    finally:
        over.set()
        nudger.join()


def stop_instance(run: RunCommand, release: Release) -> str:
    """Disable and stop a release's units: the service gracefully first, its socket after it.

    Both in one order, where systemd goes backwards through the service's After=: stopped one by one, a connection that
    still waits in the socket would start the service again in between.
    """
    complaints = [systemctl(run, "disable", "--quiet", release.service, release.socket)]
    with awake(release.runtime / "private" / "master.fifo"):
        complaints.append(systemctl(run, "stop", release.service, release.socket))
    systemctl(run, "reset-failed", release.service, release.socket)
    return "; ".join(filter(None, complaints))


CLOSED = Path("/var/lib/flask-on-metal/maintenance")
"""One file for each app that is closed for visitors: NGINX looks for it at each request."""
CLOSED_BY_RUN = "Closed by a run"


def end_account(name: str, patience: float = 5) -> str:
    """End all processes of an account; says which are left after so many seconds, or nothing."""
    ids = account_ids(name, name)
    end = time.monotonic() + patience
    while ids and (left := processes(ids[0])):
        if time.monotonic() > end:
            return f"processes of the account {name} don't end: {' '.join(map(str, left[:10]))}"
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.02)
    return ""


def processes(user: int) -> list[int]:
    """List the processes that run as a user, without those that have ended and that nobody has collected."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        # Not the folder's owner: that is root where a process has made itself unreadable.
        with contextlib.suppress(OSError):
            status = path.read_text(errors="replace")
            if re.search(rf"^Uid:\t{user}\t", status, re.MULTILINE) and not re.search(
                r"^State:\tZ", status, re.MULTILINE
            ):
                found.append(int(path.parent.name))
    return found


def stop_first(run: RunCommand, release: Release) -> str:
    """Stop the release that serves before another one starts, at once and with all of its account; visitors are told.

    Its units stay enabled: after a boot it is back.
    """
    CLOSED.mkdir(parents=True, exist_ok=True)
    # An operator's own file stays, and is the operator's to take away.
    with contextlib.suppress(FileExistsError), (CLOSED / release.app.name).open("x") as file:
        file.write(f"{CLOSED_BY_RUN} that stopped {release.id} before it starts another one; the next run opens it.\n")
    # Whoever has taken it over is given no time; while it is being stopped, nothing starts it again.
    systemctl(run, "stop", "--no-block", release.service, release.socket)
    systemctl(run, "kill", "--signal=SIGKILL", release.service)
    return systemctl(run, "stop", release.service, release.socket) or end_account(release.app.name)


def stopped_first(app: App) -> bool:
    """Whether a run has closed the app, and not opened it again."""
    try:
        return (CLOSED / app.name).read_text().startswith(CLOSED_BY_RUN)
    except OSError:
        return False


def open_again(app: App) -> None:
    """Let visitors in where a run had closed the app."""
    if stopped_first(app):
        (CLOSED / app.name).unlink()


def remove(run: RunCommand, release: Release) -> None:
    """Remove a release that doesn't run, with all that is its own."""
    systemctl(run, "disable", "--quiet", release.service, release.socket)
    # The unit's drop-in goes with its release. No reload of systemd for it: the next start does one.
    shutil.rmtree(release.drop_in, ignore_errors=True)
    shutil.rmtree(release.runtime, ignore_errors=True)
    shutil.rmtree(release.folder)


def journal(release: Release, lines: int = 30) -> str:
    """Fetch the last lines that the instance wrote, traceback included. A line may be of any size."""
    words = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--lines={lines}", f"--unit={release.service}"]
    return run_bounded(words, 30)[1]


def serving(release: Release) -> bool:
    """Whether anybody waits for a release: in the queue of its socket, or for an answer."""
    path = release.runtime / "uwsgi.sock"
    return connected(path) or queue_length(path) > 0


def wait_for_empty_queue(release: Release, seconds: float) -> int:
    """Wait until nobody is left in the queue of a release's socket, or the time is over; tell how many are left.

    The kernel would drop them if the socket closed.
    """
    end, empty, waiting = time.monotonic() + seconds, 0, 0
    # Three looks in a row: a connect that was under way while the link moved shows in the second.
    while empty < 3 and time.monotonic() < end:
        waiting = queue_length(release.runtime / "uwsgi.sock")
        empty = 0 if waiting else empty + 1
        time.sleep(0.02)
    return 0 if empty == 3 else max(waiting, 1)


# --- the probe

# What a module takes to ask a release for its health. They go together, in release_probe and release_activate.
PROBE_ARGUMENTS: dict[str, Any] = {
    "host": {"type": "str", "required": True},
    "path": {"type": "str", "required": True},
    "seconds": {"type": "int", "required": True},
}


def probe(runtime: Path, params: dict[str, Any]) -> Answer:
    """Ask a release, as the arguments say, until the answer is 200 or another final one, or the time is over.

    Args:
        runtime: the release's folder of sockets, or a path through the link that says what is served.
        params: PROBE_ARGUMENTS.
    """
    return ask_app_until_good(lambda: probe_socket(runtime), params["host"], params["path"], params["seconds"])


def probe_socket(runtime: Path) -> Path:
    """Tell where a release is asked: at a socket of the probe's own, or where NGINX asks if it was made without."""
    own = runtime / "private" / "uwsgi.sock"
    return own if own.exists() else runtime / "uwsgi.sock"


def unwell(path: str, answer: Answer, quoted: Callable[[str], str]) -> str:
    """Say what an app answered in place of 200, and what to do where it will go on answering so.

    Args:
        path: what was asked for.
        answer: what came.
        quoted: makes what the app wrote harmless on a terminal, and known as the app's.
    """
    if not answer.final:
        return f"{answer.status or 'nothing'}:\n{quoted(answer.text)}"
    where = f" (to {one_line(answer.location)})" if answer.location else ""
    return (
        f"{answer.status}{where}, which no waiting changes. Set health_path to a path that answers 200 to everybody;"
        f" it is {path}. The answer was:\n{quoted(answer.text)}"
    )


def probe_failure(module: AnsibleModule, release: Release, answer: Answer) -> str:
    """Say what came instead of 200, and what the instance wrote."""
    params = module.params
    within = "" if answer.final else f" within {params['seconds']} s"
    return (
        f"{params['path']} got no 200{within}, but {unwell(params['path'], answer, module.quoted)}\n"
        f"The last lines of its journal:\n{module.quoted(journal(release))}"
    )


# --- the modules' common part


def release_module(
    arguments: dict[str, Any] | None = None, secret: Iterable[str] = ("secrets",), *, locked: bool = True
) -> tuple[AnsibleModule, Release]:
    """Make an Ansible module that works on one release (`app`, `id`) as part of a run, and that release.

    The lock of that `run` is renewed, and kept alive for as long as the module is at work (`locked`). Values of
    `secrets` are cut out of whatever the module returns: an app's traceback may show them.
    """
    spec: dict[str, Any] = {
        "app": {"type": "str", "required": True},
        "id": {"type": "str", "required": True},
        "run": {"type": "str", "required": True},
    }
    spec.update({name: {"type": "dict", "default": {}, "no_log": True} for name in secret})
    module = AnsibleModule(argument_spec={**spec, **(arguments or {})}, supports_check_mode=True)
    # What a release consists of is read by its app's account, however strict root's own umask is on this host.
    os.umask(0o022)
    if not RELEASE_ID.match(module.params["id"]):
        module.fail_json(msg=f"{module.params['id']!r} is no release id")
    release = Release(App(module.params["app"]), module.params["id"])
    if locked and not module.check_mode:
        lock = Lock(release.app.name)
        # The module's name is that of its phase.
        phase = module._name.rpartition(".")[2].removeprefix("release_")
        try:
            lock.renew(module.params["run"], phase)
        except LockLost as lost:
            module.fail_json(msg=str(lost), lock_lost=True)
        lock.keep(module.params["run"], phase)
    return module, release
