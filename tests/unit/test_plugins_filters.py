"""What the templates of a release are filled in with, and that the numbers of all roles go together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.tuning import tuned

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def filters(plugin: Callable[[str, str], ModuleType]) -> dict[str, Callable[..., Any]]:
    """Name the filters as templates do."""
    found: dict[str, Callable[..., Any]] = plugin("filter", "flask_app").FilterModule().filters()
    return found


def defaults(role: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text())
    return found


def options() -> dict[str, Any]:
    spec = yaml.safe_load((ROOT / "roles/flask_app/meta/argument_specs.yml").read_text())
    return spec["argument_specs"]["main"]["options"]["flask_apps"]["options"]


# --- an app's entry


def test_an_entry_gets_the_defaults_of_the_specification_and_keeps_its_own(filters: Any) -> None:
    own = {"name": "news", "harakiri": 7, "exclude": []}
    (full,) = filters["with_defaults"]([own])
    assert full == {**{name: option.get("default") for name, option in options().items()}, **own}
    assert own == {"name": "news", "harakiri": 7, "exclude": []}


@pytest.mark.parametrize(
    ("domains", "canonical", "names", "addresses"),
    [
        (["a.example"], "a.example", ["a.example"], []),
        (["a.example", "b.example", "192.0.2.7"], "a.example", ["a.example", "b.example"], ["192.0.2.7"]),
        (["192.0.2.7", "a.example"], "a.example", ["a.example"], ["192.0.2.7"]),
        (["2001:DB8:0::7"], "[2001:db8::7]", [], ["[2001:db8::7]"]),
        (["192.0.2.7", "2001:db8::7"], "192.0.2.7", [], ["192.0.2.7", "[2001:db8::7]"]),
    ],
)
def test_domains_are_sorted_by_what_nginx_does_with_them(
    filters: Any, domains: list[str], canonical: str, names: list[str], addresses: list[str]
) -> None:
    answered = filters["answered_hosts"]({"domains": domains})
    assert answered == {"canonical": canonical, "names": names, "addresses": addresses}


def test_addresses_of_all_apps_are_listened_on(filters: Any) -> None:
    apps = [{"domains": ["a.example", "2001:db8::7"]}, {"domains": ["192.0.2.7"]}, {"domains": ["b.example"]}]
    assert filters["listen_addresses"](apps) == ["192.0.2.7", "[2001:db8::7]"]


@pytest.mark.parametrize(
    ("domain", "form"),
    [("a.example", "a.example"), ("192.0.2.7", "192.0.2.7"), ("::1", "[::1]"), ("2001:DB8:0:0::7", "[2001:db8::7]")],
)
def test_a_domain_is_written_as_in_a_host_header(filters: Any, domain: str, form: str) -> None:
    assert filters["host_form"](domain) == form


# --- environment


@pytest.mark.parametrize(
    ("value", "line"),
    [
        # systemd.exec(5): within double quotes a backslash escapes " \ ` $ alone, all else is taken as it stands.
        ("", '""'),
        ("plain", '"plain"'),
        (" spaces at both ends ", '" spaces at both ends "'),
        ("# no comment; no end", '"# no comment; no end"'),
        ("it's", '"it\'s"'),
        ('say "x"', r'"say \"x\""'),
        ("back\\slash\\n", r'"back\\slash\\n"'),
        ("ends in \\", r'"ends in \\"'),
        ("$HOME ${HOME} $$", r'"\$HOME \${HOME} \$\$"'),
        ("`date`", r'"\`date\`"'),
        ("100% %i", '"100% %i"'),
        ("two\nlines\n", '"two\nlines\n"'),
        ("a\\\nb", '"a\\\\\nb"'),
        ("tab\there", '"tab\there"'),
        ("Größe ☃", '"Größe ☃"'),
        ("=a=b", '"=a=b"'),
        (30, '"30"'),
        (0.5, '"0.5"'),
    ],
)
def test_each_value_is_quoted_for_systemd(filters: Any, value: object, line: str) -> None:
    assert filters["environment_file"]({"NAME": value}) == f"NAME={line}\n"


def test_the_order_of_values_makes_no_difference(filters: Any) -> None:
    found = filters["environment_file"]({"B": "2", "A": "1"})
    assert found == filters["environment_file"]({"A": "1", "B": "2"}) == 'A="1"\nB="2"\n'


# --- numbers that have to go together


@pytest.mark.parametrize("harakiri", [1, 5, 60, 600, 86400])
@pytest.mark.parametrize("cores", [0, 1, 2, 64])
@pytest.mark.parametrize(("processes", "threads"), [(None, None), (3, None), (None, 2), (1, 1)])
def test_numbers_follow_from_the_host_and_the_operators_come_first(
    processes: int | None, threads: int | None, harakiri: int, cores: int
) -> None:
    found = tuned(processes, threads, harakiri, cores)
    assert found["harakiri"] == harakiri
    # The worker is killed and named in the journal before the client is told.
    assert found["harakiri"] < found["read_timeout"]
    assert found["processes"] == (processes or max(cores, 1)) >= 1
    assert found["threads"] == (threads or found["threads"]) >= 1
    assert found["buffer_size"] <= 0xFFFF, "uWSGI's packets have a length of 16 bits"


def test_uwsgi_takes_every_header_that_nginx_lets_through() -> None:
    buffers, size = defaults("nginx")["nginx_large_header_buffers"], 8 * 1024
    # The request line is one of these buffers, and is passed on twice: as REQUEST_URI, and as path and query.
    # 4 KiB are for the names of the variables and for those that NGINX adds.
    assert tuned(None, None, 60, 1)["buffer_size"] >= (buffers + 1) * size + 4096
    text = (ROOT / "roles/nginx/templates/nginx.conf.j2").read_text()
    assert re.search(r"large_client_header_buffers \{\{ nginx_large_header_buffers \}\} 8k;", text)


def test_the_kernel_queues_as_many_connections_as_the_socket_asks_for() -> None:
    assert defaults("uwsgi")["uwsgi_backlog"] <= defaults("host")["host_sysctl"]["net.core.somaxconn"]


def test_a_stop_waits_longer_than_a_request_may_take() -> None:
    assert defaults("uwsgi")["uwsgi_stop_timeout"] > options()["harakiri"]["default"]


def test_the_old_releases_queue_is_waited_for_longer_than_nginx_waits(plugin: Callable[[str, str], ModuleType]) -> None:
    documentation = yaml.safe_load(plugin("modules", "release_drain").DOCUMENTATION)
    harakiri = options()["harakiri"]["default"]
    assert documentation["options"]["seconds"]["default"] > tuned(None, None, harakiri, 1)["read_timeout"]


def test_there_is_always_a_release_to_roll_back_to() -> None:
    assert defaults("flask_app")["flask_app_keep"] >= 2


@pytest.mark.parametrize(
    ("specifier", "version", "takes"),
    [("", "3.11.2", True), (">=3.11", "3.11.2", True), (">=3.12", "3.11.2", False), (">=3.10,<3.13", "3.13.5", False)],
)
def test_an_interpreter_is_compared_with_what_the_app_asks_for(
    filters: Any, specifier: str, version: str, takes: bool
) -> None:
    assert filters["takes_python"](specifier, version) is takes
