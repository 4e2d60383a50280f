"""A host trusts the authorities of host_ca_certificates, each of them, and no longer than they are in it."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = shutil.which("update-ca-certificates", path="/usr/sbin:/usr/bin")
ME = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


@pytest.fixture(scope="module", autouse=True)
def lookups() -> None:
    """Have Ansible find its lookups by their full names."""
    init_plugin_loader()


def files_of(certificates: list[Path], folder: Path) -> list[dict[str, str]]:
    """Ask the role which files it would write."""
    tasks = yaml.safe_load((ROOT / "roles/host/tasks/configure.yml").read_text())
    template = trust_as_template(tasks[0]["vars"]["_host_ca_files"])
    variables = {"host_ca_certificates": [str(path) for path in certificates], "_host_ca_folder": str(folder)}
    found: list[dict[str, str]] = Templar(loader=DataLoader(), variables=variables).template(template)
    return found


def authority(path: Path, name: str) -> Path:
    """Make an authority's certificate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
         str(path.with_suffix(".key")), "-out", str(path), "-subj", f"/CN={name}", "-days", "9"],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


def test_two_files_of_one_name_are_two_on_the_host(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "ca.pem", tmp_path / "b" / "ca.pem"
    for path in (one, other):
        path.parent.mkdir()
        path.write_text(f"{path}\n")
    found = files_of([one, other], tmp_path)
    assert len({item["path"] for item in found}) == 2
    assert all(Path(item["path"]).name.startswith("ca-") and item["path"].endswith(".crt") for item in found)
    assert files_of([one, other], tmp_path) == found


@pytest.mark.skipif(PROGRAM is None, reason="this machine has no update-ca-certificates")
def test_what_is_taken_out_is_trusted_no_more(run_module: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    local, trusted, others = tmp_path / "local", tmp_path / "trusted", tmp_path / "others"
    for path in (local / "flask-on-metal", trusted, others, tmp_path / "hooks"):
        path.mkdir(parents=True)
    (tmp_path / "conf").write_text("# none\n")
    # The operator's own, put there by hand.
    by_hand = authority(local / "by-hand.crt", "by hand")
    first, second = authority(tmp_path / "a" / "ca.pem", "first"), authority(tmp_path / "b" / "ca.pem", "second")
    handlers = yaml.safe_load((ROOT / "roles/host/handlers/main.yml").read_text())
    (command,) = (str(task["ansible.builtin.command"]) for task in handlers if "ca-certificates" in str(task))

    def trust(*certificates: Path) -> str:
        files = [{**item, **ME} for item in files_of([*certificates], local / "flask-on-metal")]
        done = run_module("file_set", files=files, exclusive=[f"{local}/flask-on-metal"])
        assert done["changed"], done
        words = {"--certsconf": "conf", "--certsdir": "others", "--localcertsdir": "local", "--etccertsdir": "trusted",
                 "--hooksdir": "hooks"}  # fmt: skip
        places = [word for option, name in words.items() for word in (option, str(tmp_path / name))]
        assert PROGRAM
        subprocess.run([PROGRAM, *command.split()[1:], *places], check=True, capture_output=True)
        return (trusted / "ca-certificates.crt").read_text()

    both = trust(first, second)
    assert all(path.read_text() in both for path in (first, second, by_hand))
    one = trust(second)
    assert first.read_text() not in one and second.read_text() in one and by_hand.read_text() in one
    linked = {path.resolve() for path in trusted.iterdir() if path.is_symlink()}
    assert {path.read_text() for path in linked} == {second.read_text(), by_hand.read_text()}
