"""uv, which builds the environments of releases, at its locked version and in a place of its own."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from ansible.module_utils.filesystem import link_atomically, read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule

UV = Path("/opt/flask-on-metal/uv/bin/uv")
"""By way of a link to the version in use."""


def install(module: AnsibleModule, lock: str) -> None:
    """Bring about uv as a lock names it; nothing to do costs two reads.

    Args:
        module: Runs commands, and fails where the package index can't be reached.
        lock: Content of a requirements file with hashes that names uv.
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
             "--require-hashes", "--only-binary", ":all:", "--requirement", str(written)]
        )  # fmt: skip
        if status:
            module.fail_json(
                msg=f"uv could not be installed: is the package index reachable from this host? {(err or out).strip()}"
            )
        written.replace(complete)
    if not link.is_symlink() or link.readlink() != Path(folder.name):
        link_atomically(link, folder.name)
