"""Ansible action: the release's id and digests, worked out on the control node."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ansible.module_utils
import yaml
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Ansible finds a project's module_utils for modules only; this runs on the control node.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.release_source import Source, SourceError, input_digest, keyed_digest

# Options that say how a release is made, and not what it is: changing one makes no new release.
HOW = {
    "name",
    "source",
    "version",
    "exclude",
    "environment",
    "secrets",
    "health_path",
    "health_timeout",
    "migrate_timeout",
    "domains",
    "static",
    "max_body",
    "headers",
    "certificate",
    "limits",
    "maintenance",
    "cache",
    "idempotent",
    "hooks",
    "sqlite",
}


SPEC = Path(__file__).parents[2] / "roles" / "flask_app" / "meta" / "argument_specs.yml"


def default_exclude() -> list[str]:
    """Read what a release does without where the operator doesn't say."""
    spec = yaml.safe_load(SPEC.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]["flask_apps"]
    default: list[str] = spec["options"]["exclude"]["default"]
    return default


class ActionModule(ActionBase):  # type: ignore[misc]
    """Reads the source; reaches no host."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return id, begun (Unix time), input, source (digests), described (in words), requires_python; or problem."""
        super().run(tmp, task_vars)
        app, key = self._task.args["app"], self._task.args.get("key", "")
        source = Source.parse(app["source"], app["version"], tuple(app["exclude"]))
        try:
            source.check(app["requirements"], app["static"].values())
            source_digest, described, requires_python = source.digest(), source.described(), source.requires_python()
        except SourceError as error:
            # Told and not raised: the task runs once for all hosts, and each of them fails by itself then.
            return {"changed": False, "problem": f"{app['name']}: {error}"}
        if (left_out := source.left_out()) and list(app["exclude"]) == default_exclude():
            more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            Display().warning(
                f"{app['name']}: the release is made without {left_out[0]}{more} of the source, as exclude has instance"
                " unless it is set. Put what the app reads there into environment or secrets. Set exclude to ship the"
                " folder, or with instance in it to be told no more."
            )
        options = {name: value for name, value in app.items() if name not in HOW}
        values = keyed_digest(app["name"], {**app["environment"], **app["secrets"]}, key)
        whole = input_digest(source_digest, options, values)
        release_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{whole[:8]}"
        return {
            "changed": False,
            "id": release_id,
            "begun": time.time(),
            "input": whole,
            "source": source_digest,
            "described": described,
            "requires_python": requires_python,
        }
