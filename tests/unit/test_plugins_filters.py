"""What the templates of a release are filled in with, and that the numbers of all roles go together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.tuning import Tuning, tuned

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


def numbers(**given: Any) -> Tuning:
    """Work out the numbers of an app that chooses none, on a small host; but for what is given."""
    chosen = {"processes": None, "threads": None, "worker_memory": None, "harakiri": 60, "health_timeout": 30}
    return tuned(**{**chosen, "cores": 1, "memory_mb": 1024, **given})


# --- an app's entry


def test_an_entry_gets_the_defaults_of_the_specification_and_keeps_its_own(filters: Any) -> None:
    own = {"name": "news", "harakiri": 7, "exclude": []}
    (full,) = filters["with_defaults"]([own])
    wanted = {**{name: option.get("default") for name, option in options().items()}, **own}
    # Those of a group as well; a hook has no default, and is not there where it isn't given.
    wanted |= {"limits": {"burst": 100}, "maintenance": {"addresses": [], "retry_after": 300}}
    wanted["cache"] = {"paths": [], "seconds": 1, "by_app": True, "cookies": [], "wait": 50, "size": "256m"}
    assert full == wanted
    (one,) = filters["with_defaults"]([{"limits": {"requests": 5, "burst": 7}}])
    assert one["limits"] == {"requests": 5, "burst": 7}
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
    assert {name: answered[name] for name in ("canonical", "names", "addresses")} == {
        "canonical": canonical, "names": names, "addresses": addresses
    }  # fmt: skip
    # As they are written, since folders are named after them, and in their order, so that no file changes by itself.
    assert answered["served"] == [*names[:1], *(domain for domain in domains if not domain.endswith("example"))]


def test_an_apps_headers_are_put_over_the_common_ones_whatever_their_case(filters: Any) -> None:
    common = {"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "X-Gone": "1"}
    app = {"headers": {"x-frame-options": "SAMEORIGIN", "X-Gone": "", "X-Number": 7}}
    assert filters["sent_headers"](app, common) == [
        ("Referrer-Policy", "no-referrer"), ("X-Number", "7"), ("x-frame-options", "SAMEORIGIN")
    ]  # fmt: skip


def test_a_text_is_quoted_as_nginx_reads_it(filters: Any) -> None:
    assert filters["nginx_text"]('say "no\\";') == r'"say \"no\\\";"'


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


# --- the version asked for on the command line

GIT = {"name": "news", "source": "git+https://example.org/news.git", "version": "main"}
PACKAGE = {"name": "blog", "source": "blog[extra]==1.2", "version": ""}


@pytest.mark.parametrize(
    ("apps", "only", "version", "sources"),
    [
        ([GIT, PACKAGE], "", "", [("main", GIT["source"]), ("", PACKAGE["source"])]),
        ([GIT, PACKAGE], "news", "", [("main", GIT["source"]), ("", PACKAGE["source"])]),
        ([GIT, PACKAGE], "news", "v2", [("v2", GIT["source"]), ("", PACKAGE["source"])]),
        ([GIT, PACKAGE], "blog", "1.3", [("main", GIT["source"]), ("", "blog[extra]==1.3")]),
        ([GIT, PACKAGE], "", "v2", [("main", GIT["source"]), ("", PACKAGE["source"])]),  # of which of the two?
        ([GIT], "", "v2", [("v2", GIT["source"])]),
        ([PACKAGE], "", "1.3", [("", "blog[extra]==1.3")]),
        ([PACKAGE], "news", "v2", [("", PACKAGE["source"])]),  # it is for an app that another host has
        ([], "", "v2", []),
        ([], "news", "v2", []),
    ],
)
def test_a_version_asked_for_replaces_that_of_the_one_app_it_is_for(
    filters: Any, apps: list[dict[str, str]], only: str, version: str, sources: list[tuple[str, str]]
) -> None:
    before = [dict(app) for app in apps]
    found = filters["at_version"](apps, only, version)
    assert [(app["version"], app["source"]) for app in found] == sources
    assert [app["name"] for app in found] == [app["name"] for app in apps]
    assert apps == before, "the inventory's own entries stay as they are"


# --- SQLite databases


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("sqlite:////srv/news/shared/news.db", "/srv/news/shared/news.db"),
        ("sqlite+pysqlite:////srv/news/shared/news.db", "/srv/news/shared/news.db"),
        ("sqlite:////srv/news/shared/instance/news.db?timeout=5&uri=true", "/srv/news/shared/instance/news.db"),
        ("sqlite:////srv/news/shared/two words.db", "/srv/news/shared/two words.db"),
        ("sqlite:///news.db", ""),
        ("sqlite:///shared/news.db", ""),
        ("sqlite://", ""),
        ("sqlite:///:memory:", ""),
        ("sqlite:////tmp/news.db", ""),
        ("sqlite:////srv/blog/shared/blog.db", ""),
        ("sqlite:////srv/news/shared-too/news.db", ""),
        ("sqlite:////srv/news/current/news.db", ""),
        ("postgresql:////srv/news/shared/news.db", ""),
        ("/srv/news/shared/news.db", ""),
        ("see sqlite:////srv/news/shared/news.db", ""),
        (30, ""),
    ],
)
def test_sqlite_databases_in_the_shared_folder_are_found_in_urls(filters: Any, value: object, found: str) -> None:
    for environment, secrets in (({"URL": value}, {}), ({}, {"URL": value})):
        app = {"name": "news", "sqlite": [], "environment": environment, "secrets": secrets}
        assert filters["sqlite_files"](app) == ([found] if found else [])


def test_each_database_is_listed_once_and_those_that_the_app_names_stand_for_all(filters: Any) -> None:
    url = "sqlite:////srv/news/shared/{}.db"
    environment = {"A": url.format("b"), "B": url.format("a"), "C": url.format("b") + "?x=1"}
    app = {"name": "news", "sqlite": [], "environment": environment, "secrets": {"D": url.format("c")}}
    assert filters["sqlite_files"](app) == [f"/srv/news/shared/{name}.db" for name in "abc"]
    named = {**app, "sqlite": ["instance/x.db", "y.db"]}
    assert filters["sqlite_files"](named) == ["/srv/news/shared/instance/x.db", "/srv/news/shared/y.db"]


# --- numbers that have to go together


@pytest.mark.parametrize("harakiri", [1, 5, 60, 600, 86400])
@pytest.mark.parametrize("cores", [0, 1, 2, 64])
@pytest.mark.parametrize(("processes", "threads"), [(None, None), (3, None), (None, 2), (1, 1)])
def test_numbers_follow_from_the_host_and_the_operators_come_first(
    processes: int | None, threads: int | None, harakiri: int, cores: int
) -> None:
    found = numbers(processes=processes, threads=threads, harakiri=harakiri, cores=cores)
    assert found["harakiri"] == harakiri
    # The worker is killed and named in the journal before the client is told.
    assert found["harakiri"] < found["read_timeout"]
    assert found["processes"] == (processes or max(cores, 1)) >= 1
    assert found["threads"] == (threads or found["threads"]) >= 1
    assert found["buffer_size"] <= 0xFFFF, "uWSGI's packets have a length of 16 bits"


@pytest.mark.parametrize(
    ("processes", "worker_memory", "cores", "memory_mb", "each"),
    [
        (None, None, 1, 1024, 512),
        (None, None, 4, 8192, 1024),
        (3, None, 64, 8192, 1365),  # of the workers that there are, not of the cores
        (None, None, 4, 2048, 256),
        (None, None, 4, 2047, 256),  # with less, a worker would be replaced all the time
        (None, None, 64, 1024, 256),
        (None, None, 0, 0, 256),
        (None, 64, 4, 8192, 64),
        (2, 9000, 4, 8192, 9000),
    ],
)
def test_a_workers_memory_follows_from_the_hosts_and_the_operators_comes_first(
    processes: int | None, worker_memory: int | None, cores: int, memory_mb: int, each: int
) -> None:
    found = numbers(processes=processes, worker_memory=worker_memory, cores=cores, memory_mb=memory_mb)
    assert found["worker_memory"] == each


@pytest.mark.parametrize(("health_timeout", "start"), [(1, 120), (120, 120), (300, 300)])
def test_import_may_take_as_long_as_the_app_may_to_become_healthy(health_timeout: int, start: int) -> None:
    assert numbers(health_timeout=health_timeout)["start_timeout"] == start


@pytest.mark.parametrize("memory_mb", [512, 1000, 2048, 8191, 65536, 999_999])
@pytest.mark.parametrize("processes", [1, 2, 3, 7, 64])
def test_the_workers_of_an_app_take_no_more_than_half_of_the_host_where_it_has_enough(
    processes: int, memory_mb: int
) -> None:
    found = numbers(processes=processes, memory_mb=memory_mb)
    # The other half is for the release that starts beside this one.
    assert processes * found["worker_memory"] <= max(memory_mb // 2, processes * 256)
    assert found["worker_memory"] >= 256


def test_an_apps_numbers_are_worked_out_for_the_host_that_release_state_told_of(filters: Any) -> None:
    host = {"cores": 4, "memory_mb": 8192, "python": "3.11.2", "uwsgi": "2.0.21"}
    app = {"name": "news", "processes": None, "threads": None, "worker_memory": None, "harakiri": "60"}
    app["health_timeout"] = "30"
    assert filters["tuning"](app, host) == numbers(cores=4, memory_mb=8192)
    own = {"processes": 3, "threads": 2, "worker_memory": 300}
    assert filters["tuning"]({**app, **own}, host) == numbers(**own, cores=4, memory_mb=8192)
    assert filters["tuning"](app, host)["harakiri"] == 60


def test_uwsgi_takes_every_header_that_nginx_lets_through() -> None:
    buffers, size = defaults("nginx")["nginx_large_header_buffers"], 8 * 1024
    # The request line is one of these buffers, and is passed on twice: as REQUEST_URI, and as path and query.
    # 4 KiB are for the names of the variables and for those that NGINX adds.
    assert numbers()["buffer_size"] >= (buffers + 1) * size + 4096
    text = (ROOT / "roles/nginx/templates/nginx.conf.j2").read_text()
    assert re.search(r"large_client_header_buffers \{\{ nginx_large_header_buffers \}\} 8k;", text)


def test_the_kernel_queues_as_many_connections_as_the_socket_asks_for() -> None:
    assert defaults("uwsgi")["uwsgi_backlog"] <= defaults("host")["host_sysctl"]["net.core.somaxconn"]


def test_a_stop_waits_longer_than_a_request_may_take() -> None:
    assert numbers()["stop_timeout"] > numbers()["read_timeout"] > numbers()["harakiri"]
    text = (ROOT / "roles/flask_app/templates/release_drop_in.conf.j2").read_text()
    assert "TimeoutStopSec={{ _flask_app_tuning.stop_timeout }}s" in text


def test_the_old_releases_queue_is_waited_for_longer_than_nginx_waits(plugin: Callable[[str, str], ModuleType]) -> None:
    documentation = yaml.safe_load(plugin("modules", "release_drain").DOCUMENTATION)
    harakiri = options()["harakiri"]["default"]
    assert documentation["options"]["seconds"]["default"] > numbers(harakiri=harakiri)["read_timeout"]


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
