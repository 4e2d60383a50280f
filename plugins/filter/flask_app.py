"""Jinja filters over an app's entry in flask_apps."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import ansible.module_utils
import yaml
from packaging.specifiers import SpecifierSet

# Ansible finds a project's module_utils for modules only; this runs on the control node.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.addresses import host_form, is_address
from ansible.module_utils.sandbox import environment_file
from ansible.module_utils.tuning import Tuning, tuned

SPEC = Path(__file__).parents[2] / "roles" / "flask_app" / "meta" / "argument_specs.yml"


@cache
def app_options() -> dict[str, dict[str, Any]]:
    """Read the options of an app's entry from the specification that is their one source.

    Each task's own process reads it anew: by libyaml, where it is there, in a sixth of the time.
    """
    spec = yaml.load(SPEC.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    options: dict[str, dict[str, Any]] = spec["argument_specs"]["main"]["options"]["flask_apps"]["options"]
    return options


def with_defaults(apps: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each app's entry with the defaults of what it leaves out; None for what has no default.

    In a group of options, as limits, those without a default stay out.
    """

    def filled(app: dict[str, Any]) -> dict[str, Any]:
        values = dict(app)
        for name, option in app_options().items():
            value = app.get(name, option.get("default"))
            inner = {key: one["default"] for key, one in option.get("options", {}).items() if "default" in one}
            values[name] = {**inner, **value} if inner and isinstance(value, dict) else value
        return values

    return [filled(app) for app in apps]


def listen_addresses(apps: Iterable[dict[str, Any]]) -> list[str]:
    """All addresses among the domains of all apps, in the form that NGINX's listen takes."""
    return sorted(address for app in apps for address in answered_hosts(app)["addresses"])


class AnsweredHosts(TypedDict):
    """What an app's domains mean for NGINX."""

    canonical: str  # the first name; of an app without names its first address
    served: list[str]  # where the app itself answers, as written in domains: the first name, and the addresses
    names: list[str]  # all but the first redirect to it
    addresses: list[str]


def answered_hosts(app: dict[str, Any]) -> AnsweredHosts:
    """Sort an app's domains by what NGINX does with them, each as it stands in a Host header."""
    names = [domain for domain in app["domains"] if not is_address(domain)]
    addresses = [domain for domain in app["domains"] if is_address(domain)]
    served = [*names[:1], *addresses]
    return {
        "canonical": host_form(served[0]),
        "served": served,
        "names": names,
        "addresses": [host_form(domain) for domain in addresses],
    }


def sent_headers(app: dict[str, Any], common: dict[str, Any]) -> list[tuple[str, str]]:
    """List the headers that an app's answers get, by name: the common ones, with the app's own put over them.

    Names are the same whatever their case. Those with an empty value are left out.
    """
    found = {name.lower(): (name, str(value)) for name, value in [*common.items(), *app["headers"].items()]}
    return sorted((name, value) for name, value in found.values() if value)


def nginx_text(value: str) -> str:
    """Quote a text for NGINX's configuration; a $ in it would be a variable, which check_options refuses."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def tuning(app: dict[str, Any], host: dict[str, Any]) -> Tuning:
    """Work out the numbers of an app on a host, of which release_state told the cores and the memory."""
    chosen = {name: app[name] for name in ("processes", "threads", "worker_memory")}
    seconds = {name: int(app[name]) for name in ("harakiri", "health_timeout")}
    return tuned(**chosen, **seconds, cores=host["cores"], memory_mb=host["memory_mb"])


def at_version(apps: list[dict[str, Any]], only: str, version: str) -> list[dict[str, Any]]:
    """Put a version asked for on the command line in place of the inventory's, for the one app that it is for."""
    if not version or (not only and len(apps) > 1):
        return apps

    def changed(app: dict[str, Any]) -> dict[str, Any]:
        if app["source"].startswith("git+"):
            return {**app, "version": version}
        return {**app, "source": f"{app['source'].partition('==')[0]}=={version}"}

    return [changed(app) if app["name"] == (only or apps[0]["name"]) else app for app in apps]


def sqlite_files(app: dict[str, Any]) -> list[str]:
    """List the SQLite databases of an app on its host: those that it names, or else those in its environment's URLs."""
    shared = f"/srv/{app['name']}/shared"
    if app["sqlite"]:
        return [f"{shared}/{path}" for path in app["sqlite"]]
    values = [str(value) for value in [*app["environment"].values(), *app["secrets"].values()]]
    named = (re.match(r"sqlite(?:\+[a-z0-9_]+)?:///(/[^?]+)", value) for value in values)
    paths = {posixpath.normpath(match[1]) for match in named if match and not match[1].endswith("/")}
    # Only there could the app write one.
    return sorted(path for path in paths if path.startswith(f"{shared}/"))


def takes_python(specifier: str, version: str) -> bool:
    """Whether a specifier such as ">=3.11" (PEP 440) admits an interpreter's version."""
    return SpecifierSet(specifier).contains(version)


class FilterModule:
    """What Ansible finds here."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters as templates do."""
        return {
            "with_defaults": with_defaults,
            "answered_hosts": answered_hosts,
            "listen_addresses": listen_addresses,
            "host_form": host_form,
            "sent_headers": sent_headers,
            "nginx_text": nginx_text,
            "environment_file": environment_file,
            "takes_python": takes_python,
            "tuning": tuning,
            "at_version": at_version,
            "sqlite_files": sqlite_files,
        }
