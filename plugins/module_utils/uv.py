"""uv, which builds the environments of releases, at its locked version and in a place of its own."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ansible.module_utils.filesystem import link_atomically, read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.sandbox import CERTIFICATES, Sandbox, Unfit, compile_code, take_over

UV = Path("/opt/flask-on-metal/uv/bin/uv")
"""By way of a link to the version in use."""
INTERPRETER = re.compile(r"/usr/bin/python3(?:\.\d+)?")
"""What alone a link of an environment may name outside of it."""


def install(module: AnsibleModule, lock: str, environment: Mapping[str, str]) -> None:
    """Bring about uv as a lock names it; nothing to do costs two reads.

    Args:
        module: Runs commands, and fails where the package index can't be reached.
        lock: Content of a requirements file with hashes that names uv.
        environment: For pip, as HTTPS_PROXY or PIP_INDEX_URL.
    """
    link = UV.parent.parent
    folder = link.with_name(f"uv-{hashlib.sha256(lock.encode()).hexdigest()[:8]}")
    # Written last, so that an interrupted installation is started over.
    complete = folder / "requirements.txt"
    if read_text(complete) != lock:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        module.run_command(["/usr/bin/python3", "-m", "venv", str(folder)], check_rc=True)
        written = folder / "lock.txt"
        write_atomically(written, lock, 0o644)
        status, out, err = module.run_command(
            [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir",
             "--require-hashes", "--only-binary", ":all:", "--requirement", str(written)],
            environ_update={"PIP_CERT": os.environ.get("PIP_CERT", str(CERTIFICATES)), **environment},
        )  # fmt: skip
        if status:
            module.fail_json(
                msg=f"uv could not be installed: is the package index reachable from this host? {(err or out).strip()}"
            )
        written.replace(complete)
    if not link.is_symlink() or link.readlink() != Path(folder.name):
        link_atomically(link, folder.name)


def run_uv(sandbox: Sandbox, *words: str, where: Path, writes: tuple[Path, ...] = ()) -> str:
    """Run uv as the account that builds; returns what it put out.

    Raises:
        Unfit: it failed; the text is what it said.
    """
    status, out, err = sandbox.run([str(UV), "--quiet", "--no-progress", *words], where=where, writes=writes)
    if status:
        raise Unfit((err or out).strip())
    return out


def make_environment(sandbox: Sandbox, venv: Path, lock: Path, where: Path) -> None:
    """Make a virtual environment of the wheels that a requirements file with hashes names; it is root's.

    Args:
        sandbox: Where it is made.
        venv: Its folder, which isn't there.
        lock: The requirements file.
        where: Folder that what it names is relative to.

    Raises:
        Unfit: it can't be made, or isn't what an environment is.
    """
    venv.mkdir(mode=0o755)
    sandbox.give(venv)
    # Relocatable, so that the next release can have a copy.
    words = ["venv", "--python", "/usr/bin/python3", "--no-project", "--relocatable", str(venv)]
    run_uv(sandbox, *words, where=where, writes=(venv,))
    words = ["--python", str(venv / "bin" / "python"), "--no-build", "--require-hashes", "--requirement", str(lock)]
    run_uv(sandbox, "pip", "install", *words, where=where, writes=(venv,))
    compile_code(sandbox, venv / "lib", venv)
    take_over(venv, INTERPRETER)
    # uv's own.
    (venv / ".lock").unlink(missing_ok=True)
