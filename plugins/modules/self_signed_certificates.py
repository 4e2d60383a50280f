"""Ansible module: self-signed certificates by the host's own openssl."""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: self_signed_certificates
short_description: An ECDSA P-256 key and a self-signed certificate for each entry
description:
  - Uses the host's openssl command. community.crypto would need python3-cryptography on the host, and its modules
    fail in check mode on a host where the folder or the library isn't there yet.
  - Makes a pair again when its names differ, less than 30 days are left, or a part is missing.
    Key and certificate are replaced together.
options:
  directory:
    description: Folder in which each entry has a folder by its name.
    type: path
    required: true
  wanted:
    description: Entries of name and domains (names and addresses).
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name of the folder., type: str, required: true}
      domains: {description: Names and addresses., type: list, elements: str, required: true}
  days:
    description: Days of validity.
    type: int
    default: 397
"""

EXAMPLES = r"""
- name: Each app has a certificate
  self_signed_certificates:
    directory: /etc/ssl/example
    wanted:
      - {name: news, domains: [news.example.org]}
"""

RETURN = r"""
fingerprints:
  description: SHA-256 fingerprint of each certificate by its entry's name, or "to be made" in check mode.
  returned: always
  type: dict
"""

SECONDS_LEFT = 30 * 24 * 3600


def alternative_name(domain: str) -> str:
    """One entry of subjectAltName, in OpenSSL's notation."""
    try:
        return f"IP:{ipaddress.ip_address(domain).compressed}"
    except ValueError:
        return f"DNS:{domain}"


def printed_name(entry: str) -> str:
    """Bring an entry, as `openssl x509 -ext subjectAltName` prints it, to the form of `alternative_name`."""
    kind, _, value = entry.strip().partition(":")
    return alternative_name(value) if kind == "IP Address" else f"{kind}:{value}"


class Pair:
    """A key and its certificate in a folder."""

    def __init__(self, module: AnsibleModule, folder: Path, domains: list[str]) -> None:
        """Note where the pair is and what it is to name."""
        self.module, self.folder, self.domains = module, folder, domains
        self.key, self.certificate = folder / "key.pem", folder / "fullchain.pem"

    def openssl(self, *words: str) -> tuple[int, str]:
        """Exit status and output of one openssl command."""
        status, out, err = self.module.run_command(["openssl", *words])
        return status, out + err

    def must(self, *words: str) -> str:
        """Output of an openssl command that has to succeed."""
        status, out = self.openssl(*words)
        if status:
            self.module.fail_json(msg=f"{self.folder}: openssl {words[0]} failed: {out.strip()}")
        return out

    def good(self) -> bool:
        """Whether the pair is there, fits together, names the domains and lasts."""
        if not (self.key.is_file() and self.certificate.is_file()):
            return False
        status, out = self.openssl(
            "x509", "-in", str(self.certificate), "-noout", "-checkend", str(SECONDS_LEFT), "-ext", "subjectAltName"
        )
        names = [line for line in out.splitlines() if re.match(r"\s*(DNS|IP Address):", line)]
        if status or not names:
            return False
        if {printed_name(name) for name in names[0].split(",")} != {alternative_name(name) for name in self.domains}:
            return False
        of_key = self.openssl("pkey", "-in", str(self.key), "-pubout")
        return of_key[0] == 0 and of_key == self.openssl("x509", "-in", str(self.certificate), "-noout", "-pubkey")

    def make(self, days: int) -> None:
        """Make key and certificate beside, then move both into place."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        names = ",".join(alternative_name(domain) for domain in self.domains)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".new-") as beside:
            key, certificate = Path(beside, "key.pem"), Path(beside, "fullchain.pem")
            old = os.umask(0o077)
            try:
                self.must("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key))
            finally:
                os.umask(old)
            # A common name has at most 64 characters; clients look at subjectAltName alone.
            self.must(
                "req", "-x509", "-new", "-key", str(key), "-out", str(certificate), "-days", str(days), "-sha256",
                "-subj", f"/CN={self.domains[0][:64]}", "-addext", f"subjectAltName={names}",
                "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth",
            )  # fmt: skip
            certificate.chmod(0o644)
            key.replace(self.key)
            certificate.replace(self.certificate)

    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hex."""
        out = self.must("x509", "-in", str(self.certificate), "-noout", "-fingerprint", "-sha256")
        return out.strip().rpartition("=")[2].replace(":", "").lower()


def main() -> None:
    """Run the module."""
    entry = {
        "name": {"type": "str", "required": True},
        "domains": {"type": "list", "elements": "str", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "wanted": {"type": "list", "elements": "dict", "required": True, "options": entry},
            "days": {"type": "int", "default": 397},
        },
        supports_check_mode=True,
    )
    made, fingerprints = [], {}
    for item in module.params["wanted"]:
        pair = Pair(module, Path(module.params["directory"], item["name"]), item["domains"])
        if not pair.good():
            made.append(item["name"])
            if module.check_mode:
                fingerprints[item["name"]] = "to be made"
                continue
            pair.make(module.params["days"])
        fingerprints[item["name"]] = pair.fingerprint()
    after = "".join(f"self-signed certificate {name}\n" for name in made)
    module.exit_json(changed=bool(made), fingerprints=fingerprints, diff={"before": "", "after": after})


if __name__ == "__main__":
    main()
