"""Ansible module: the throw-away hosts of one set."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.test_host import (
    TestHostError,
    ended,
    inhabitants,
    last_lines,
    launch,
    lock,
    processes,
    read_json,
    remove,
    run,
    send,
    stop,
    under_systemd,
    write_json,
)

DOCUMENTATION = r"""
---
module: test_host_machine
short_description: The throw-away hosts of one set
description:
  - Boots Debian hosts, all at the same time, each with systemd-nspawn from an overlay of its own over a root tree,
    and waits until they are up and SSH answers. A host that is up is left alone; one that died is started again.
  - A new host gets what an installer would have given it (name, addresses, host keys, an account) and what it needs to
    work behind this machine (resolver, certificate authorities, proxy).
  - With O(state=absent) every host of the set goes, whether or not the inventory still knows it.
  - With O(state=kept) they go as well, and what each has beyond its root tree, less what is its own, becomes a layer
    that hosts of its release are booted from where they ask for it.
options:
  state:
    description: Whether the hosts are to be up, gone, or gone and kept as layers.
    type: str
    choices: [present, absent, kept]
    default: present
  set:
    description: Short name of the set; part of the machines' names.
    type: str
    required: true
  state_dir:
    description: Folder for the hosts. Not on an overlay file system.
    type: path
    required: true
  hosts:
    description: Hosts, each with name, release and user.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: The host's name., type: str, required: true}
      release: {description: Code name of its Debian release., type: str, required: true}
      layer:
        description: Name of the layer that it is booted from. Where there is none for its release, from the bare tree.
        type: str
        default: ""
      user:
        description: Account that it is reached as. Other than root it may use sudo without a password.
        type: str
        default: root
  trees:
    description: Path of the root tree, by release.
    type: dict
    default: {}
  layers:
    description: Folder for the layers.
    type: path
    default: ""
  layer:
    description: Name of the layers that O(state=kept) makes.
    type: str
    default: ""
  network:
    description: As M(test_host_network) returns it.
    type: dict
    default: {}
  nameservers:
    description: Addresses of name servers. If empty, those of this machine.
    type: list
    elements: str
    default: []
  authorized_key:
    description: Public SSH key that may log in.
    type: str
    default: ""
  environment:
    description: What goes into /etc/environment, for logins and for sudo.
    type: dict
    default: {}
  certificates_dir:
    description: Certificate authorities that this machine trusts besides Debian's; the hosts then trust them too.
    type: path
    default: /usr/local/share/ca-certificates
  supervisor:
    description: Program that boots one host, again after each reboot.
    type: path
    default: ""
  shared_dirs:
    description: Path in the hosts by path on this machine, of folders that all hosts share.
    type: dict
    default: {}
  timeout:
    description: Seconds a host has to boot.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: The hosts are gone
  test_host_machine:
    set: 1a2b3c
    state_dir: /var/lib/example
    state: absent
"""

RETURN = r"""
changes:
  description: What was done (or would be).
  returned: always
  type: list
  elements: str
"""

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# These run at boot when their time has passed while the host was off, which for a new host is always. A real host is
# long past that when an operator comes; here apt would be locked by surprise.
TIMERS = ("apt-daily", "apt-daily-upgrade", "dpkg-db-backup", "e2scrub_all", "fstrim", "logrotate", "man-db")

# What belongs to one host, or would be the way into it, and is in no layer.
OWN = (
    "etc/hostname", "etc/hosts", "etc/machine-id", "etc/network/interfaces", "etc/resolv.conf", "etc/ssh/ssh_host_*",
    "root/.ssh", "var/lib/systemd/random-seed", "var/log/journal/*",
)  # fmt: skip

INTERFACES = """\
auto lo host0
iface lo inet loopback

iface host0 inet static
  address {address4}/24
  gateway {gateway4}

# No gateway: throw-away hosts talk IPv6 with each other and with the machine they run on.
iface host0 inet6 static
  address {address6}/64
  dad-attempts 0
"""
APT_PROXY = """\
Acquire::http::Proxy "{}";
// The cache takes http only.
Acquire::https::Proxy "DIRECT";
Acquire::Retries "3";
"""
LOOPBACK_NAMES = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
"""


