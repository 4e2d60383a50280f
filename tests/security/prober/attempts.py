"""What somebody who has taken over an app would try, and what an app needs; each told apart by what became of it.

An attempt returns what it gained, and raises OSError where it was refused. What else it raises is a fault of its own.
The targets are found by the host's root, so that what is refused is known to be there.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import multiprocessing
import os
import platform
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zoneinfo
from collections.abc import Callable, Iterable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

Targets = dict[str, list[str]]
Attempt = Callable[[Targets], Any]

ATTEMPTS: dict[str, Attempt] = {}
NEEDS: dict[str, Attempt] = {}

SHARED = Path("/srv/prober/shared")
COUNTED: list[int] = []


def count() -> None:
    """Go on counting, as a thread that an app starts at its import."""
    while len(COUNTED) < 10**6:
        COUNTED.append(1)
        time.sleep(0.05)


threading.Thread(target=count, daemon=True).start()

# The last one is the server's: a migration has none.
WRITABLE = tuple(
    Path(folder) for folder in (SHARED, "/tmp", "/var/tmp", "/dev/shm", os.environ.get("RUNTIME_DIRECTORY")) if folder
)


def attempt(name: str) -> Callable[[Attempt], Attempt]:
    """Name something that must be refused."""
    return lambda function: ATTEMPTS.setdefault(name, function)


def need(name: str) -> Callable[[Attempt], Attempt]:
    """Name something that must work."""
    return lambda function: NEEDS.setdefault(name, function)


def tried(all_of_them: dict[str, Attempt], targets: Targets) -> dict[str, dict[str, str]]:
    """Try all, and tell of each whether it was refused, and how, or what it gained."""
    found = {}
    for name, function in all_of_them.items():
        try:
            outcome, detail = "worked", str(function(targets))
        except OSError as error:
            outcome, detail = "refused", str(error)
        except Exception as error:
            outcome, detail = "broken", f"{type(error).__name__}: {error}"
        found[name] = {"outcome": outcome, "detail": detail[:1000]}
    return found


def each(targets: Iterable[str | Path], action: Callable[[Any], Any]) -> str:
    """Try the same with each of several things; one that is gained is enough."""
    gained, refused = [], []
    for target in targets:
        try:
            action(target)
        except OSError as error:
            refused.append(f"{target}: {error.strerror or error}")
        else:
            gained.append(str(target))
    if gained:
        return ", ".join(gained)
    if not refused:
        raise LookupError("there was nothing to try it with")
    raise PermissionError("; ".join(refused))


def run(*words: str, text: str = "") -> str:
    """Run a program; one that isn't there, may not be started or fails counts as refused."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise PermissionError(f"{words[0]}: status {done.returncode}: {(done.stderr or done.stdout).strip()[-200:]}")
    return f"{' '.join(words)}: {done.stdout.strip()[:200]}"


def read(path: str | Path) -> None:
    """Read the beginning of a file."""
    with Path(path).open("rb") as file:
        file.read(1)


def write(path: str | Path) -> None:
    """Open a file so that it could be written, and change nothing."""
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def create(folder: str | Path) -> None:
    """Create a file in a folder, and take it away."""
    path = Path(folder, f"prober-{os.getpid()}")
    path.touch()
    path.unlink()


