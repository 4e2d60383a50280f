"""Where code, packages and their tools are handled that came from elsewhere: as an account without rights.

What a source or a package index sends is unpacked, resolved and installed there, and becomes root's afterwards, once
it is known to be nothing but files, folders and links that stay within. So a flaw in what unpacks it, or a package
that runs code of its own, gets no further than the folder that is being made.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.filesystem import account_ids, landing, write_atomically

ACCOUNT = "_flask-build"
"""No app's name begins like this."""
CACHES = Path("/var/cache/uv")
"""Of uv, one for each app."""
RUNTIME = Path("/run/flask-on-metal")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""What the host trusts, the certificates of host_ca_certificates included."""

# What names hosts and says whom to trust, and what programs are started with: /etc has no more there.
SHOWN_OF_ETC = (
    "alternatives", "ca-certificates", "gai.conf", "group", "host.conf", "hosts", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "localtime", "nsswitch.conf", "passwd", "protocols", "resolv.conf", "services", "ssl/certs",
    "ssl/openssl.cnf",
)  # fmt: skip
PROPERTIES = (
    "UMask=0022",
    "TimeoutStopSec=10",
    # Files: none to write but those named, and nothing of apps and of other builds to read.
    "ProtectSystem=strict",
    "ProtectHome=tmpfs",
    "PrivateTmp=yes",
    "TemporaryFileSystem=/srv:ro /etc:ro /var/cache:ro /dev/shm:mode=1777",
    f"BindReadOnlyPaths={' '.join(f'-/etc/{name}' for name in SHOWN_OF_ETC)}",
    "InaccessiblePaths=-/boot -/media -/mnt -/var/backups -/var/lib -/var/log -/var/mail -/var/spool -/var/www",
    "InaccessiblePaths=-/run/dbus -/run/systemd/private -/run/lock -/run/postgresql",
    "PrivateDevices=yes",
    "PrivateIPC=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    # Rights. The user namespace also keeps two builds, which have one account, out of each other's processes.
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "NoNewPrivileges=yes",
    "RestrictSUIDSGID=yes",
    "PrivateUsers=yes",
    "RemoveIPC=yes",
    # Kernel
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "KeyringMode=private",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged",
    "SystemCallErrorNumber=EPERM",
)
# What a host's /etc/environment may have for uv.
INHERITED = re.compile(r"UV_\w+|SSL_CERT_\w+|(?i:https?|all|no)_proxy")
SECRET_NAME = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|KEY(?!RING)|AUTH|CREDENTIAL", re.IGNORECASE)


class Unfit(Exception):
    """What was made can't become root's; the text says what is wrong."""


def environment_file(values: Mapping[str, object]) -> str:
    """Names and values in the form of systemd's EnvironmentFile (systemd.exec(5)).

    Within double quotes only these four are special there, and a line break stands for itself.
    """
    lines = []
    for name, value in sorted(values.items()):
        quoted = re.sub(r'(["\\`$])', r"\\\1", str(value))
        lines.append(f'{name}="{quoted}"\n')
    return "".join(lines)


def secrets_in(environment: Mapping[str, str]) -> set[str]:
    """Tell what of an environment is not to be shown: who one is at an address, and values whose name says so."""
    found = set()
    for name, value in environment.items():
        if SECRET_NAME.search(name):
            found.add(value)
        # UV_INDEX is several, each perhaps with a name before it.
        for word in value.split():
            place = re.sub(r"^[\w.-]+=", "", word)
            who, _, _ = urlsplit(place).netloc.rpartition("@") if "://" in place else ("", "", "")
            found |= {who, who.partition(":")[2] or who}
    return found - {""}


def taken_environment(module: AnsibleModule) -> dict[str, str]:
    """Take a module's argument `environment`, which has no_log, out of what it shows; hide the secrets in its output.

    Else Ansible would hide each value wherever it stands in a message: a "3" in every number, an index in what uv says
    about it.
    """
    environment = {name: str(value) for name, value in module.params["environment"].items()}
    module.params["environment"] = sorted(environment)
    module.no_log_values = secrets_in(environment)
    return environment


def command(
    unit: str, words: Iterable[str], *, where: Path, shown: Iterable[str], written: Iterable[str], environment: Path
) -> list[str]:
    """Put together how systemd is asked to run a command in the sandbox.

    Args:
        unit: Name of the transient unit.
        words: The command.
        where: Folder to run it in.
        shown: What it may read of the places that are out of its sight; with a hyphen before, if it is there.
        written: What it may write.
        environment: File with its environment, root's alone.
    """
    settings = [
        f"User={ACCOUNT}",
        f"Group={ACCOUNT}",
        f"WorkingDirectory={where}",
        f"EnvironmentFile={environment}",
        *PROPERTIES,
        f"BindReadOnlyPaths={' '.join(shown)}",
        f"BindPaths={' '.join(written)}",
    ]
    return [
        *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}"),
        *(f"--property={setting}" for setting in settings),
        "--",
        # systemd replaces ${…} and $$ in a command; these are the program's.
        *(word.replace("$", "$$") for word in words),
    ]


class Sandbox:
    """Commands of one app's build, each in a transient unit of systemd."""

    def __init__(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Bring about the account, and end what a killed run left behind.

        Args:
            name: Whose build it is: it has a unit, and a cache, of its own.
            environment: For uv, beside what the host's own says.

        Raises:
            Unfit: there is no account, and it can't be made.
        """
        self.unit = f"{name}-build.service"
        self.ids = self._account()
        # The account's number is in the name: one that was made anew has no use for files of the old one.
        self.cache = CACHES / f"{name}-{self.ids[0]}"
        inherited = {key: value for key, value in os.environ.items() if INHERITED.fullmatch(key)}
        self.environment = {
            "HOME": "/tmp",
            "LC_ALL": "C.UTF-8",
            # Of its own accord uv trusts the certificates that it was built with alone.
            "SSL_CERT_FILE": str(CERTIFICATES),
            "UV_CACHE_DIR": str(self.cache),
            **inherited,
            **(environment or {}),
            "UV_NO_CONFIG": "1",
            # The host's interpreter: Debian's uWSGI plugin is bound to it.
            "UV_PYTHON_DOWNLOADS": "never",
            # The cache stays the account's: a release has no file in common with it.
            "UV_LINK_MODE": "copy",
        }
        subprocess.run(["systemctl", "stop", self.unit], capture_output=True, check=False)

    @staticmethod
    def _account() -> tuple[int, int]:
        ids: tuple[int, int] | None = account_ids(ACCOUNT, ACCOUNT)
        if ids is None:
            done = subprocess.run(
                ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
                 "--shell", "/usr/sbin/nologin", "--comment", "Flask on Metal builds", ACCOUNT],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            # Another app's run may have been first.
            ids = account_ids(ACCOUNT, ACCOUNT)
            if ids is None:
                raise Unfit(f"the account {ACCOUNT}, which builds releases, can't be made: {done.stderr.strip()}")
        return ids

    def give(self, folder: Path) -> None:
        """Make a folder of root's the account's, to be written to."""
        os.chown(folder, *self.ids, follow_symlinks=False)

    def kill(self) -> None:
        """Kill what runs in it."""
        subprocess.run(["systemctl", "kill", "--signal=SIGKILL", self.unit], capture_output=True, check=False)

    def run(
        self,
        words: Iterable[str],
        *,
        where: Path,
        writes: Iterable[Path] = (),
        stdin: BinaryIO | None = None,
    ) -> tuple[int, str, str]:
        """Run a command; returns its status, and what it said.

        Args:
            words: The command.
            where: Folder to run it in. The one that it is in is shown.
            writes: Folders that it may write to, beside the cache; the account's already.
            stdin: What it reads.
        """
        if not self.cache.is_dir():
            self.cache.mkdir(mode=0o700, parents=True)
            self.give(self.cache)
        # Operators name files there, as a certificate or passwords.
        named = [value for value in self.environment.values() if re.fullmatch(r"/[\w./+@-]+", value)]
        # All of a release, as that has the lock: of the folders in it only those that are named can be written to.
        shown = [str(where.parent), *(f"-{path}" for path in named if Path(path).is_file())]
        written = [str(path) for path in (self.cache, *writes)]
        RUNTIME.mkdir(mode=0o700, exist_ok=True)
        # By a file that root alone can read: others see a unit's settings, and the arguments of each command.
        environment = RUNTIME / f"{self.unit}.environment"
        write_atomically(environment, environment_file(self.environment), 0o600)
        words = command(self.unit, words, where=where, shown=shown, written=written, environment=environment)
        try:
            done = subprocess.run(words, stdin=stdin or subprocess.DEVNULL, capture_output=True, check=False)
        finally:
            environment.unlink(missing_ok=True)
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        if done.returncode and not (out + err).strip():
            err = f"it ended with status {done.returncode}, and said nothing. On the host: journalctl -u {self.unit}"
        return done.returncode, out, err


def compile_code(sandbox: Sandbox, folder: Path, writes: Path) -> None:
    """Write byte code beside the sources in a folder: nothing below a release is written once it serves.

    By the host's own interpreter, and isolated: that of an environment would run what its packages have in .pth files.
    A file that doesn't compile is not the build's business: the app may never import it.
    """
    words = ["/usr/bin/python3", "-I", "-m", "compileall", "-q", "-j", "0", str(folder)]
    sandbox.run(words, where=writes, writes=[writes])


def take_over(folder: Path, may_name: re.Pattern[str] | None = None) -> None:
    """Make what the account wrote root's, and nobody else's to change.

    The account's processes have ended: what is looked at stays as it is.

    Args:
        folder: Where it is; a folder of root's has it.
        may_name: What a link outside of the folder may name.

    Raises:
        Unfit: there is something that is neither file, folder nor link, that has another name elsewhere, or a link
            that leads out.
    """

    def refuse(error: OSError) -> None:
        raise error

    links: dict[str, str] = {}
    for top, folders, files, handle in os.fwalk(folder, follow_symlinks=False, onerror=refuse):
        os.fchown(handle, 0, 0)
        os.fchmod(handle, stat.S_IMODE(os.fstat(handle).st_mode) & 0o755)
        for name in [*folders, *files]:
            path = Path(top, name).relative_to(folder).as_posix()
            found = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                target = os.readlink(name, dir_fd=handle)
                if not (may_name and may_name.fullmatch(target)):
                    links[path] = target
                os.chown(name, 0, 0, dir_fd=handle, follow_symlinks=False)
            elif stat.S_ISREG(found.st_mode):
                if found.st_nlink > 1:
                    raise Unfit(f"{path} has a second name, through which it could be changed later")
                os.chown(name, 0, 0, dir_fd=handle, follow_symlinks=False)
                os.chmod(name, stat.S_IMODE(found.st_mode) & 0o755, dir_fd=handle)
            elif not stat.S_ISDIR(found.st_mode):
                raise Unfit(f"{path} is no file, folder or link")
    for path, target in links.items():
        if landing(path, links) is None:
            raise Unfit(f"the link {path} leads out, to {target}")