class Host:
    """One throw-away host."""

    def __init__(self, params: dict[str, Any], host: dict[str, Any], check: bool) -> None:
        """Take the module's arguments and what is recorded of the host; in check mode nothing is done, only noted."""
        self.params = params
        self.check = check
        self.name = str(host["name"])
        self.release = host.get("release") or ""
        self.user = host.get("user") or "root"
        self.layer = host.get("layer") or ""
        self.folder = Path(params["state_dir"]) / params["set"] / self.name
        self.root = self.folder / "root"
        self.machine = f"{self.name}-{params['set']}"
        self.unit = f"flask-on-metal-test-{self.machine}"
        self.changes: list[str] = []
        self.warnings: list[str] = []

    def change(self, what: str) -> bool:
        """Note a change, and tell whether it is to be made."""
        self.changes.append(f"{self.name}: {what}")
        return not self.check

    # -- up

    def present(self) -> None:
        """Make the host if it isn't there, boot it if it isn't up, and wait until it answers."""
        record = read_json(self.folder / "host.json")
        if record:
            for what in ("release", "user"):
                if record[what] != getattr(self, what):
                    raise TestHostError(
                        f"{self.name} was made with {what} {record[what]}, and now {getattr(self, what)} is asked for;"
                        " take the set away first (-e test_host_state=absent)"
                    )
        elif self.change(f"made from Debian {self.release}"):
            self.make()
        running = bool(processes(f"--directory={self.root}"))
        if not running and self.change("booted"):
            self.mount(read_json(self.folder / "host.json")["tree"])
            self.boot()
        if not self.changes:
            self.name_peers()
        if not self.check:
            self.wait(booted=not running, new=not record)

    def make(self) -> None:
        """Give the host an overlay and what belongs to it alone.

        Its record comes last, so what is half made is made again.
        """
        self.unmount()
        remove(self.folder)
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(parents=True)
        tree = self.layered() or self.params["trees"][self.release]
        self.mount(tree)
        self.seed()
        write_json(self.folder / "host.json", {"release": self.release, "user": self.user, "tree": tree})

    def layered(self) -> str:
        """Return the layer that is asked for and the tree under it, or nothing where one of them isn't there."""
        layer = Path(self.params["layers"]) / f"{self.release}-{self.layer}"
        tree = read_json(layer / "layer.json").get("tree", "")
        return f"{layer}/upper:{tree}" if self.layer and tree and Path(tree).is_dir() else ""

    def mount(self, tree: str) -> None:
        """Lay the host's own layer over the tree, or over a layer and the tree."""
        if self.root.is_mount():
            return
        for part in tree.split(":"):
            if not Path(part).is_dir():
                raise TestHostError(
                    f"{self.name} was made from {part}, which is gone;"
                    " take the set away (-e test_host_state=absent) and make it anew"
                )
        layers = f"lowerdir={tree},upperdir={self.folder}/upper,workdir={self.folder}/work"
        done = run("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root), check=False)
        if done.returncode:
            raise TestHostError(
                f"an overlay could not be mounted on {self.root}: {last_lines(done.stderr)}. The folder must be on a"
                " file system that may hold an overlay's upper layer (ext4, XFS, btrfs, tmpfs; not another overlay):"
                " name one with -e test_host_state_dir=<folder>"
            )

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        """Put a file into the host."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        # A link of the tree would lead out of the host.
        target.unlink(missing_ok=True)
        target.write_text(content)
        target.chmod(mode)

    def inside(self, *argv: str) -> None:
        """Run a command on the host's file system."""
        run("chroot", str(self.root), *argv, timeout=120)

    def seed(self) -> None:
        """Write what an installer would have written."""
        network = self.params["network"]
        addresses = network["hosts"][self.name]
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/hosts", LOOPBACK_NAMES + "".join(f"{line}\n" for line in self.peers()))
        self.write("/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
        self.write("/etc/network/interfaces", INTERFACES.format(**addresses, gateway4=network["gateway4"]))
        self.write("/etc/resolv.conf", "".join(f"nameserver {server}\n" for server in nameservers(self.params)))
        self.write("/etc/default/locale", "LANG=C.UTF-8\n")
        # Faster: a host that is thrown away need not survive a power cut in the middle of a package.
        self.write("/etc/dpkg/dpkg.cfg.d/test-host", "force-unsafe-io\n")
        if network.get("package_proxy"):
            self.write("/etc/apt/apt.conf.d/80test-host", APT_PROXY.format(network["package_proxy"]))
        for timer in TIMERS:
            self.write(f"/var/lib/systemd/timers/stamp-{timer}.timer", "")
        self.trust()
        self.inside("ssh-keygen", "-q", "-A")
        self.account()

    def trust(self) -> None:
        """Let the host trust what this machine trusts, and find its proxy and package index."""
        environment = dict(self.params["environment"])
        certificates = sorted(Path(self.params["certificates_dir"]).rglob("*.crt"))
        for certificate in certificates:
            self.write(f"/usr/local/share/ca-certificates/{certificate.name}", certificate.read_text())
        if certificates:
            self.inside("update-ca-certificates")
            # pip, uv and requests bring a bundle of their own, and have to be told of the system's.
            environment |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"), BUNDLE)
        self.write("/etc/environment", "".join(f'{name}="{value}"\n' for name, value in sorted(environment.items())))
        # sudo starts from an empty environment.
        self.write("/etc/sudoers.d/test-host-environment", "Defaults env_file=/etc/environment\n", 0o440)

    def account(self) -> None:
        """Let the operator in, as the one account that is asked for."""
        home = "/root"
        if self.user != "root":
            home = f"/home/{self.user}"
            # Some good names ("operator") are already a group of Debian's.
            groups = (self.root / "etc/group").read_text()
            group = f"--gid={self.user}" if f"\n{self.user}:" in groups else "--user-group"
            self.inside("useradd", "--create-home", "--shell=/bin/bash", group, self.user)
            self.write("/etc/sudoers.d/test-host-account", f"{self.user} ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440)
        self.write(f"{home}/.ssh/authorized_keys", self.params["authorized_key"].strip() + "\n", 0o600)
        (self.root / home.lstrip("/") / ".ssh").chmod(0o700)
        self.inside("chown", "-R", f"{self.user}:", f"{home}/.ssh")

    def peers(self) -> list[str]:
        """Return the lines of /etc/hosts that name the set's hosts."""
        hosts = self.params["network"]["hosts"]
        return [f"{hosts[name][family]} {name}" for name in sorted(hosts) for family in ("address4", "address6")]

    def name_peers(self) -> None:
        """Add the names of hosts that joined the set later; nothing else of the file is ours any more."""
        file = self.root / "etc/hosts"
        have = file.read_text()
        missing = [line for line in self.peers() if line not in have.splitlines()]
        if missing and self.change("names of other hosts"):
            file.write_text(have.rstrip("\n") + "\n" + "".join(f"{line}\n" for line in missing))

    def boot(self) -> None:
        """Start the program that boots the host."""
        program = self.folder.parent / "supervise"
        self.clear()
        arguments = [f"--bind={source}:{target}" for source, target in self.params["shared_dirs"].items()]
        for source in self.params["shared_dirs"]:
            Path(source).mkdir(parents=True, exist_ok=True)
        argv = ["/bin/bash", str(program), self.machine, self.params["network"]["bridge"], str(self.folder), *arguments]
        launch(self.unit, argv, self.folder / "console.log")

    def clear(self) -> None:
        """End what is left of a host whose systemd-nspawn was killed: its processes live on, and with them its link."""
        while self.root.is_mount() and (left := inhabitants(self.root)):
            send(left, signal.SIGKILL)
            time.sleep(0.05)
        bridge = self.params["network"].get("bridge")
        listed = run("ip", "-json", "link", "show", "master", bridge, check=False).stdout if bridge else ""
        for link in json.loads(listed or "[]"):
            # A name too long for the kernel is shortened by systemd-nspawn, and kept in full beside it.
            if f"vb-{self.machine}" in (link["ifname"], *link.get("altnames", [])):
                run("ip", "link", "delete", link["ifname"], check=False)

    def wait(self, booted: bool, new: bool) -> None:
        """Wait until the host is up and lets us in."""
        address = self.params["network"]["hosts"][self.name]["address4"]
        deadline = time.monotonic() + self.params["timeout"]
        state = "running"
        while booted:
            state = self.systemctl("is-system-running") or "not up"
            if state in ("running", "degraded"):
                break
            self.still_time(deadline, f"its systemd is {state}")
            time.sleep(0.1)
        if state == "degraded":
            failed = self.systemctl("list-units", "--failed", "--plain", "--no-legend")
            words = (
                f"{self.name} is up, but units failed:\n{failed}\n"
                f"Their journal: journalctl --directory={self.root}/var/log/journal"
            )
            # A new host has to be sound. What an older one runs is its operator's business.
            if new:
                raise TestHostError(words)
            self.warnings.append(words)
        while not greeting(address).startswith("SSH-"):
            self.still_time(deadline, f"SSH does not answer on {address}")
            time.sleep(0.1)

    def ended(self) -> bool:
        """Tell whether nothing of the host runs, for a second: a program that is being started has no arguments yet."""
        for _ in range(10):
            if processes(str(self.folder)) or processes(f"--directory={self.root}"):
                return False
            time.sleep(0.1)
        return True

    def still_time(self, deadline: float, what: str) -> None:
        """Give up on a host that is late, or that is no more."""
        dead = self.ended()
        if dead or time.monotonic() > deadline:
            log = self.folder / "console.log"
            words = "it ended" if dead else f"it did not boot in {self.params['timeout']} s"
            tail = last_lines(log.read_text(errors="replace")) if log.exists() else ""
            raise TestHostError(f"{self.name}: {words}, {what}. The end of {log}:\n{tail}")

    def systemctl(self, *arguments: str) -> str:
        """Ask the host's systemd, by way of its namespaces."""
        for leader in self.leaders():
            done = run("nsenter", "--all", f"--target={leader}", "systemctl", *arguments, check=False)
            return str(done.stdout.strip())
        return ""

    def leaders(self) -> list[int]:
        """Find the host's first process: one, or none while it isn't up."""
        found = []
        for nspawn in processes(f"--directory={self.root}"):
            with contextlib.suppress(OSError):
                found += Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()[:1]
        return [int(leader) for leader in found]

    # -- down

    def kept(self) -> None:
        """Make a layer of what the host has beyond its tree, and take the host away."""
        record = read_json(self.folder / "host.json")
        if not record:
            raise TestHostError(f"{self.name} is not there, so no layer can be made of it")
        self.release = record["release"]
        # What it still writes is meant to be in the layer.
        self.stop(orderly=True)
        if self.change(f"kept as layer {self.params['layer']} of Debian {self.release}"):
            self.clear()
            self.unmount()
            folder = Path(self.params["layers"])
            building = folder / f".building-{self.release}"
            remove(building)
            building.mkdir(parents=True)
            # A copy: the layers may be on another file system. It keeps what says that something of the tree is gone.
            run("cp", "--archive", str(self.folder / "upper"), str(building / "upper"), timeout=300)
            for pattern in OWN:
                for path in (building / "upper").glob(pattern):
                    remove(path)
            write_json(building / "layer.json", {"tree": record["tree"]})
            target = folder / f"{self.release}-{self.params['layer']}"
            for older in folder.glob(f"{self.release}-*"):
                if older == target or not in_use(self.params["state_dir"], str(older / "upper")):
                    remove(older)
            building.rename(target)
        self.absent()

    def absent(self) -> None:
        """Take the host away, each part whether or not the others are there."""
        # What it would still write is thrown away as well.
        self.stop(orderly=False)
        if self.folder.exists() and self.change("removed"):
            self.clear()
            self.unmount()
            remove(self.folder)
            # What systemd-nspawn, and a supervisor that was killed, leave behind.
            for path in (
                Path("/run/systemd/nspawn/propagate", self.machine),
                *Path("/sys/fs/cgroup").glob(f"*/{self.unit}"),
            ):
                for folder in sorted(path.glob("**/"), reverse=True):
                    with contextlib.suppress(OSError):
                        folder.rmdir()

    def stop(self, *, orderly: bool) -> None:
        """Have the host power off, or take its power away."""
        loop, nspawn = (str(self.folder.parent / "supervise"), str(self.folder)), f"--directory={self.root}"
        if (processes(*loop) or processes(nspawn)) and self.change("stopped"):
            # Either is enough: it ends nspawn, and that the loop (or the unit).
            # Unless it was just rebooting.
            if orderly:
                stop(nspawn, patience=30)
            else:
                send(self.leaders(), signal.SIGKILL)
            if not ended(*loop, patience=2):
                stop(*loop)
                stop(nspawn)
            if under_systemd():
                run("systemctl", "stop", f"{self.unit}.service", check=False)
                run("systemctl", "reset-failed", f"{self.unit}.service", check=False)

    def unmount(self) -> None:
        """Take the overlay away, and make sure of it: what is deleted next must not be what lies under it."""
        for _ in range(50):
            if not self.root.is_mount():
                return
            run("umount", str(self.root), check=False)
            time.sleep(0.1 if self.root.is_mount() else 0)
        raise TestHostError(f"{self.root} is still in use and can't be unmounted; see: fuser -vm {self.root}")


def nameservers(params: dict[str, Any]) -> list[str]:
    """Return name servers that a host can reach: not a stub that listens on this machine's loopback."""
    found = list(params["nameservers"])
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"):
        if not found and Path(path).exists():
            words = [line.split() for line in Path(path).read_text().splitlines()]
            servers = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
            # Hosts reach IPv4 only beyond the machine.
            found = [server for server in servers if not server.startswith("127.") and ":" not in server]
    if not found:
        raise TestHostError(
            "this machine's name server listens on its loopback, where hosts can't reach it; name another:"
            ' -e \'{"test_host_nameservers": ["<address>"]}\''
        )
    return found


def in_use(state_dir: str, layer: str) -> bool:
    """Tell whether a host was made from a layer."""
    records = Path(state_dir).glob("*/*/host.json")
    return any(layer in read_json(record).get("tree", "").split(":") for record in records)


def greeting(address: str) -> str:
    """Return the first words of the SSH server, if it answers."""
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            return connection.recv(64).decode(errors="replace")
    except OSError:
        return ""


def known_hosts(hosts: list[Host]) -> str:
    """Return the hosts' own keys, as read from their file systems: nothing is trusted on first use."""
    lines = []
    for host in hosts:
        addresses = host.params["network"]["hosts"][host.name]
        names = ",".join((host.name, addresses["address4"], addresses["address6"]))
        for key in sorted((host.root / "etc/ssh").glob("ssh_host_*_key.pub")):
            lines.append(f"{names} {' '.join(key.read_text().split()[:2])}\n")
    return "".join(lines)


def everyone(params: dict[str, Any], check: bool) -> list[Host]:
    """Return all hosts of the set that have a folder."""
    return [
        Host(params, {"name": folder.name}, check)
        for folder in sorted((Path(params["state_dir"]) / params["set"]).glob("*/"))
    ]


def act(params: dict[str, Any], check: bool) -> tuple[list[Host], list[str]]:
    """Bring the hosts up or take them away, all at the same time; return them, and what failed."""
    if params["state"] != "present":
        hosts = everyone(params, check)
        step = {"absent": Host.absent, "kept": Host.kept}[params["state"]]
    else:
        hosts = [Host(params, host, check) for host in params["hosts"]]
        step = Host.present
        folder = Path(params["state_dir"]) / params["set"]
        if not check and not all((folder / host.name / "host.json").exists() for host in hosts):
            # A copy, put into place in one step: bash reads a script while it runs it, and hosts outlive the clone.
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(params["supervisor"], folder / "supervise.new")
            (folder / "supervise.new").replace(folder / "supervise")

    failures = []
    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        for future in [pool.submit(step, host) for host in hosts]:
            try:
                future.result()
            except TestHostError as error:
                failures.append(str(error))
    return hosts, failures


def main() -> None:
    """Bring the hosts up, or take them away."""
    host_options = {
        "name": {"type": "str", "required": True},
        "release": {"type": "str", "required": True},
        "user": {"type": "str", "default": "root"},
        "layer": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "kept"], "default": "present"},
            "set": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "hosts": {"type": "list", "elements": "dict", "default": [], "options": host_options},
            "trees": {"type": "dict", "default": {}},
            "layers": {"type": "path", "default": ""},
            "layer": {"type": "str", "default": ""},
            "network": {"type": "dict", "default": {}},
            "nameservers": {"type": "list", "elements": "str", "default": []},
            "authorized_key": {"type": "str", "default": "", "no_log": False},
            "environment": {"type": "dict", "default": {}},
            "certificates_dir": {"type": "path", "default": "/usr/local/share/ca-certificates"},
            "supervisor": {"type": "path", "default": ""},
            "shared_dirs": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params, check = module.params, module.check_mode
    os.umask(0o022)
    # Two runs for the same set: the second waits, and then finds everything done.
    with lock(Path(f"/run/flask-on-metal-test-{params['set']}.lock")):
        hosts, failures = act(params, check)
    for warning in [warning for host in hosts for warning in host.warnings]:
        module.warn(warning)
    changes = [change for host in hosts for change in host.changes]
    if failures:
        module.fail_json(msg="\n".join(failures), changes=changes)
    keys = known_hosts(hosts) if params["state"] == "present" and not check else ""
    module.exit_json(changed=bool(changes), changes=changes, known_hosts=keys)


if __name__ == "__main__":
    main()
