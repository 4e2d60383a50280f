"""Ansible module: the virtual environment of a release."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from ansible.module_utils.filesystem import read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import Release, release_module
from ansible.module_utils.uv import UV, install

DOCUMENTATION = r"""
---
module: release_build
short_description: The virtual environment of a release, from wheels alone
description:
  - Only wheels are installed, so that nothing from a package index runs as root while a release is built.
  - A requirements file with hashes is taken as it is. Anything else is resolved once; the lock is recorded as
    requirements.lock with the release, and reused by the next one as long as the same was asked for.
  - uv, which does it, is installed as O(uv) says.
  - Where lock, interpreter and uv are those of the current release, its environment is copied.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  uv: {description: Content of the requirements file with hashes that names uv., type: str, required: true}
  requirements: {description: Name of the requirements file below the code., type: str, required: true}
  requirement: {description: The app itself as name==version instead of code., type: str, default: ""}
  resolve: {description: Whether to resolve again., type: bool, default: false}
"""

EXAMPLES = r"""
- name: Virtual environment is built
  release_build:
    app: news
    id: 20260101T000000Z-0123abcd
    run: 0123456789ab
    uv: "{{ lookup('ansible.builtin.file', 'requirements-uv.txt') }}"
    requirements: requirements.txt
"""


INCLUDES = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)", re.MULTILINE)


def with_included(path: Path, text: str, seen: frozenset[Path] = frozenset()) -> str:
    """Put a requirements file's text and those of all files that it includes (-r, -c) into one, to tell a change."""
    parts = [text]
    for name in INCLUDES.findall(text) if path.suffix != ".toml" else ():
        included = path.parent / name
        if included not in seen:
            parts.append(with_included(included, read_text(included) or "", seen | {path, included}))
    return "\0".join(parts)


class Build:
    """The making of one virtual environment."""

    def __init__(self, module: AnsibleModule, release: Release) -> None:
        """Note where things go, and how uv is to behave."""
        self.module, self.release = module, release
        self.venv, self.lock = release.folder / "venv", release.folder / "requirements.lock"
        # One cache for all apps of the host; root's, so that no app can change what another one will get.
        os.environ.setdefault("UV_CACHE_DIR", "/var/cache/uv")
        # The host's interpreter: Debian's uWSGI plugin is bound to it.
        os.environ["UV_PYTHON_DOWNLOADS"] = "never"
        os.environ["UV_NO_CONFIG"] = "1"

    def uv(self, *words: str) -> None:
        """Run uv, or fail with what it said."""
        status, out, err = self.module.run_command([str(UV), "--quiet", "--no-progress", *words])
        if status:
            what = "resolved" if words[1] == "compile" else "built"
            self.module.fail_json(
                msg=f"the environment of {self.release.id} could not be {what}:\n{(err or out).strip()}"
            )

    def asked(self) -> tuple[Path | None, str]:
        """Find the file that names the dependencies, and its text; for a packaged app, no file and its requirement."""
        if self.module.params["requirement"]:
            return None, str(self.module.params["requirement"])
        code = self.release.folder / "code"
        for path in (code / self.module.params["requirements"], code / "pyproject.toml"):
            text = read_text(path)
            if text is not None:
                return path, text
        self.module.fail_json(msg=f"the source has neither {self.module.params['requirements']} nor pyproject.toml")
        raise AssertionError

    def locked(self) -> Path:
        """Bring about a requirements file with hashes: the app's own, that of the release before, or newly resolved."""
        path, text = self.asked()
        if path and path.suffix != ".toml" and "--hash=" in text:
            return path
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        asked = f"{version} {text if path is None else with_included(path, text)}"
        head = f"# asked: {hashlib.sha256(asked.encode('utf-8', 'surrogateescape')).hexdigest()}\n"
        current = self.release.app.current()
        before = read_text(current.folder / "requirements.lock") if current else None
        if before and before.startswith(head) and not self.module.params["resolve"]:
            write_atomically(self.lock, before, 0o644)
            return self.lock
        if path is None:
            path = self.release.folder / "requirements.in"
            write_atomically(path, text + "\n", 0o644)
        self.uv(
            "pip", "compile", "--python", "/usr/bin/python3", "--generate-hashes", "--no-build", "--no-annotate",
            "--no-header", "--output-file", str(self.lock), str(path),
        )  # fmt: skip
        write_atomically(self.lock, head + (read_text(self.lock) or ""), 0o644)
        return self.lock

    def compile(self, folder: Path) -> None:
        """Write byte code beside the sources: nothing below a release is written once it serves.

        By the host's own interpreter, and isolated: that of the environment would run what its packages have in .pth
        files, as root. A file that doesn't compile is not the build's business: the app may never import it.
        """
        self.module.run_command(["/usr/bin/python3", "-I", "-m", "compileall", "-q", "-j", "0", str(folder)])

    def make(self, lock: Path) -> None:
        """Make the environment from wheels."""
        # Relocatable, so that the next release can have a copy.
        self.uv("venv", "--python", "/usr/bin/python3", "--no-project", "--relocatable", str(self.venv))
        self.uv(
            "pip", "install", "--python", str(self.venv / "bin" / "python"), "--no-build", "--require-hashes",
            "--requirement", str(lock),
        )  # fmt: skip
        # uv's own, and writable for all.
        (self.venv / ".lock").unlink(missing_ok=True)
        self.compile(self.venv / "lib")

    def run(self) -> None:
        """Make the environment, or copy that of the current release where it would be the same; compile the code."""
        lock = self.locked()
        made_of = f"{sys.version}\n{read_text(UV.parents[1] / 'requirements.txt')}\n{read_text(lock)}"
        key = hashlib.sha256(made_of.encode()).hexdigest() + "\n"
        current = self.release.app.current()
        if current and read_text(current.folder / "venv.key") == key:
            self.module.run_command(["cp", "--archive", str(current.folder / "venv"), str(self.venv)], check_rc=True)
        else:
            self.make(lock)
        write_atomically(self.release.folder / "venv.key", key, 0o644)
        self.compile(self.release.folder / "code")


def main() -> None:
    """Run the module."""
    module, release = release_module(
        {
            "uv": {"type": "str", "required": True},
            "requirements": {"type": "str", "required": True},
            "requirement": {"type": "str", "default": ""},
            "resolve": {"type": "bool", "default": False},
        },
        secret=(),
    )
    if not module.check_mode:
        install(module, module.params["uv"])
        Build(module, release).run()
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
