"""What the modules of role test_host share: commands, locks, and processes that outlive the run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A module run through sudo may get a PATH without the administrator's commands.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class TestHostError(Exception):
    """What went wrong, in words for the operator."""


def run(
    *argv: str, stdin: str | None = None, check: bool = True, timeout: float = 60, keep: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said; a failure names the command and its last words.

    It inherits the file descriptors in `keep`: with that of a lock, the lock is held as long as the command is at work,
    even if this process is killed.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            pass_fds=keep,
            timeout=timeout,
            check=False,
            env={**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError as error:
        raise TestHostError(f"{argv[0]} is not installed on this machine; run bin/setup") from error
    except subprocess.TimeoutExpired as error:
        raise TestHostError(f"{' '.join(argv)} did not finish in {timeout:.0f} s") from error
    if check and done.returncode:
        raise TestHostError(f"{' '.join(argv)} failed ({done.returncode}): {last_lines(done.stderr or done.stdout)}")
    return done


def last_lines(text: str, count: int = 8) -> str:
    """Return the end of a log, where the reason usually is."""
    return "\n".join(text.strip().splitlines()[-count:])


@contextlib.contextmanager
def lock(path: Path) -> Iterator[int]:
    """Hold a lock for a while; who comes second waits.

    The kernel drops it when no process has the descriptor any more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()


def remove(folder: Path) -> None:
    """Remove a folder, but nothing that is mounted in it.

    What an interrupted build left mounted there may be this machine's /dev.
    """
    if folder.exists():
        run("rm", "-rf", "--one-file-system", "--", str(folder), timeout=300)


def read_json(path: Path) -> dict[str, Any]:
    """Return what was recorded, or nothing if there is no (readable) record."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Record something; a reader sees the old record or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(path)


def under_systemd() -> bool:
    """Tell whether systemd is this machine's PID 1."""
    return Path("/run/systemd/system").is_dir()


def launch(unit: str, argv: list[str], log: Path) -> None:
    """Start a process that outlives this run: as a transient unit of systemd where there is one, else as a daemon."""
    if under_systemd():
        run("systemctl", "reset-failed", f"{unit}.service", check=False)
        run(
            "systemd-run", "--quiet", "--collect", f"--unit={unit}",
            # Back only when the program runs: until then it can't be told from one that has ended.
            "-pType=exec",
            # nspawn manages the host's cgroups itself, ends with 133 when the host wants to reboot, and must be
            # the one that is asked to stop.
            "-pDelegate=yes", "-pKillMode=mixed", "-pSuccessExitStatus=133", "-pRestartForceExitStatus=133",
            f"-pStandardOutput=append:{log}", f"-pStandardError=append:{log}",
            *argv,
        )  # fmt: skip
        return
    with log.open("a") as output:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
        )


def processes(*needed: str) -> list[int]:
    """Return the processes that have all of these arguments, word for word.

    The arguments looked for hold the path of a host's own folder, so what is found is ours and no one else's:
    unlike a recorded process id, which the kernel may have given away again.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if all(word in argv for word in needed) and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def ended(*needed: str, patience: float) -> bool:
    """Wait for the processes with these arguments to end by themselves, and tell whether they did."""
    deadline = time.monotonic() + patience
    while processes(*needed):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def stop(*needed: str, patience: float = 5) -> bool:
    """Ask the processes with these arguments to end, and end them if they don't. Return whether there were any."""
    pids = processes(*needed)
    if not pids:
        return False
    send(pids, signal.SIGTERM)
    if not ended(*needed, patience=patience):
        send(processes(*needed), signal.SIGKILL)
        if not ended(*needed, patience=patience):
            raise TestHostError(f"processes {processes(*needed)} ({needed[-1]}) do not end, not even when killed")
    return True


def inhabitants(root: Path) -> list[int]:
    """Return the processes whose root file system is the one mounted there."""
    device = root.stat().st_dev
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "root").stat().st_dev == device:
                    found.append(int(entry.name))
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may have ended already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
