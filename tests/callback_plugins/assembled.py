"""Ansible callback: modules that an earlier run of the tests has put together are not put together again."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from pathlib import Path
from typing import Any

import ansible
from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: assembled
type: aggregate
short_description: Keeps modules with what they import, as they are sent to hosts, from run to run
description:
  - Ansible puts each module together once in a run, which is a quarter of what a short run computes. The tests make a
    hundred runs of the same modules.
  - Ansible's own cache of a run becomes a folder in build/, which is another one after each change of plugins/, of
    Ansible or of Python. Where Ansible has no such cache any more, nothing is kept.
requirements:
  - enable in configuration (callbacks_enabled)
"""

ROOT = Path(__file__).resolve().parents[2]


def version() -> str:
    """Make a digest of what modules are put together from."""
    digest = hashlib.sha256(f"{ansible.__version__} {platform.python_version()}".encode())
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Puts the folder in the place of the cache before there is any."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "assembled"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Begin with what is there."""
        kept = ROOT / "build" / "ansible-modules" / version()
        kept.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (Path(constants.DEFAULT_LOCAL_TMP) / "ansiballz_cache").symlink_to(kept)
