"""The sites of all apps of a host are ones that NGINX takes together, whatever the apps are called and send."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.plugins.filter.core import FilterModule as CoreFilters
from jinja2 import DictLoader, Environment, StrictUndefined

ROOT = Path(__file__).resolve().parents[2]
FILES = {"": "site", "/headers": "headers", "/requests": "requests", "/upstream": "upstream", "/app": "app"}
HEADERS = yaml.safe_load((ROOT / "roles/nginx/defaults/main.yml").read_text())["nginx_headers"]


def rendered(plugin: Callable[[str, str], ModuleType], *apps: dict[str, Any], balancer: bool = False) -> dict[str, str]:
    """Render the NGINX files of apps, as tasks/sites.yml of roles flask_app and nginx do."""
    plugins = [plugin("filter", name) for name in ("flask_app", "nginx")]
    folder = ROOT / "roles/flask_app/templates"
    texts = {name: (folder / f"nginx_{name}.conf.j2").read_text() for name in FILES.values()}
    texts["hash_sizes"] = (ROOT / "roles/nginx/templates/hash_sizes.conf.j2").read_text()
    jinja = Environment(loader=DictLoader(texts), trim_blocks=True, undefined=StrictUndefined, autoescape=False)
    jinja.filters |= CoreFilters().filters()
    for one in plugins:
        jinja.filters |= one.FilterModule().filters()
    entries = plugins[0].with_defaults([{"source": "/x", "wsgi": "x:app", **app} for app in apps])
    known = {
        "ansible_managed": "made", "nginx_headers": HEADERS, "certificate_directory": "/etc/ssl/apps",
        "_flask_app_http3": True, "_flask_app_http2_parameter": "", "_flask_app_all": entries,
        "_flask_app_challenge_peers": ["192.0.2.9"], "nginx_balancers": ["192.0.2.1"] if balancer else [],
        "nginx_balancer_port": 8443, "__flask_app_host": {"host": {"cores": 2, "memory_mb": 2000}},
    }  # fmt: skip
    found = {
        f"sites/{app['name']}{file}.conf": jinja.get_template(name).render(app=app, **known)
        for app in entries
        for file, name in FILES.items()
    }
    found["hash_sizes.conf"] = jinja.get_template("hash_sizes").render(ansible_managed="made", nginx_sites=found)
    return found


LONGEST = ".".join(["a" * 40, "b" * 50, "c" * 61, "d" * 50, "e" * 36, "example.org"])
"""A domain of 253 characters, the longest there is."""
FULL = {"cache": {"by_app": True}, "limits": {"requests": 5, "connections": 5}}
APPS: dict[str, list[dict[str, Any]]] = {
    "short names": [{"name": "shop", "domains": ["shop.example.org", "192.0.2.7", "2001:db8::7"]}],
    "an app's longest name": [{"name": "customer-portal-backends", "domains": ["shop.example.org"], **FULL}],
    "the longest domain, and another name for it": [{"name": "shop", "domains": [LONGEST, "b" + LONGEST[1:]]}],
    "a long header": [{"name": "shop", "domains": ["shop.example.org"], "headers": {"X-" + 98 * "a": "1"}}],
    "many": [
        {"name": f"customer-portal-back-{n:03}", "domains": [f"{n:03}{LONGEST[3:]}"], **FULL} for n in range(60)
    ],
}  # fmt: skip


def needed(name: str) -> int:
    """Tell the bytes that a bucket has for one name at least: ngx_hash_init() refuses a smaller one."""
    return 8 + 8 + -(-(len(name) + 2) // 8) * 8


@pytest.fixture
def sites(plugin: Callable[[str, str], ModuleType]) -> Callable[..., dict[str, str]]:
    """Render apps with this project's filters."""
    return partial(rendered, plugin)


@pytest.mark.parametrize("apps", APPS.values(), ids=APPS.keys())
@pytest.mark.parametrize("balancer", [False, True])
def test_each_name_fits_into_nginx_tables(
    sites: Callable[..., dict[str, str]], apps: list[dict[str, Any]], balancer: bool
) -> None:
    files = sites(*apps, balancer=balancer)
    sizes = dict(re.findall(r"^(\w+_(?:max|bucket)_size) (\d+);$", files.pop("hash_sizes.conf"), re.MULTILINE))
    whole = "\n".join(files.values())
    variables = set(re.findall(r"^(?:map|geo) (?:\S+ )?\$(\w+) \{$", whole, re.MULTILINE))
    servers = {name for names in re.findall(r"server_name ([^;]+);", whole) for name in names.split()}
    assert len(variables) >= 7 * len(apps) and len(servers) >= len(apps)
    for table, names in (("variables_hash", variables), ("server_names_hash", servers)):
        assert int(sizes[f"{table}_bucket_size"]) >= max(map(needed, names))
        assert int(sizes[f"{table}_bucket_size"]) <= 65536 - 64, "NGINX takes none that is larger"
        assert int(sizes[f"{table}_max_size"]) >= 4 * len(names)
    # PCRE takes no longer one, and Debian's NGINX then refuses the file.
    assert all(len(capture) <= 32 for capture in re.findall(r"\(\?<(\w+)>", whole))


def test_no_two_apps_and_no_app_and_nginx_share_a_variable(sites: Callable[..., dict[str, str]]) -> None:
    headers = {"Protocol": "1", "Private": "1", "Passes-Maintenance": "1", "X-Frame-Options": "1", "B-C": "1"}
    names = ["a", "a-b", "a--b", "ssl", "upstream-http", "http", "shop", "shop-x"]
    apps = [{"name": name, "domains": [f"{name}.example.org"], "headers": headers, **FULL} for name in names]
    whole = "\n".join(sites(*apps).values())
    made = re.findall(r"^(?:map|geo) (?:\S+ )?\$(\w+) \{$", whole, re.MULTILINE)
    assert len(made) > 80 and len(made) == len(set(made)), "the last one would count for all"
    # NGINX has no variable of its own that begins so.
    assert all(name.startswith(("app_", "header_")) for name in made)
    assert set(re.findall(r"\$((?:app|header)_\w+)", whole)) == set(made)
    zones = re.findall(r"zone=(\w[\w-]*):", whole)
    assert len(zones) == len(set(zones)) == 3 * len(names)
