"""Ansible module: documentation of the action of the same name."""

DOCUMENTATION = r"""
---
module: release_source
short_description: The id of the release that this run would make
description:
  - Runs on the control node alone. The id is <UTC time>-<8 hex>, the hex from all that the operator put in.
options:
  app:
    description: The app's entry of flask_apps, with its defaults.
    type: dict
    required: true
  key:
    description: Key of the hash over environment and secrets.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Id of the release is known
  release_source:
    app: "{{ app }}"
"""

RETURN = r"""
problem: {description: Why the source can't be read, returned alone., type: str, returned: failure}
id: {description: The release's id., type: str, returned: always}
begun: {description: Unix time., type: float, returned: always}
input: {description: Digest of all input., type: str, returned: always}
source: {description: Digest of the source., type: str, returned: always}
described: {description: The version in words., type: str, returned: always}
"""
