"""Ansible module: the question that a release must answer before it serves."""

from __future__ import annotations

from ansible.module_utils.release import journal, release_module
from ansible.module_utils.unix_http import ask_until_good

DOCUMENTATION = r"""
---
module: release_probe
short_description: Asks a new instance for its health, past NGINX
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  host: {description: Host header of the request., type: str, required: true}
  path: {description: Path that is to answer 200., type: str, required: true}
  seconds: {description: Time for it., type: int, required: true}
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: New instance answers
  release_probe: {app: news, id: 20260101T000000Z-0123abcd, host: news.example.org, path: /status, seconds: 30}
"""


def main() -> None:
    """Run the module."""
    module, release = release_module(
        {
            "host": {"type": "str", "required": True},
            "path": {"type": "str", "required": True},
            "seconds": {"type": "int", "required": True},
        }
    )
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, msg="in check mode there is no instance to ask")
    args = module.params
    answer = ask_until_good(release.probe_socket, args["host"], args["path"], args["seconds"])
    if not answer.good:
        module.fail_json(
            msg=f"its probe of {args['path']} got no 200 within {args['seconds']} s,"
            f" but {answer.status or 'nothing'}:\n{answer.text}\n"
            f"The last lines of its journal:\n{journal(module.run_command, release)}"
        )
    module.exit_json(changed=False, answer=answer.text)


if __name__ == "__main__":
    main()
