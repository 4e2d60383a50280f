"""The wrappers in bin/ are a convenience: an operator's own Ansible does the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import PROGRAMS, ROOT, Ansible

pytestmark = pytest.mark.disturbs

# Another Python than ours where this machine has one, so that another version of Ansible is tried as well.
OTHERS = ["python3.13", "python3.12", "python3"]


def runs(command: str) -> bool:
    """Whether a Python starts: a name on the path may be a shim without a version behind it."""
    found = shutil.which(command)
    return bool(found) and subprocess.run([found, "-c", "pass"], capture_output=True, check=False).returncode == 0


def test_site_changes_nothing_when_another_ansible_runs_it(ansible: Ansible, tmp_path: Path) -> None:
    uv = str(PROGRAMS / "uv")
    python = next(command for command in OTHERS if runs(command))
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": os.environ["HOME"]}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("UV_", "SSL_CERT")) or "proxy" in name.lower()
    }
    subprocess.run(
        [uv, "venv", "--quiet", "--python", shutil.which(python) or python, tmp_path / "venv"],
        check=True,
        env=environment | kept,
    )
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", tmp_path / "venv" / "bin" / "python", "--require-hashes",
         "--requirement", ROOT / "requirements.txt"],
        check=True, env=environment | kept,
    )  # fmt: skip
    if inventory := ansible.inventory or os.environ.get("ANSIBLE_INVENTORY"):
        environment["ANSIBLE_INVENTORY"] = inventory
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "ansible-playbook", "playbooks/site.yml"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    recap = [line for line in done.stdout.splitlines() if "unreachable=" in line]
    assert recap and all("changed=0" in line for line in recap), recap
