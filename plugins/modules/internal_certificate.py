"""Ansible module: the pair by which a host is known to the others, as far as it is made on the host."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ansible.module_utils.filesystem import account_ids, read_text, write_atomically
from ansible.module_utils.host_module import AnsibleModule

DOCUMENTATION = r"""
---
module: internal_certificate
short_description: A key and a certificate by which a host is known to the others of the installation
description:
  - The key is made on the host and never leaves it. Its request is signed on the control node, where the authority's
    key is, which no host has.
  - A new certificate is made where there is none, names or authority changed, or less than a third of its time is
    left.
options:
  authority: {description: PEM file on the control node of the authority's certificate., type: path, required: true}
  authority_key: {description: PEM file there of its key. It may be encrypted., type: path, required: true}
  host: {description: Name of the host in the inventory., type: str, required: true}
  tier: {description: "What the host is to the others, as web: the organization.", type: str, required: true}
  names: {description: Names and addresses that it is reached by., type: list, elements: str, required: true}
  group: {description: Group that may read the key., type: str, default: root}
  days: {description: Days that the certificate is valid., type: int, required: true}
  directory: {description: "Folder of key.pem, certificate.pem and authority.pem.", type: path, required: true}
notes:
  - Of the steps, the authority's text and the signed certificate only the action plugin of the same name knows.
"""

EXAMPLES = r"""
- name: Host is known to the others
  internal_certificate:
    authority: authority.pem
    authority_key: authority-key.pem
    host: web1
    tier: web
    names: [web1, 192.0.2.11]
    days: 3650
    directory: /etc/ssl/flask-on-metal-internal
"""


RETURN = r"""
made_of:
  description: A digest that changes with the certificate, for what has to load it.
  returned: success
  type: str
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["look", "install"], "required": True},
            "authority": {"type": "str", "required": True},
            "certificate": {"type": "str", "default": ""},
            "host": {"type": "str", "required": True},
            "tier": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "group": {"type": "str", "default": "root"},
            "days": {"type": "int", "required": True},
            "directory": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    folder = Path(params["directory"])
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    asked = [params[name] for name in ("authority", "host", "tier", "names", "days")]
    gid = (account_ids("root", params["group"]) or (0, 0))[1]
    mode = 0o640 if gid else 0o600

    def digest() -> str:
        """Tell what the certificate was made of, and which one it is."""
        return hashlib.sha256(json.dumps([*asked, read_text(certificate)]).encode()).hexdigest()

    if params["step"] == "install":
        write_atomically(folder / "authority.pem", params["authority"], 0o644)
        write_atomically(certificate, params["certificate"], 0o644)
        write_atomically(folder / "made_of", digest() + "\n", 0o644)
        module.exit_json(changed=True, made_of=digest())

    changed = False
    if read_text(key) is None:
        changed = True
        if not module.check_mode:
            folder.mkdir(mode=0o755, exist_ok=True)
            _, text, _ = module.run_command(
                ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], check_rc=True
            )
            write_atomically(key, text, mode, 0, gid)
    elif key.stat().st_gid != gid:
        changed = True
        if not module.check_mode:
            write_atomically(key, read_text(key) or "", mode, 0, gid)

    def end(name: str) -> str:
        """Tell when a certificate ends."""
        return str(module.run_command(["openssl", "x509", "-in", str(folder / name), "-noout", "-enddate"])[1])

    left = params["days"] * 86400 // 3
    ending = module.run_command(["openssl", "x509", "-in", str(certificate), "-noout", "-checkend", str(left)])[0]
    # One that ends with the authority wouldn't get longer by being made again.
    due = (read_text(folder / "made_of") or "").strip() != digest() or bool(
        ending and end("certificate.pem") != end("authority.pem")
    )
    if not due or module.check_mode:
        module.exit_json(changed=changed or due, due=False, made_of=digest())
    _, request, _ = module.run_command(["openssl", "req", "-new", "-key", str(key), "-subj", "/"], check_rc=True)
    module.exit_json(changed=True, due=True, request=request)


if __name__ == "__main__":
    main()
