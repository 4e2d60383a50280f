"""What the role host hardens: sshd, firewall, updates, journal and kernel, as the host itself has them in force."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
import yaml
from helpers import ROOT, TIERS, Promised, as_root, blocks, inventory_name, pairs, ssh_of
from testinfra.host import Host

pytestmark = pytest.mark.tier(*TIERS)

SYSCTL = yaml.safe_load((ROOT / "roles" / "host" / "vars" / "main.yml").read_text())["_host_sysctl_hardening"]

# As `sshd -T` names them.
SSHD = {
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "hostbasedauthentication": "no",
    "permitemptypasswords": "no",
    "permitrootlogin": "without-password",
    "requiredrsasize": "2048",
    "logingracetime": "30",
    "x11forwarding": "no",
    "allowagentforwarding": "no",
    "allowtcpforwarding": "local",
    "permittunnel": "no",
}


@pytest.fixture(scope="module")
def found(host: Host) -> dict[str, str]:
    """Ask the host all that is asked here, in one go."""
    script = """
      echo "== sshd"; /usr/sbin/sshd -T
      echo "== table"; nft --stateless --terse list table inet flask_on_metal 2>&1 || true
      echo "== unit"; systemctl is-enabled flask-on-metal-firewall.service 2>&1 || true
      systemctl is-active flask-on-metal-firewall.service || true
      echo "== waiting"; ls -d /var/lib/flask-on-metal/access/armed 2>/dev/null || true
      echo "== apt"; apt-config dump
      echo "== timers"; systemctl is-active apt-daily.timer apt-daily-upgrade.timer || true
      echo "== origins"; apt-get indextargets --format '$(LABEL)' | sort -u
      echo "== throw-away"; ls /etc/dpkg/dpkg.cfg.d/test-host 2>/dev/null || true
      echo "== journal"; systemd-analyze cat-config systemd/journald.conf | grep -v '^#' | grep .
      echo "== journals"; ls /var/log/journal
      echo "== sysctl"
      # What the kernel does not let this host set it does not promise.
      for path in $1; do
        for file in /proc/sys/$path; do
          [ -e "$file" ] || continue
          if { : >>"$file"; } 2>/dev/null; then whose=mine; else whose=the-kernels; fi
          echo "$file=$(cat "$file")=$whose"
        done
      done
    """
    return blocks(as_root(host, script, " ".join(name.replace(".", "/") for name in SYSCTL)))


def client(host: Host, *options: str) -> str:
    """Begin a new SSH connection as Ansible would, but for some options, and return what the client tells of it."""
    backend = ssh_of(host)
    if not hasattr(backend, "ssh_extra_args"):
        pytest.skip("this host is not reached by SSH")
    words = ["ssh", "-v", *options, "-o", "ControlPath=none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    words += shlex.split(backend.ssh_extra_args or "")
    for flag, value in (("-p", backend.host.port), ("-l", backend.host.user), ("-i", backend.ssh_identity_file)):
        words += [flag, str(value)] if value else []
    done = subprocess.run([*words, backend.host.name, "true"], capture_output=True, text=True, timeout=60, check=False)
    return done.stderr


# --- sshd


def hardened(promised: Promised) -> None:
    if not promised.options["host_ssh_hardening"]:
        pytest.skip("host_ssh_hardening is false")


def test_sshd_has_the_hardening_in_force(found, promised):
    hardened(promised)
    values = dict(line.split(" ", 1) for line in found["sshd"].splitlines() if " " in line)
    assert {name: values.get(name) for name in SSHD} == SSHD
    allowed = re.findall(r"^allowusers (.+)$", found["sshd"], re.MULTILINE)
    if wanted := promised.options["host_ssh_allow_users"]:
        assert allowed == wanted


def test_sshd_offers_keys_and_nothing_else_to_a_client(host, promised):
    hardened(promised)
    said = client(host, "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive")
    assert re.findall(r"Authentications that can continue: (.+?)\s*$", said, re.MULTILINE)[:1] == ["publickey"]
    assert "Permission denied (publickey)" in said


def test_sshd_does_not_tell_its_debian_version(host, promised):
    hardened(promised)
    said = client(host, "-o", "PubkeyAuthentication=no")
    (version,) = re.findall(r"remote software version (\S+.*?)\s*$", said, re.MULTILINE)
    assert re.fullmatch(r"OpenSSH_[0-9.]+p\d+", version)


@pytest.mark.parametrize(
    ("option", "weak", "what"),
    [
        ("KexAlgorithms", "diffie-hellman-group14-sha256", "key exchange method"),
        ("MACs", "hmac-sha1", "MAC"),
        ("Ciphers", "aes128-cbc", "cipher"),
    ],
)
def test_sshd_refuses_ciphers_of_yesterday(host, promised, option, weak, what):
    hardened(promised)
    # Ciphers with a tag of their own need no MAC.
    with_mac = ["-o", "Ciphers=aes128-ctr"] if option == "MACs" else []
    said = client(host, "-o", f"{option}={weak}", *with_mac)
    assert f"no matching {what} found" in said


def test_sshd_agrees_on_an_exchange_that_a_quantum_computer_cannot_break(host, promised):
    hardened(promised)
    said = client(host)
    (exchange,) = re.findall(r"kex: algorithm: (\S+)", said)
    if "mlkem768x25519" not in exchange and "sntrup761x25519" not in exchange:
        version = re.findall(r"^OpenSSH_(\S+)", said, re.MULTILINE)
        pytest.skip(f"this machine's client, OpenSSH {version}, knows none")


# --- firewall


def test_firewall_drops_what_it_does_not_name_and_is_loaded_at_boot(found, promised):
    if not promised.options["host_firewall"]:
        assert "table inet flask_on_metal" not in found["table"]
        return
    assert "hook input priority filter; policy drop;" in found["table"]
    assert found["unit"].split() == ["enabled", "active"]


def test_no_change_of_firewall_or_sshd_waits_to_be_undone(found):
    assert found["waiting"] == ""


# --- updates


def test_security_updates_come_by_themselves(found, promised):
    settings = re.findall(r'^(\S+) "(.*)";$', found["apt"], re.MULTILINE)
    values = dict(settings)
    if not promised.options["host_updates"]:
        assert values["APT::Periodic::Unattended-Upgrade"] == "0"
        return
    assert values["APT::Periodic::Update-Package-Lists"] == "1"
    assert values["APT::Periodic::Unattended-Upgrade"] == "1"
    reboot = promised.options["host_updates_reboot"]
    assert values["Unattended-Upgrade::Automatic-Reboot"] == ("true" if reboot else "false")
    assert not reboot or values["Unattended-Upgrade::Automatic-Reboot-Time"] == reboot
    origins = [value for name, value in settings if name == "Unattended-Upgrade::Origins-Pattern::"]
    assert origins and all("label=Debian-Security" in origin for origin in origins)
    assert found["timers"].split() == ["active", "active"]


def test_security_updates_have_a_source(found, promised):
    if not promised.options["host_updates"]:
        pytest.skip("host_updates is false")
    if found["throw-away"]:
        pytest.skip("throw-away hosts are made without one")
    assert "Debian-Security" in found["origins"].splitlines(), "apt has no source of security updates"


# --- journal and kernel


def test_journal_is_kept_and_has_its_limit(found, promised):
    values = pairs(found["journal"])
    assert values["Storage"] == "persistent"
    assert values["SystemMaxUse"] == promised.options["host_journal_max_use"]
    assert found["journals"].strip()


def test_kernel_has_the_hardening_that_it_lets_this_host_set(found, promised, host):
    if not promised.options["host_sysctl_hardening"]:
        pytest.skip("host_sysctl_hardening is false")
    wanted = {name: str(value) for name, value in SYSCTL.items() if name not in promised.options["host_sysctl"]}
    checked = 0
    for line in found["sysctl"].splitlines():
        path, value, whose = line.split("=")
        name = path.removeprefix("/proc/sys/").replace("/", ".")
        pattern = next(p for p in SYSCTL if re.fullmatch(re.escape(p).replace(r"\*", ".+"), name))
        if whose == "mine" and pattern in wanted:
            assert (name, value) == (name, wanted[pattern])
            checked += 1
    # Those of its network are any host's own.
    assert checked >= 20, f"{inventory_name(host)} could set {checked} only"