def connect(path: str) -> None:
    """Connect to a socket in the file system."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            try:
                sock.connect(path)
            except OSError as error:
                if error.strerror == "Protocol wrong type for socket":
                    continue
                raise
            return


LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *words: Any) -> str:
    """Call a function of the C library, which fails with -1."""
    result = getattr(LIBC, name)(*words)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return f"{name} returned {result}"


def system_call(number: dict[str, int], *words: Any) -> str:
    """Make a system call that the C library has no function for."""
    return call("syscall", ctypes.c_long(number[platform.machine()]), *words)


# --- files


@attempt("read other apps' files")
def _(targets: Targets) -> str:
    return each(targets["other_files"], read)


@attempt("write to other apps' files")
def _(targets: Targets) -> str:
    return each(targets["other_files"], write)


@attempt("find that there are other apps in /srv")
def _(targets: Targets) -> str:
    others = sorted({path.name for path in Path("/srv").iterdir()} - {"prober"})
    if not others:
        raise FileNotFoundError("there are none to be seen")
    return str(others)


@attempt("read NGINX's keys")
def _(targets: Targets) -> str:
    return each(targets["keys"], read)


@attempt("read what is root's alone")
def _(targets: Targets) -> str:
    return each(targets["roots_files"], read)


@attempt("read logs")
def _(targets: Targets) -> str:
    return each(targets["logs"], read)


@attempt("read the journal")
def _(targets: Targets) -> str:
    # journalctl succeeds, and shows nothing, where there is nothing that may be read.
    shown = run("journalctl", "--quiet", "--no-pager", "--lines=1")
    if shown.endswith(": "):
        raise PermissionError("no entry is shown")
    return shown


@attempt("look into home folders")
def _(targets: Targets) -> str:
    def look(folder: str) -> None:
        if not list(Path(folder).iterdir()):
            raise PermissionError("it is empty")

    return each(("/root", "/home", "/run/user"), look)


@attempt("write to the system")
def _(targets: Targets) -> str:
    return each(
        ("/", "/etc", "/etc/systemd/system", "/usr/bin", "/usr/local/bin", "/usr/lib/python3/dist-packages", "/opt",
         "/boot", "/var/lib", "/var/spool", "/var/cache", "/var/log", "/run", "/run/lock", "/srv", "/srv/prober",
         "/home", "/mnt"),
        create,
    )  # fmt: skip


@attempt("change files of the system")
def _(targets: Targets) -> str:
    return each(("/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/usr/bin/env", "/etc/nginx/nginx.conf"), write)


@attempt("change its own release")
def _(targets: Targets) -> str:
    code = Path(__file__).resolve().parent
    try:
        return each((__file__, code.parent / "wsgi.py", code.parent / "uwsgi.ini"), write)
    except OSError:
        return each((code, code.parent, sys.prefix, Path(sys.prefix, "bin")), create)


@attempt("read the files that its release keeps for root")
def _(targets: Targets) -> str:
    release = Path(__file__).resolve().parents[1]
    return each((release / "environment", release / "release.json"), read)


@attempt("see other releases of its own")
def _(targets: Targets) -> str:
    own = Path(__file__).resolve().parents[1]
    others = [path for path in Path("/srv/prober").glob("*/*") if path.parent.name == "releases" and path != own]
    if not others:
        raise FileNotFoundError("there are none to be seen")
    return str(others)


@attempt("read what others leave in folders for temporary files")
def _(targets: Targets) -> str:
    return each(targets["temporary_files"], read)


@attempt("make a set-uid file")
def _(targets: Targets) -> str:
    def make(folder: Path) -> None:
        path = folder / f"set-uid-{os.getpid()}"
        path.touch(mode=0o700)
        try:
            path.chmod(0o4755)
            if not path.stat().st_mode & stat.S_ISUID:
                raise PermissionError("the bit is not set")
        finally:
            path.unlink()

    return each(WRITABLE, make)


@attempt("make a device")
def _(targets: Targets) -> str:
    return each(WRITABLE, lambda folder: os.mknod(folder / "device", stat.S_IFBLK | 0o600, os.makedev(7, 0)))


@attempt("run a program that it wrote")
def _(targets: Targets) -> str:
    def start(folder: Path) -> None:
        path = folder / f"program-{os.getpid()}"
        path.write_text("#!/bin/sh\nexit 0\n")
        path.chmod(0o700)
        try:
            run(str(path))
        finally:
            path.unlink()

    return each(WRITABLE, start)


@attempt("run a program that it wrote to memory with a name")
def _(targets: Targets) -> str:
    descriptor = os.memfd_create("program", 0)
    try:
        os.write(descriptor, b"#!/bin/sh\nexit 0\n")
        os.fchmod(descriptor, 0o700)
        return run(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


@attempt("run code that it wrote to memory")
def _(targets: Targets) -> str:
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        return f"{len(memory)} bytes"


# --- sockets


@attempt("connect to other apps' sockets")
def _(targets: Targets) -> str:
    return each(targets["other_sockets"], connect)


@attempt("write to other apps' pipes")
def _(targets: Targets) -> str:
    return each(targets["other_pipes"], lambda path: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))


@attempt("connect to the socket that NGINX talks to it by")
def _(targets: Targets) -> str:
    return each(targets["own_socket"], connect)


@attempt("ask NGINX for its status")
def _(targets: Targets) -> str:
    return each(targets["nginx_sockets"], connect)


@attempt("talk to systemd or D-Bus")
def _(targets: Targets) -> str:
    return each(("/run/dbus/system_bus_socket", "/run/systemd/private"), connect)


@attempt("control services")
def _(targets: Targets) -> str:
    commands = (
        ("systemctl", "--no-ask-password", "list-units"), ("systemctl", "--no-ask-password", "stop", "nginx.service"),
        ("systemctl", "--no-ask-password", "kill", "--signal=0", "nginx.service"), ("busctl", "list"),
        ("systemd-run", "--no-ask-password", "--wait", "id"), ("loginctl", "list-sessions"), ("hostnamectl", "status"),
        ("timedatectl", "--no-ask-password", "set-ntp", "false"), ("machinectl", "list"),
    )  # fmt: skip
    return each([" ".join(words) for words in commands], lambda words: run(*words.split()))


@attempt("open raw sockets")
def _(targets: Targets) -> str:
    kinds: dict[str, tuple[int, int, int]] = {
        "ICMP": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "ICMP of IPv6": (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
        "Ethernet": (socket.AF_PACKET, socket.SOCK_RAW, 0),
        "netlink": (socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "netfilter": (socket.AF_NETLINK, socket.SOCK_RAW, 12),
        "VSOCK": (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
        "the kernel's cryptography": (socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
    }
    return each(kinds, lambda name: socket.socket(*kinds[name]).close())


@attempt("listen on a port below 1024")
def _(targets: Targets) -> str:
    with socket.socket(socket.AF_INET) as sock:
        sock.bind(("0.0.0.0", 81))
        return "port 81"


# --- processes


@attempt("see other accounts' processes")
def _(targets: Targets) -> str:
    def owner(name: str) -> int:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            return Path("/proc", name).stat().st_uid
        return os.getuid()

    numbers = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    others = [name for name in numbers if owner(name) != os.getuid()]
    if not others:
        raise ProcessLookupError("there are none to be seen")
    return f"processes {', '.join(others)}"


@attempt("read other processes' environments")
def _(targets: Targets) -> str:
    return each([f"/proc/{pid}/environ" for pid in ["1", *targets["pids"]]], read)


@attempt("read other processes' arguments")
def _(targets: Targets) -> str:
    return each([f"/proc/{pid}/cmdline" for pid in ["1", *targets["pids"]]], read)


@attempt("look into other processes' files")
def _(targets: Targets) -> str:
    return each(
        [f"/proc/{pid}/{what}" for pid in ["1", *targets["pids"]] for what in ("fd", "root", "cwd")], os.listdir
    )


@attempt("send signals to other processes")
def _(targets: Targets) -> str:
    return each(["1", *targets["pids"]], lambda pid: os.kill(int(pid), 0))


@attempt("slow other processes down")
def _(targets: Targets) -> str:
    return each(targets["pids"], lambda pid: os.setpriority(os.PRIO_PROCESS, int(pid), 19))


@attempt("trace other processes")
def _(targets: Targets) -> str:
    def attach(pid: str) -> None:
        call("ptrace", 0x4206, int(pid), None, None)  # SEIZE, which doesn't stop what it seizes

    return each(["1", *targets["pids"]], attach)


@attempt("read other processes' memory")
def _(targets: Targets) -> str:
    return each(["1", *targets["pids"]], lambda pid: read(f"/proc/{pid}/mem"))


# --- rights


@attempt("become root by sudo, su or another set-uid program")
def _(targets: Targets) -> str:
    def become(words: str) -> None:
        told = run(*words.split())
        if not told.endswith(": 0"):
            raise PermissionError(f"it ran, and was not root: {told}")

    commands = ["sudo -n id -u", "su root -c id\\ -u", "newgrp root", *(f"{path} -u" for path in targets["set_uid"])]
    return each(commands, become)


@attempt("become another account")
def _(targets: Targets) -> str:
    def switch(name: str) -> None:
        number = int(name.rpartition(" ")[2])
        call(name.partition(" ")[0], number)

    return each(("setuid 0", "setgid 0", "setuid 33", "setgid 33", f"setuid {os.getuid() + 1}"), switch)


@attempt("join a group")
def _(targets: Targets) -> str:
    os.setgroups([33])
    return str(os.getgroups())


@attempt("mount")
def _(targets: Targets) -> str:
    kinds = ("tmpfs", "proc", "sysfs")
    return each(kinds, lambda kind: call("mount", b"none", str(SHARED).encode(), kind.encode(), 0, None))


@attempt("unmount what hides things from it")
def _(targets: Targets) -> str:
    return each(("/srv", "/tmp", "/dev", "/proc"), lambda path: call("umount2", path.encode(), 2))


@attempt("make namespaces")
def _(targets: Targets) -> str:
    kinds = {"user": 0x10000000, "mount": 0x20000, "network": 0x40000000, "pid": 0x20000000, "ipc": 0x8000000}
    return each(kinds, lambda kind: call("unshare", kinds[kind]))


@attempt("enter other namespaces")
def _(targets: Targets) -> str:
    def enter(path: str) -> None:
        file = os.open(path, os.O_RDONLY)
        try:
            call("setns", file, 0)
        finally:
            os.close(file)

    return each(("/proc/1/ns/mnt", "/proc/self/ns/net"), enter)


@attempt("change its root folder")
def _(targets: Targets) -> str:
    return call("chroot", b"/tmp")


# --- the kernel


@attempt("load a kernel module")
def _(targets: Targets) -> str:
    with contextlib.suppress(OSError):
        return run("/sbin/modprobe", "dummy")
    # An empty one: whoever may load modules is told that it isn't one.
    result = LIBC.syscall(ctypes.c_long({"x86_64": 175, "aarch64": 105}[platform.machine()]), b"", 0, b"")
    error = ctypes.get_errno()
    if result == -1 and error in (1, 13):
        raise PermissionError(error, os.strerror(error))
    return f"init_module: {os.strerror(error)}"


@attempt("change the kernel's settings")
def _(targets: Targets) -> str:
    return each(("/proc/sys/kernel/core_pattern", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger"), write)


@attempt("read the kernel's log")
def _(targets: Targets) -> str:
    with contextlib.suppress(OSError):
        read("/dev/kmsg")
        return "/dev/kmsg"
    return call("klogctl", 3, ctypes.create_string_buffer(16), 16)


@attempt("open devices")
def _(targets: Targets) -> str:
    return each(("/dev/mem", "/dev/kmsg", "/dev/console", "/dev/net/tun", "/dev/fuse", "/dev/loop-control"), read)


@attempt("set the clock or the host's name")
def _(targets: Targets) -> str:
    def clock(_: str) -> None:
        time.clock_settime(time.CLOCK_REALTIME, time.time())

    actions: dict[str, Callable[[str], Any]] = {
        "clock": clock,
        "name": lambda _: call("sethostname", os.uname().nodename.encode(), len(os.uname().nodename)),
    }
    return each(actions, lambda name: actions[name](name))


@attempt("use the kernel's tracing")
def _(targets: Targets) -> str:
    space = ctypes.create_string_buffer(128)
    calls = {
        "bpf": ({"x86_64": 321, "aarch64": 280}, 0, space, 128),
        "perf_event_open": ({"x86_64": 298, "aarch64": 241}, space, 0, -1, -1, 0),
    }

    def trace(name: str) -> None:
        number, *words = calls[name]
        try:
            system_call(number, *words)  # type: ignore[arg-type]
        except OSError as error:
            # The kernel that complains of what it was given has been reached.
            if error.errno in (1, 13, 38):
                raise

    return each(calls, trace)


@attempt("move itself to another control group")
def _(targets: Targets) -> str:
    return each(targets["control_groups"], write)


@attempt("run as another kind of machine")
def _(targets: Targets) -> str:
    return call("personality", ctypes.c_ulong(0x0040000))  # ADDR_NO_RANDOMIZE


@attempt("take real-time priority")
def _(targets: Targets) -> str:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "SCHED_FIFO"


# --- package managers


@attempt("start package managers")
def _(targets: Targets) -> str:
    return each(targets["package_managers"], lambda path: run(path, "--version"))


@attempt("read what package managers keep")
def _(targets: Targets) -> str:
    return each(("/var/lib/dpkg", "/var/lib/apt", "/var/cache/apt", "/etc/apt"), os.listdir)


@attempt("install for all")
def _(targets: Targets) -> str:
    return each(
        (
            "/usr/bin/python3 -m ensurepip", "/usr/bin/python3 -m pip --version", "apt-get --yes install hello",
            "/usr/bin/python3 -m pip install --break-system-packages iniconfig", "dpkg --configure -a",
        ),
        lambda words: run(*words.split()),
    )  # fmt: skip


@attempt("leave a timed job behind")
def _(targets: Targets) -> str:
    def table(words: str) -> None:
        run(*words.split(), text="* * * * * true\n")

    return each(("crontab -", "at now", "systemd-run --user --on-active=60 true"), table)


# --- what it needs


@need("read its own code")
def _(targets: Targets) -> str:
    read(__file__)
    return __file__


@need("write to its shared folder")
def _(targets: Targets) -> str:
    create(SHARED)
    return str(SHARED)


@need("keep a database in its shared folder")
def _(targets: Targets) -> str:
    path = SHARED / "prober.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE IF NOT EXISTS times (number INTEGER)")
        database.execute("INSERT INTO times VALUES (1)")
        database.commit()
        return str(database.execute("SELECT count(*) FROM times").fetchone()[0])


@need("write temporary files")
def _(targets: Targets) -> str:
    for folder in (None, "/var/tmp"):
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"something")
    # Left there: that others don't see them is looked at from outside.
    for folder in WRITABLE[1:]:
        for name in targets["marks"]:
            (folder / name).write_text("something")
    return ", ".join(map(str, WRITABLE[1:]))


@need("have its environment")
def _(targets: Targets) -> str:
    # uWSGI knows nothing of it, and what it is stays here.
    return "CANARY" if os.environ["CANARY"] else ""


@need("run programs of the system and of its release")
def _(targets: Targets) -> str:
    return (
        run("sh", "-c", "echo fine") + run(f"{sys.prefix}/bin/python", "-c", "import flask") + run("openssl", "version")
    )


@need("work with threads, locks and shared memory")
def _(targets: Targets) -> str:
    threads = [threading.Thread(target=lambda: None) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with multiprocessing.Lock():
        pass
    multiprocessing.set_executable(f"{sys.prefix}/bin/python")  # sys.executable is uWSGI
    memory = SharedMemory(create=True, size=100)
    memory.close()
    memory.unlink()
    return "fine"


@need("have children and signal them")
def _(targets: Targets) -> str:
    with subprocess.Popen(["sleep", "60"]) as child:
        child.send_signal(signal.SIGKILL)  # uWSGI's threads have the others blocked, and children inherit that
        return str(child.wait(timeout=10))


@need("find names, time zones and certificate authorities")
def _(targets: Targets) -> str:
    authorities = len(ssl.create_default_context().get_ca_certs())
    if not authorities:
        raise FileNotFoundError("no certificate authorities")
    return f"{socket.getaddrinfo('localhost', 80)[0][4][0]} {zoneinfo.ZoneInfo('Europe/Berlin')} {authorities}"


@need("connect to other servers")
def _(targets: Targets) -> str:
    address, port = targets["server"]
    with socket.create_connection((address, int(port)), timeout=5):
        return address


@need("listen on a port of its own")
def _(targets: Targets) -> str:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        return str(server.getsockname()[1])


@need("log to the journal")
def _(targets: Targets) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("/run/systemd/journal/dev-log")
        sock.send(b"<14>prober: a line of its own")
    print("a line by its standard output", flush=True)
    return "fine"


@need("use a thread that it started at its import")
def _(_: Targets) -> str:
    before = len(COUNTED)
    time.sleep(0.3)
    if len(COUNTED) == before:
        raise RuntimeError("the thread is dead")
    return f"{len(COUNTED)} times"


@need("run a program of its venv by name")
def _(_: Targets) -> str:
    return subprocess.run(["flask", "--version"], capture_output=True, text=True, check=True, timeout=20).stdout


@need("run the Python of its venv by sys.executable")
def _(_: Targets) -> str:
    words = [sys.executable, "-c", "import flask, sys; print(sys.prefix)"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
    if done.stdout.strip() != sys.prefix:
        raise RuntimeError(done.stdout)
    return sys.executable


@need("write below its home")
def _(_: Targets) -> str:
    path = Path("~/.cache/prober").expanduser()
    path.mkdir(parents=True, exist_ok=True)
    (path / "kept").write_text("kept")
    return str(path)


@need("read UTF-8 without naming it")
def _(_: Targets) -> str:
    path = Path(tempfile.gettempdir(), "greeting")
    path.write_bytes("Grüße aus Ærø".encode())
    return path.read_text()
