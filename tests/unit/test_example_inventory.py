"""The inventory that an operator copies loads, passes the check, and shows every option there is."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ansible
import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventory" / "example"
PASSWORD = EXAMPLE / "vault-password.example"
VAULT = EXAMPLE / "group_vars" / "all" / "vault.yml"
APPS = EXAMPLE / "group_vars" / "all" / "apps.yml"
WEB = EXAMPLE / "group_vars" / "web" / "host.yml"
# Of several hosts. It is a folder in the other's, so Ansible is told not to read it with that (ansible.cfg).
CLUSTER = EXAMPLE / "cluster"
SHARED = CLUSTER / "group_vars" / "all" / "cluster.yml"

DOCUMENTATION_NETWORKS = [ipaddress.ip_network(net) for net in ("192.0.2.0/24", "2001:db8::/32")]
NOT_WRITTEN = {
    # Filled by the playbooks and roles.
    "certificate_wanted",
    "nginx_sites",
    "nginx_sites_only_test",
    "uwsgi_unit_names",
    "host_firewall_services",
    "host_firewall_web",
    "nginx_balancers",
    "nginx_internal_directory",
    "nginx_internal_made_of",
    "certificate_internal_tier",
    "certificate_internal_names",
    "certificate_internal_group",
    "balancer_drain_passing",
    # They follow from the inventory's groups.
    "balancer_web_hosts",
    "postgresql_clients",
    # Asked for with -e, for one run.
    "certificate_acme_force",
    "flask_app_only",
    "flask_app_force",
    "flask_app_resolve",
    "flask_app_stop_first",
    "flask_app_version",
    "flask_app_to",
    "flask_app_break_lock",
    "flask_app_maintenance",
    "flask_app_purge",
    "balancer_drain_hosts",
    "balancer_drain_without",
    "balancer_drain",
    # Of single hosts: cluster/hosts.yml has it.
    "balancer_weight",
}

# Throw-away hosts are no business of an operator's, and the benchmark has an inventory of its own.
SPECS = {
    name: option
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))
    if path.parts[-3] not in ("test_host", "benchmark")
    for entry in yaml.safe_load(path.read_text())["argument_specs"].values()
    for name, option in entry.get("options", {}).items()
}
APP_SPECS = SPECS["flask_apps"]["options"]


def uncommented(text: str) -> str:
    """Take the # away from every option; what else is commented out is prose."""
    # What is in a mapping of several lines has any name, and is set in.
    return re.sub(r"^( *)# ([a-z0-9_]+:(?: .*)?|  [A-Za-z-]+: .*)$", r"\1\2", text, flags=re.MULTILINE)


def options(path: Path) -> dict[str, Any]:
    """Read all options of a file, with those that are commented out."""
    found: dict[str, Any] = yaml.safe_load(uncommented(path.read_text()))
    return found


def commented_out(path: Path) -> dict[str, Any]:
    """Read the options of a file, and of its app, that are commented out alone."""
    active = yaml.safe_load(path.read_text()) or {}
    found = {name: value for name, value in options(path).items() if name not in active}
    for index, app in enumerate(active.get("flask_apps", [])):
        found |= {key: value for key, value in options(path)["flask_apps"][index].items() if key not in app}
    return found


