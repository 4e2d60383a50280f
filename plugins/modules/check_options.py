"""Documentation of an action plugin: it runs on the control node, so there is nothing here to run on a host."""

from __future__ import annotations

DOCUMENTATION = """
module: check_options
short_description: Checks all options of all hosts before anything is touched
description:
  - Finds misspelt options, missing ones, wrong types and values that can't work together, in the variables of the hosts
    of a group, and fails with one message that lists all of them.
  - Fails as well where the group has no hosts, which Ansible would call a success.
  - Runs once, on the control node, without a connection to any host. Nothing is changed.
  - What the options are comes from the meta/argument_specs.yml of the roles.
  - With C(--limit) only the hosts in the limit are looked at. Values of secrets are never shown.
options:
  group:
    description: The group whose hosts are checked. It must have one.
    type: str
    default: web
  others:
    description: More groups whose hosts are checked, where the inventory has them.
    type: list
    elements: str
    default: []
  roles:
    description: The roles whose options are checked. Empty means all.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: It reads only.
"""

EXAMPLES = """
- name: The options are right
  check_options:
    group: web
"""
