"""A package that runs code of its own while a release is built gets no further than what is being built."""

from __future__ import annotations

import shlex
from pathlib import Path

import ansible.module_utils
import pytest
from findings import Findings
from helpers import ROOT, App, as_root, blocks, inventory_name
from testinfra.host import Host

ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))

from ansible.module_utils import sandbox  # noqa: E402

# What shell commands succeed at. $app, $release and $other are the app's name, its release's folder and another app.
ATTEMPTS = {
    "be root": '[ "$(id -u)" = 0 ]',
    "become root": "sudo -n true || su -c true </dev/null",
    "see another app": 'ls "/srv/$other"',
    "see what an app keeps": 'ls "/srv/$app/shared"',
    "read the secrets of a release": 'cat "$release/environment"',
    "change code": 'touch "$release/code/mark"',
    "change what is served": 'ln -sfn mark "/srv/$app/mark"',
    "see other caches": 'ls /var/cache/uv | grep -v "^$app-"',
    "see other caches of packages": "ls /var/cache/apt",
    "see the configuration of others": "ls /etc/nginx || ls /etc/systemd || ls /etc/apt || ls /etc/ssh",
    "read accounts' passwords": "cat /etc/shadow || cat /etc/sudoers",
    "read keys": "ls /etc/ssl/private",
    "see logs": "ls /var/log/nginx",
    "see the state of others": "ls /var/lib/dpkg",
    "see people's folders": "ls -A /root /home | grep -v : | grep .",
    "write to the system": "touch /usr/mark || touch /etc/mark || touch /opt/flask-on-metal/mark || touch /var/mark",
    "write to /run": "touch /run/mark || touch /run/lock/mark",
    "ask systemd": "systemctl show nginx.service --property=MainPID | grep = || ls /run/dbus/system_bus_socket",
    "signal others": "kill -0 1",
    "see others' processes": "[ -e /proc/1/stat ]",
    "make namespaces": "unshare --user true || unshare --mount true",
    "mount": "mount -t tmpfs none /tmp",
    "leave a set-uid program": "cp /usr/bin/id /tmp/mark && chmod 4755 /tmp/mark",
    "reach devices": "ls /dev/mem || ls /dev/vda || ls /dev/kmsg",
}
NEEDS = {
    "read the requirements": 'ls "$release/code" | grep .',
    "write to its cache": 'touch "/var/cache/uv/$app-$(id -u)/mark" && rm "/var/cache/uv/$app-$(id -u)/mark"',
    "write to /tmp": "touch /tmp/mark",
    "find names": "getent hosts localhost",
    "trust what the host trusts": "[ -s /etc/ssl/certs/ca-certificates.crt ]",
    "run uv": "/opt/flask-on-metal/uv/bin/uv --version",
    "use several processes": "python3 -c 'import multiprocessing as m; print(m.Pool(2).map(abs, [1]))'",
}

LOOK = 'id -u "$2"; basename "$(readlink "/srv/$1/current")"; ls /srv | grep -v "^$1$" | head -n 1'


def script() -> str:
    """All of it as one script, which names what succeeded."""
    tried = [
        f"if ({text}) >/dev/null 2>&1; then echo {shlex.quote(name)}; fi"
        for name, text in [*ATTEMPTS.items(), *NEEDS.items()]
    ]
    return "\n".join(["app=$1 release=$2 other=$3", *tried])


SUCCEEDED: dict[str, set[str]] = {}


@pytest.fixture(scope="module")
def succeeded(host: Host, prober: App, findings: Findings) -> set[str]:
    """Have the account that builds try everything, in the sandbox that a release is built in."""
    name = inventory_name(host)
    if name not in SUCCEEDED:
        account, release_id, other = as_root(host, LOOK, prober.name, sandbox.ACCOUNT).split()
        release = Path("/srv", prober.name, "releases", release_id)
        words = sandbox.command(
            f"{prober.name}-build.service",
            ["/bin/sh", "-c", script(), "sh", prober.name, str(release), other],
            where=release / "code",
            shown=[str(release)],
            written=[f"/var/cache/uv/{prober.name}-{account}"],
            environment=Path("/dev/null"),
        )
        found = blocks("== out\n" + as_root(host, '"$@"', *words))["out"]
        SUCCEEDED[name] = set(found.splitlines())
        refused, works = set(ATTEMPTS) - SUCCEEDED[name], set(NEEDS) & SUCCEEDED[name]
        findings.add(
            "What a package could do while it is built", ["host", "attempts", "refused", "needs", "that work"],
            [name, len(ATTEMPTS), len(refused), len(NEEDS), len(works)],
        )  # fmt: skip
    return SUCCEEDED[name]


@pytest.mark.parametrize("what", ATTEMPTS)
def test_build_cannot(what: str, succeeded: set[str]) -> None:
    assert what not in succeeded


@pytest.mark.parametrize("what", NEEDS)
def test_build_can(what: str, succeeded: set[str]) -> None:
    assert what in succeeded