def run(command: str, tmp_path: Path, *arguments: object) -> str:
    """Run one of Ansible's commands and return what it says; nothing of the caller's own settings counts."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [Path(sys.executable).with_name(command), *map(str, arguments), "--vault-password-file", PASSWORD],
        env=environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stderr, done.stderr
    return done.stdout


def test_the_inventory_loads_with_the_published_password(tmp_path: Path) -> None:
    loaded = json.loads(run("ansible-inventory", tmp_path, "-i", EXAMPLE, "--list"))
    hosts = loaded["_meta"]["hostvars"]
    # No file beside hosts.yml is taken for a list of hosts: the password is a comment to Ansible.
    assert sorted(hosts) == sorted(loaded["web"]["hosts"])
    assert hosts
    for name, variables in hosts.items():
        assert name.endswith(".example.org")
        address = ipaddress.ip_address(variables["ansible_host"])
        assert any(address in network for network in DOCUMENTATION_NETWORKS), f"{address} may be somebody's"
        assert [app["name"] for app in variables["flask_apps"]] == ["newsboard"]
        assert variables["vault_newsboard"]


def test_the_vault_is_encrypted_and_holds_what_the_other_files_ask_for() -> None:
    content = VAULT.read_bytes()
    assert content.startswith(b"$ANSIBLE_VAULT;1.1;AES256\n")
    secret = VaultSecret(PASSWORD.read_bytes().strip())
    secrets = yaml.safe_load(VaultLib([("default", secret)]).decrypt(content))
    asked_for = set(re.findall(r"\bvault_\w+", APPS.read_text() + WEB.read_text()))
    assert set(secrets) == asked_for


@pytest.mark.parametrize("path", [APPS, WEB, SHARED], ids=lambda path: path.name)
def test_every_option_in_the_example_exists(path: Path) -> None:
    shown = options(path)
    assert sorted(set(shown) - set(SPECS)) == []
    for app in shown.get("flask_apps", []):
        assert sorted(set(app) - set(APP_SPECS)) == []


def test_every_option_there_is_is_in_the_example() -> None:
    assert set(SPECS) >= NOT_WRITTEN, "an option that no longer exists is left out"
    shown = options(APPS)
    assert sorted(set(SPECS) - NOT_WRITTEN - set(shown) - set(options(WEB)) - set(options(SHARED))) == []
    assert sorted(set(APP_SPECS) - set(shown["flask_apps"][0])) == []


@pytest.mark.parametrize("path", [APPS, WEB, SHARED], ids=lambda path: path.name)
def test_what_is_commented_out_is_the_default(path: Path) -> None:
    specs = SPECS | APP_SPECS
    found = commented_out(path)
    assert found
    differing = {
        name: f"shown {value!r}, default {specs[name]['default']!r}"
        for name, value in found.items()
        if "default" in specs[name] and value != specs[name]["default"]
    }
    assert not differing


@pytest.mark.parametrize("everything", [False, True], ids=["as it is", "with all that is commented out"])
def test_the_check_of_the_options_passes(tmp_path: Path, everything: bool) -> None:
    inventory = shutil.copytree(EXAMPLE, tmp_path / "inventory")
    if everything:
        for path in (APPS, WEB):
            copy = inventory / path.relative_to(EXAMPLE)
            copy.write_text(uncommented(copy.read_text()))
    told = run("ansible-playbook", tmp_path, "-v", "-i", inventory, ROOT / "playbooks" / "preflight.yml")
    assert "The options of 1 host are right." in told


def test_the_cluster_is_an_inventory_of_its_own(tmp_path: Path) -> None:
    groups = {
        name: sorted(group["hosts"])
        for name, group in json.loads(run("ansible-inventory", tmp_path, "-i", CLUSTER, "--list")).items()
        if "hosts" in group
    }
    assert {name: len(hosts) for name, hosts in groups.items()} == {"balancer": 2, "web": 2, "database": 3}
    told = run("ansible-playbook", tmp_path, "-v", "-i", CLUSTER, ROOT / "playbooks" / "preflight.yml")
    assert "The options of 7 hosts are right." in told
    template = "{{ newsboard_database_url }}"
    url = run(
        "ansible", tmp_path, "-i", CLUSTER, groups["web"][0], "-m", "ansible.builtin.debug", "-a", f"msg={template}"
    )
    assert "host=192.0.2.31:5432&host=192.0.2.32:5432&host=192.0.2.33:5432&target_session_attrs=read-write" in url


def test_requirements_name_the_collections_in_use_and_what_is_tested_satisfies_them() -> None:
    tested = {}
    for manifest in (Path(ansible.__file__).parents[1] / "ansible_collections").glob("*/*/MANIFEST.json"):
        info = json.loads(manifest.read_text())["collection_info"]
        tested[f"{info['namespace']}.{info['name']}"] = info["version"]
    files = [ROOT / "ansible.cfg", *ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/**/*.yml")]
    files += ROOT.glob("roles/**/*.j2")
    mentioned = {name for path in files for name in re.findall(r"\b([a-z_]+\.[a-z_]+)\.[a-z_]+", path.read_text())}
    required = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert sorted(item["name"] for item in required) == sorted(mentioned & set(tested))
    for item in required:
        least = re.fullmatch(r">=(\d+\.\d+\.\d+)", item["version"])
        assert least, item
        # Else Molecule and each run of ansible-galaxy would go and fetch another one.
        assert numbers(least[1]) <= numbers(tested[item["name"]]), f"{item['name']} is tested with an older version"


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
