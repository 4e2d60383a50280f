"""Ansible module: the question that a release must answer before it serves."""

from __future__ import annotations

from ansible.module_utils.release import PROBE_ARGUMENTS, probe, probe_failure, release_module

DOCUMENTATION = r"""
---
module: release_probe
short_description: Asks a new instance for its health, past NGINX
options:
  app: {description: Name of the app., type: str, required: true}
  id: {description: The release., type: str, required: true}
  run: {description: The run that has the lock., type: str, required: true}
  host: {description: Host header of the request., type: str, required: true}
  path: {description: Path that is to answer 200., type: str, required: true}
  seconds: {description: Time for it., type: int, required: true}
  secrets: {description: Values to cut out of the output., type: dict, default: {}}
"""

EXAMPLES = r"""
- name: New instance answers
  release_probe:
    {app: news, id: 20260101T000000Z-0123abcd, run: 0123456789ab, host: news.example.org, path: /status, seconds: 30}
"""


RETURN = r"""
id: {description: The release that answered., type: str, returned: success}
answer: {description: What it said., type: str, returned: success}
"""


def main() -> None:
    """Run the module."""
    module, release = release_module(PROBE_ARGUMENTS)
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, id=release.id, msg="in check mode there is no instance to ask")
    answer = probe(release.runtime, module.params)
    if not answer.good:
        module.fail_json(msg=f"its probe failed: {probe_failure(module, release, answer)}")
    module.exit_json(changed=False, id=release.id, answer=answer.text)


if __name__ == "__main__":
    main()
