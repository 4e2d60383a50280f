"""Ansible module: what the program `certificates` does on a host, with check mode."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ansible.module_utils.certificates import (
    OWN,
    Acme,
    App,
    CertificateError,
    Certificates,
    Config,
    Host,
    Places,
    lines,
    locked,
    make_folder,
    pair_id,
    read,
    write,
)
from ansible.module_utils.host_module import AnsibleModule

DOCUMENTATION = r"""
---
module: certificates
short_description: A key and a certificate for each domain of each app
description:
  - The step C(pairs) writes the configuration of the program C(certificates) and has a pair for each domain, without
    asking anybody. It is the operator's own, an authority's that is there already, or a self-signed one.
  - The step C(authority) does what the program's C(renew) does. It asks the ACME authority for what is due, and proves
    that NGINX serves what it should. It also has the program's timer run.
  - The code is the program's own (plugins/module_utils/certificates.py), so check mode works on a host that lacks it.
    community.crypto's ACME modules would need the account's key on the control node, and can't renew by a timer.
options:
  step:
    description: What to do.
    type: str
    required: true
    choices: [pairs, authority]
  directory:
    description: Folder in which each app has a folder by its name.
    type: path
    required: true
  days:
    description: Days of validity of a self-signed certificate.
    type: int
    required: true
  apps:
    description: Entries of name and domains (names and addresses).
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name of the app., type: str, required: true}
      domains: {description: Names and addresses., type: list, elements: str, required: true}
  own_chains:
    description: The operator's own certificates, each with those above it, in PEM form by the app's name.
    type: dict
    default: {}
  own_keys:
    description: Their keys. Never shown.
    type: dict
    default: {}
  acme_directory:
    description: URL of the ACME authority's directory. Empty for none.
    type: str
    default: ""
  acme_email:
    description: Address that the authority writes to.
    type: str
    default: ""
  acme_ca:
    description: Certificates in PEM form that signed the authority's own TLS. Empty for those that the host trusts.
    type: str
    default: ""
  acme_eab_kid:
    description: Key identifier of an External Account Binding.
    type: str
    default: ""
  acme_eab_hmac_key:
    description: Its key. Never shown.
    type: str
    default: ""
  force:
    description: Whether the authority is asked for all names now, due or not.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Each domain has a certificate
  certificates:
    step: pairs
    directory: /etc/ssl/example
    days: 366
    apps:
      - {name: news, domains: [news.example.org]}
"""

RETURN = r"""
changes:
  description: What was changed, or would be.
  returned: always
  type: list
  elements: str
account:
  description: How each domain is served, and until when, in lines for people.
  returned: after the step C(authority), outside of check mode
  type: str
look:
  description: Whether somebody should look at the account.
  returned: with it
  type: bool
"""

TIMER = "flask-on-metal-certificates.timer"


def wanted(params: dict[str, Any], places: Places) -> Config:
    """Return the program's configuration."""
    chains = params["own_chains"]
    own = {name: pair_id(OWN, chain) for name, chain in chains.items()}
    apps = [App(app["name"], app["domains"], own.get(app["name"], "")) for app in params["apps"]]
    acme = Acme(
        params["acme_directory"],
        params["acme_email"],
        str(places.ca_file) if params["acme_ca"] else "",
        params["acme_eab_kid"],
        params["acme_eab_hmac_key"] or "",
    )
    return Config(params["directory"], params["days"], apps, acme)


def describe(found: Certificates, ca: str) -> None:
    """Write down what the program is to know."""
    places = found.places
    for path, text in ((places.ca_file, ca), (places.config, found.config.text())):
        if read(path) == text:
            continue
        # Not what it says: there may be a secret in it.
        found.changes.append(str(path))
        if not found.check:
            make_folder(path.parent)
            write(path, text, 0o600)


def settle_timers(found: Certificates) -> None:
    """Have our timer run, and Debian's not look at the same certificates, where there are no others."""
    properties = ["--property=ActiveState,UnitFileState,NeedDaemonReload", "--value"]
    state = found.host.run(["systemctl", "show", TIMER, *properties])[1].split()
    if sorted(state) != ["active", "enabled", "no"]:
        found.changes.append(f"{TIMER} runs")
        if not found.check:
            must(found, "daemon-reload")
            must(found, "enable", "--quiet", TIMER)
            must(found, "restart", TIMER)
    others = list(Path("/etc/letsencrypt/renewal").glob("*.conf"))
    if Path("/etc/systemd/system/timers.target.wants/certbot.timer").is_symlink() and not others:
        found.changes.append("certbot.timer is off, since there is nothing for it to renew")
        if not found.check:
            must(found, "disable", "--now", "--quiet", "certbot.timer")


def must(found: Certificates, *words: str) -> None:
    """Run systemctl, which has to succeed."""
    status, said = found.host.run(["systemctl", *words])
    if status:
        raise CertificateError(f"systemctl {' '.join(words)} failed: {said.strip()}")


def main() -> None:
    """Run the module."""
    entry = {
        "name": {"type": "str", "required": True},
        "domains": {"type": "list", "elements": "str", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "required": True, "choices": ["pairs", "authority"]},
            "directory": {"type": "path", "required": True},
            "days": {"type": "int", "required": True},
            "apps": {"type": "list", "elements": "dict", "required": True, "options": entry},
            "own_chains": {"type": "dict", "default": {}},
            "own_keys": {"type": "dict", "default": {}, "no_log": True},
            "acme_directory": {"type": "str", "default": ""},
            "acme_email": {"type": "str", "default": ""},
            "acme_ca": {"type": "str", "default": ""},
            "acme_eab_kid": {"type": "str", "default": ""},
            "acme_eab_hmac_key": {"type": "str", "default": "", "no_log": True},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params, places = module.params, Places()
    told: dict[str, Any] = {}
    found = Certificates(wanted(params, places), Host(), places, check=module.check_mode)
    try:
        if not module.check_mode:
            make_folder(places.state.parent)
        with nullcontext() if module.check_mode else locked(places.lock):
            found.recall()
            if params["step"] == "pairs":
                for app in found.config.apps:
                    if app.own:
                        found.own(app, params["own_keys"][app.name], params["own_chains"][app.name])
                describe(found, params["acme_ca"])
                found.prepare()
            else:
                found.renew(force=params["force"])
                settle_timers(found)
                if not module.check_mode:
                    account = found.account()
                    told = {"account": lines(account), "look": any(one.look for one in account)}
    except CertificateError as error:
        module.fail_json(msg=str(error), changes=found.changes)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}", changes=found.changes)
    for warning in found.warnings:
        module.warn(warning)
    after = "".join(f"{change}\n" for change in found.changes)
    module.exit_json(changed=bool(found.changes), changes=found.changes, diff={"before": "", "after": after}, **told)


if __name__ == "__main__":
    main()
