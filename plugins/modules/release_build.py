"""Ansible module: the virtual environment of a release."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from ansible.module_utils.disk_space import (
    MB,
    RESERVE,
    UV_CACHE_LIMIT,
    Watch,
    caches,
    empty_cache,
    shortage,
    size,
    watched,
)
from ansible.module_utils.filesystem import read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule
from ansible.module_utils.release import Release, release_module, remove, stop_instance, surplus
from ansible.module_utils.requirements import included
from ansible.module_utils.sandbox import Sandbox, Unfit, taken_environment
from ansible.module_utils.uv import UV, install, make_environment, run_uv

DOCUMENTATION = r"""
---
module: release_build
short_description: The virtual environment of a release, from wheels alone
description:
  - Only wheels are installed, so that nothing from a package index runs while a release is built. uv itself runs as an
    account without rights, in a sandbox with a cache of the app's own; what it made is root's afterwards.
  - A requirements file with hashes is taken as it is. Anything else is resolved once; the lock is recorded as
    requirements.lock with the release, and reused by the next one as long as the same was asked for.
  - uv, which does it, is installed as O(uv) says.
  - Where lock, interpreter and uv are those of the current release, its environment is copied.
  - It ends before the disk is full, so that apps that run can go on writing. Where room is short, releases that would
    be removed anyway and uv's caches give way.
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  uv: {description: Content of the requirements file with hashes that names uv., type: str, required: true}
  requirements: {description: Name of the requirements file below the code., type: str, required: true}
  requirement: {description: The app itself as name==version instead of code., type: str, default: ""}
  resolve: {description: Whether to resolve again., type: bool, default: false}
  keep:
    description: How many releases that were once active stay. What is more than that gives way where room is short.
    type: int
    required: true
  environment:
    description:
      - For uv, as HTTPS_PROXY or UV_DEFAULT_INDEX. Not shown; what is secret in it is cut out of the output.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Virtual environment is built
  release_build:
    app: news
    id: 20260101T000000Z-0123abcd
    run: 0123456789ab
    uv: "{{ lookup('ansible.builtin.file', 'requirements-uv.txt') }}"
    requirements: requirements.txt
    keep: 5
"""


def with_included(path: Path, text: str, seen: frozenset[Path] = frozenset()) -> str:
    """Put a requirements file's text and those of all files that it includes (-r, -c) into one, to tell a change."""
    parts = [text]
    for _, name in included(text) if path.suffix != ".toml" else ():
        other = path.parent / name
        if other not in seen:
            parts.append(with_included(other, read_text(other) or "", seen | {path, other}))
    return "\0".join(parts)


class Build:
    """The making of one virtual environment."""

    def __init__(self, module: AnsibleModule, release: Release, sandbox: Sandbox) -> None:
        """Note where things go, and where uv runs."""
        self.module, self.release, self.sandbox = module, release, sandbox
        self.venv, self.lock = release.folder / "venv", release.folder / "requirements.lock"
        # What a requirements file names is relative to the code.
        self.where = release.folder / "code"
        self.watch = Watch()

    def make_room(self) -> None:
        """Make room for the release with what nobody needs, or fail."""
        app, run = self.release.app, self.module.run_command
        for old in surplus(app, self.module.params["keep"]):
            if old != self.release and shortage(app):
                stop_instance(run, old)  # a run that was killed may have left it
                remove(run, old)
        if shortage(app):
            for cache in caches():
                empty_cache(cache)
        if problem := shortage(app):
            self.module.fail_json(msg=problem)

    def refuse_if_low(self) -> None:
        """Fail where the build was ended for the sake of the apps that run."""
        if self.watch.low:
            self.module.fail_json(
                msg=f"the build was ended when less than {RESERVE // MB} MB were free where {self.release.folder} is: "
                "they are for the apps that run. What the build took is free again. Make room there, and run again."
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
        locked = run_uv(
            self.sandbox, "pip", "compile", "--python", "/usr/bin/python3", "--generate-hashes", "--no-build",
            # The install finds what this has found: by the indexes that the app's file names.
            "--no-annotate", "--no-header", "--emit-index-url", "--emit-find-links", str(path), where=self.where,
        )  # fmt: skip
        write_atomically(self.lock, head + locked, 0o644)
        return self.lock

    def run(self) -> None:
        """Make the environment while the disk is watched, and note how much the release takes.

        Raises:
            Unfit: it can't be made.
        """
        self.make_room()
        with watched(self.release.folder, self.sandbox.kill) as self.watch:
            try:
                self.build()
            except (Unfit, OSError):
                self.refuse_if_low()
                raise
            self.refuse_if_low()
        write_atomically(self.release.folder / "size", f"{size(self.release.folder)}\n", 0o644)

    def build(self) -> None:
        """Make the environment, or copy that of the current release where it would be the same."""
        lock = self.locked()
        made_of = f"{sys.version}\n{read_text(UV.parents[1] / 'requirements.txt')}\n{read_text(lock)}"
        key = hashlib.sha256(made_of.encode()).hexdigest() + "\n"
        current = self.release.app.current()
        if current and read_text(current.folder / "venv.key") == key:
            words = ["cp", "--archive", str(current.folder / "venv"), str(self.venv)]
            status, _, err = self.module.run_command(words)
            if status:
                raise Unfit(f"that of {current.id} could not be copied: {err.strip()}")
        else:
            make_environment(self.sandbox, self.venv, lock, self.where)
            empty_cache(self.sandbox.cache, UV_CACHE_LIMIT)
        write_atomically(self.release.folder / "venv.key", key, 0o644)


def main() -> None:
    """Run the module."""
    module, release = release_module(
        {
            "uv": {"type": "str", "required": True},
            "requirements": {"type": "str", "required": True},
            "requirement": {"type": "str", "default": ""},
            "resolve": {"type": "bool", "default": False},
            "keep": {"type": "int", "required": True},
        },
        secret=("environment",),
    )
    environment = taken_environment(module)
    if not module.check_mode:
        install(module, module.params["uv"], environment)
        try:
            Build(module, release, Sandbox(release.app.name, environment)).run()
        except Unfit as unfit:
            module.fail_json(msg=f"the environment of {release.id} could not be built:\n{unfit}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
