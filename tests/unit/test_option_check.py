"""Bad input gets one clear message, with all that is wrong, before anything on a host is touched."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "plugins" / "module_utils"))

import option_check  # noqa: E402
from option_check import UNUSABLE, CannotEvaluate, Evaluator, Report  # noqa: E402

ROLES = option_check.load_roles(ROOT / "roles")
SECRET = "hunter2-is-secret"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a directory like an app's."""
    folder = tmp_path / "app"
    for name in ("newsboard/static", "newsboard/pages", "tests", "src/inner"):
        (folder / name).mkdir(parents=True)
    for name in (
        "newsboard/__init__.py",
        "newsboard/web.py",
        "wsgi.py",
        "requirements.txt",
        "tests/__init__.py",
        "src/inner/__init__.py",
    ):
        (folder / name).touch()
    return folder


def good(source: Path) -> dict[str, Any]:
    return {
        "flask_apps": [
            {
                "name": "newsboard",
                "domains": ["news.example.org", "www.news.example.org", "192.0.2.7", "2001:db8::7"],
                "source": str(source),
                "wsgi": 'newsboard:create_app("production", debug=False)',
                "health_path": "/status",
                "environment": {"PAGE_SIZE": "30", "WORKERS": 3, "RATIO": 0.5, "EMPTY": ""},
                "secrets": {"SECRET_KEY": SECRET},
                "static": {"/static/": "newsboard/static"},
                "max_body": "1m",
                "processes": 2,
                "threads": "4",
                "relax": ["jit"],
                "shared": ["uploads", "instance/media"],
                "sqlite": ["news.db", "data/old.db"],
                "worker_memory": 64,
                "headers": {"X-Frame-Options": "DENY", "Permissions-Policy": "", "X-Number": 7},
                "limits": {"requests": 20, "burst": 0, "connections": "10"},
                "maintenance": {"addresses": ["192.0.2.1", "2001:db8::/32"], "retry_after": 60},
                "cache": {"paths": ["/", "/story/*", "/feed.xml"], "seconds": "2", "cookies": ["_ga"], "size": "1g"},
            },
            {"name": "second", "domains": ["second.example.org"], "source": "newsboard==1.2", "wsgi": "a.b:app"},
            {
                "name": "third",
                "domains": ["third.example.org"],
                "source": "git+https://git.example.org/third.git",
                "version": "v1.2",
                "wsgi": "third:app",
            },
        ],
        "nginx_access_log": "yes",
        "nginx_tls": "modern",
        "nginx_trusted_proxies": ["192.0.2.0/24", "2001:db8::1"],
        "uwsgi_backlog": 1024,
        "host_packages": ["htop", "libpq-dev:amd64"],
        "host_timezone": "Europe/Copenhagen",
        "flask_app_keep": "3",
        "flask_app_lock_limit": 60,
        "flask_app_break_lock": "0123456789ab",
        "flask_app_to": "20260101T000000Z-0123abcd",
    }


def evaluator(variables: dict[str, Any], encrypted: tuple[str, ...] = ()) -> Evaluator:
    """One whose templates are {{ name }} within text, and in which some values are encrypted."""

    def evaluate(value: object) -> object:
        if not isinstance(value, str) or "{{" not in value:
            return value
        names = re.findall(r"\{\{ *(\w+)", value)
        for name in names:
            if name not in variables:
                raise CannotEvaluate(f"'{name}' is undefined")
        return re.sub(r"\{\{ *(\w+) *\}\}", lambda match: str(variables[match[1]]), value)

    return Evaluator(
        variables,
        evaluate,
        lambda value: value in encrypted if isinstance(value, str) else False,
        written=lambda value: option_check.Written("apps.yml, line 7", str(value)),
    )


def problems(variables: dict[str, Any], encrypted: tuple[str, ...] = ()) -> list[str]:
    report, _ = option_check.check_host(ROLES, evaluator(variables, encrypted))
    return [str(problem) for problem in report.problems]


def test_good_options_have_no_problem(source: Path) -> None:
    assert problems(good(source)) == []


def test_a_host_needs_nothing_but_its_apps() -> None:
    assert problems({"flask_apps": []}) == []


# --- one app: what is changed in the first app, where it is told, and what is told

APP: list[tuple[dict[str, Any], str, str]] = [
    # keys and types
    ({"helth_path": "/status"}, "flask_apps[0].helth_path (newsboard)", "no such option. Did you mean health_path?"),
    ({"env": {}}, "flask_apps[0].env (newsboard)", "Did you mean environment?"),
    ({"wsgi": None}, "flask_apps[0].wsgi (newsboard)", "no value"),
    ({"domains": "news.example.org"}, 'domains (newsboard) = "news.example.org"', "a list. Write [news.example.org]."),
    ({"domains": {"a": 1}}, "flask_apps[0].domains", "must be a list. For example: domains: [news.example.org]"),
    ({"environment": ["A=1"]}, "flask_apps[0].environment", 'a mapping. For example: environment: {PAGE_SIZE: "30"}'),
    ({"version": 1.1}, "flask_apps[0].version (newsboard) = 1.1", "put it in quotes"),
    ({"migrate": True}, "flask_apps[0].migrate (newsboard) = true", "put it in quotes"),
    ({"processes": "many"}, 'flask_apps[0].processes (newsboard) = "many"', "whole number"),
    ({"processes": True}, "flask_apps[0].processes (newsboard) = true", "whole number"),
    ({"relax": ["jitt"]}, 'flask_apps[0].relax[0] (newsboard) = "jitt"', "Did you mean jit?"),
    # numbers
    ({"processes": 0}, "flask_apps[0].processes (newsboard) = 0", "1 to 1024"),
    ({"threads": 1025}, "flask_apps[0].threads (newsboard) = 1025", "1 to 1024"),
    ({"harakiri": 0}, "flask_apps[0].harakiri (newsboard) = 0", "at least 1"),
    ({"migrate_timeout": 0}, "flask_apps[0].migrate_timeout (newsboard) = 0", "at least 1"),
    ({"health_timeout": 0}, "flask_apps[0].health_timeout (newsboard) = 0", "at least 1"),
    ({"worker_memory": 63}, "flask_apps[0].worker_memory (newsboard) = 63", "at least 64"),
    # name
    ({"name": "News_Board"}, 'flask_apps[0].name (News_Board) = "News_Board"', 'Perhaps "news-board".'),
    ({"name": "a" * 25}, "flask_apps[0].name", "2 to 24 lower-case letters"),
    ({"name": "news-"}, "flask_apps[0].name", 'Perhaps "news".'),
    ({"name": "www-data"}, 'flask_apps[0].name (www-data) = "www-data"', "a Debian account"),
    ({"name": "nginx"}, "flask_apps[0].name", "a unit of systemd or of a Debian package"),
    ({"name": "systemd-news"}, "flask_apps[0].name", "a unit or account of systemd"),
    ({"name": "lock"}, "flask_apps[0].name", "an entry of /run"),
    ({"name": "second"}, "flask_apps[1].name (second)", "flask_apps[0] has the same name"),
    # domains
    ({"domains": []}, "flask_apps[0].domains (newsboard)", "empty"),
    ({"domains": [""]}, "flask_apps[0].domains[0]", "is empty"),
    ({"domains": ["https://news.example.org/"]}, "flask_apps[0].domains[0]", 'scheme. Write "news.example.org".'),
    ({"domains": ["news.example.org:443"]}, "flask_apps[0].domains[0]", 'without a port. Write "news.example.org".'),
    ({"domains": ["news.example.org/x"]}, "flask_apps[0].domains[0]", 'without a path. Write "news.example.org".'),
    ({"domains": ["*.example.org"]}, "flask_apps[0].domains[0]", "Wildcards can't be used"),
    ({"domains": ["news_board.example.org"]}, "flask_apps[0].domains[0]", 'mean "news-board.example.org"?'),
    ({"domains": ["news.example.org."]}, "flask_apps[0].domains[0]", "without the dot at its end"),
    ({"domains": ["bücher.example.org"]}, "flask_apps[0].domains[0]", '"xn--bcher-kva.example.org"'),
    ({"domains": ["a.example.org b.example.org"]}, "flask_apps[0].domains[0]", "one entry of the list for each"),
    ({"domains": ["192.0.2.300"]}, "flask_apps[0].domains[0]", "looks like an IPv4 address"),
    ({"domains": ["[2001:db8::7]"]}, "flask_apps[0].domains[0]", "without brackets"),
    ({"domains": ["-a.example.org"]}, "flask_apps[0].domains[0]", "must be a host name or an address"),
    ({"domains": ["a.example.org", "A.Example.ORG"]}, "flask_apps[0].domains[1]", "same domain is flask_apps[0].dom"),
    ({"domains": ["2001:db8::7", "2001:DB8:0::7"]}, "flask_apps[0].domains[1]", "the same domain"),
    ({"domains": ["second.example.org"]}, "flask_apps[1].domains[0] (second)", "flask_apps[0].domains[0] of newsboard"),
    # source
    ({"source": "{base}/ap"}, "flask_apps[0].source", "Looked at {base}/ap. Did you mean {base}/app?"),
    ({"source": "{base}/app/wsgi.py"}, "flask_apps[0].source", "it is a file"),
    ({"source": "newsboard"}, "flask_apps[0].source", "If it is a package, pin it: newsboard==1.2"),
    ({"source": "~/app"}, "flask_apps[0].source", "~ isn't replaced"),
    ({"source": "newsboard>=1.2"}, "flask_apps[0].source", "must be pinned to one version"),
    ({"source": "newsboard==1.*"}, "flask_apps[0].source", "must be pinned to one version"),
    ({"source": "git+http://git.example.org/x"}, "flask_apps[0].source", "neither encrypted nor authentic"),
    ({"source": "git+ftp://git.example.org/x"}, "flask_apps[0].source", "git+https://host/path"),
    ({"source": "git+https://git.example.org/x@v1"}, "flask_apps[0].source", "goes into version"),
    ({"source": "https://git.example.org/x.git"}, "flask_apps[0].source", '"git+https://git.example.org/x.git"'),
    ({"source": "git@git.example.org:x.git"}, "flask_apps[0].source", '"git+ssh://git@git.example.org/x.git"'),
    ({"source": f"git+https://u:{SECRET}@git.example.org/x"}, "flask_apps[0].source", "password or token"),
    ({"source": "/" + "a" * 300}, "flask_apps[0].source", "it can't be read on this machine. File name too long."),
    ({"source": "/a\0b"}, "flask_apps[0].source", "no such directory"),
    ({"wsgi": "a" * 300 + ":app"}, "flask_apps[0].source", "something in it can't be read"),
    ({"version": "v1.2"}, "flask_apps[0].version", "for git sources only"),
    ({"version": "--upload-pack=x"}, "flask_apps[0].version", "must be a branch, tag or commit"),
    # what is in the source
    ({"requirements": "reqs.txt"}, 'requirements (newsboard) = "reqs.txt"', "nor a pyproject.toml"),
    ({"requirements": "../requirements.txt"}, "flask_apps[0].requirements", "below source"),
    ({"requirements": "/requirements.txt"}, "flask_apps[0].requirements", "below source"),
    ({"wsgi": "newsbord:app"}, 'wsgi (newsboard) = "newsbord:app"', 'Did you mean "newsboard:app"?'),
    ({"wsgi": "newsboard.wbe:app"}, "flask_apps[0].wsgi", 'Did you mean "newsboard.web:app"?'),
    ({"wsgi": "inner:app"}, "flask_apps[0].wsgi", "It is in src/"),
    ({"wsgi": "inner:app", "environment": {"PYTHONPATH": "/src"}}, "flask_apps[0].wsgi", "It is in src/"),
    ({"wsgi": "inner:app", "environment": {"PYTHONPATH": "src"}, "exclude": ["src"]}, "wsgi", "exclude has src"),
    ({"wsgi": "entirely_other:app"}, "flask_apps[0].wsgi", "which has newsboard, tests, wsgi."),
    ({"wsgi": "tests:app"}, "flask_apps[0].wsgi", "exclude has tests"),
    # wsgi
    ({"wsgi": "newsboard"}, "flask_apps[0].wsgi", 'Perhaps "newsboard:app".'),
    ({"wsgi": "newsboard/web.py:app"}, "flask_apps[0].wsgi", 'Perhaps "newsboard.web:app".'),
    ({"wsgi": "newsboard:create_app(os.environ)"}, "flask_apps[0].wsgi", "arguments must be literals"),
    ({"wsgi": "newsboard:create_app(**{})"}, "flask_apps[0].wsgi", "arguments must be literals"),
    ({"wsgi": "newsboard:create_app("}, "flask_apps[0].wsgi", "isn't Python"),
    ({"wsgi": "newsboard:f()()"}, "flask_apps[0].wsgi", "must be module:callable"),
    ({"wsgi": "newsboard:a if b else c"}, "flask_apps[0].wsgi", "must be module:callable"),
    # the rest
    ({"health_path": "status"}, "flask_apps[0].health_path", 'Write "/status".'),
    ({"health_path": "/a b"}, "flask_apps[0].health_path", "without blanks"),
    ({"health_path": "/a$b"}, "flask_apps[0].health_path", "dollars"),
    ({"max_body": "99999999999999g"}, "flask_apps[0].max_body", "at most 9 digits"),
    (
        {"cache": {"paths": ["/"], "cookies": [f"{number:100}".replace(" ", "c") for number in range(50)]}},
        "flask_apps[0].cache.cookies",
        "at most 4000",
    ),
    ({"max_body": "16 MB"}, "flask_apps[0].max_body", "Write 16m."),
    ({"migrate": "a\0b"}, "flask_apps[0].migrate", "NUL"),
    ({"static": {"static": "newsboard/static"}}, "flask_apps[0].static.static", 'Write "/static/".'),
    ({"static": {"/": "newsboard/static"}}, 'flask_apps[0].static["/"]', "begin and end with a slash, with a name"),
    ({"static": {"/s/": "newsboard/statics"}}, 'flask_apps[0].static["/s/"]', "no such directory in source"),
    ({"static": {"/s/": "../x"}}, 'flask_apps[0].static["/s/"]', "without '..'"),
    ({"static": {"/s/": "/srv"}}, 'flask_apps[0].static["/s/"]', "not absolute"),
    ({"static": {"/s/": 3}}, 'flask_apps[0].static["/s/"]', "must be a folder below source"),
    ({"static": {"/s/": "tests"}}, 'flask_apps[0].static["/s/"]', "exclude has tests"),
    # what outlives a release
    ({"shared": "uploads"}, "flask_apps[0].shared (newsboard)", "Write [uploads]."),
    ({"shared": {"uploads": 1}}, "flask_apps[0].shared (newsboard)", "shared: [uploads, instance/media]"),
    ({"shared": ["/var/uploads"]}, 'flask_apps[0].shared[0] (newsboard) = "/var/uploads"', "not absolute"),
    ({"shared": ["/srv/newsboard/shared/a/b"]}, "flask_apps[0].shared[0]", 'Write "a/b".'),
    ({"shared": ["a", "../uploads"]}, "flask_apps[0].shared[1]", "without '..'"),
    ({"shared": ["a/../b"]}, "flask_apps[0].shared[0]", "without '..'"),
    ({"shared": [""]}, "flask_apps[0].shared[0]", "must be a path below the app's shared folder"),
    ({"shared": ["."]}, "flask_apps[0].shared[0]", "written without '.'"),
    ({"shared": ["./uploads"]}, "flask_apps[0].shared[0]", 'Write "uploads".'),
    ({"shared": ["uploads/"]}, "flask_apps[0].shared[0]", 'Write "uploads".'),
    ({"shared": ["a//b"]}, "flask_apps[0].shared[0]", 'Write "a/b".'),
    ({"shared": ["uploads "]}, "flask_apps[0].shared[0]", "without blanks"),
    ({"shared": ["uploads\n"]}, "flask_apps[0].shared[0]", "without blanks"),
    ({"shared": ["a\0b"]}, "flask_apps[0].shared[0]", "without blanks"),
    ({"shared": ["uploads/*"]}, "flask_apps[0].shared[0]", "no pattern"),
    ({"shared": ["a", "b", "a"]}, "flask_apps[0].shared[2]", "flask_apps[0].shared[0] is the same"),
    ({"shared": ["a/b", "c", "a"]}, "flask_apps[0].shared[0]", "below flask_apps[0].shared[2], which brings it along"),
    (
        {"shared": ["newsboard"], "static": {}},
        'shared[0] (newsboard) = "newsboard"',
        "or take it out of shared. It has newsboard/__",
    ),
    ({"shared": ["wsgi.py"]}, "flask_apps[0].shared[0]", "the link would hide. Exclude it"),
    ({"shared": ["wsgi.py/deep"]}, "flask_apps[0].shared[0]", "It has wsgi.py."),
    ({"sqlite": ["/srv/newsboard/shared/news.db"]}, "flask_apps[0].sqlite[0]", 'Write "news.db".'),
    ({"sqlite": ["sqlite:////srv/newsboard/shared/news.db"]}, "flask_apps[0].sqlite[0]", 'Write "news.db".'),
    ({"sqlite": ["/var/news.db"]}, "flask_apps[0].sqlite[0]", "not absolute"),
    ({"sqlite": ["../news.db"]}, "flask_apps[0].sqlite[0]", "without '..'"),
    ({"sqlite": ["news.db", "news.db"]}, "flask_apps[0].sqlite[1]", "flask_apps[0].sqlite[0] is the same"),
    # hooks
    ({"hooks": ["/a.yml"]}, "flask_apps[0].hooks (newsboard)", "must be a mapping. For example: hooks: {after_act"),
    (
        {"hooks": {"before_migrat": "/a"}},
        "flask_apps[0].hooks.before_migrat (newsboard)",
        "Did you mean before_migrate?",
    ),
    ({"hooks": {"before_start": None}}, "flask_apps[0].hooks.before_start", "there is no such option"),
    ({"hooks": {"before_migrate": None}}, "flask_apps[0].hooks.before_migrate", "no value"),
    ({"hooks": {"before_migrate": "hooks/a.yml"}}, "hooks.before_migrate (newsboard)", '"{{ inventory_dir }}/../hooks'),
    ({"hooks": {"after_activate": "~/a.yml"}}, "flask_apps[0].hooks.after_activate", "must be an absolute path"),
    ({"environment": {"DEBUG": True}}, "flask_apps[0].environment.DEBUG (newsboard) = true", "YAML makes true of yes"),
    ({"environment": {"1ST": "x"}}, "flask_apps[0].environment.1ST", "the name must be letters"),
    ({"environment": {"A": None}}, "flask_apps[0].environment.A", 'Write "" for an empty one'),
    ({"environment": {"A": [1]}}, "flask_apps[0].environment.A", "as JSON, in quotes"),
    ({"environment": {"A": "x\0y"}}, "flask_apps[0].environment.A", "NUL"),
    ({"environment": {"SECRET_KEY": "x"}}, "flask_apps[0].environment.SECRET_KEY", "same name is in secrets"),
    ({"environment": {"NOTIFY_SOCKET": "x"}}, "flask_apps[0].environment.NOTIFY_SOCKET", "systemd sets it"),
    ({"environment": {"PATH": "x"}}, "flask_apps[0].environment.PATH", "venv comes first"),
    ({"environment": {"UWSGI_HTTP": "x"}}, "flask_apps[0].environment.UWSGI_HTTP", "uWSGI reads it as an option"),
    (
        {"environment": {"A": "{{ nowhere }}"}},
        "environment.A (newsboard)",
        "the variable nowhere, which is not defined",
    ),
    ({"secrets": {"FLAG": True}}, "flask_apps[0].secrets.FLAG", "put it in quotes"),
    ({"secrets": {f"KEY={SECRET}": "x"}}, "flask_apps[0].secrets[0]", "the name must be letters"),
]


@pytest.mark.parametrize(("change", "where", "what"), APP, ids=[f"{next(iter(row[0]))}-{row[2][:28]}" for row in APP])
def test_a_bad_app_is_told(source: Path, change: dict[str, Any], where: str, what: str) -> None:
    base = str(source.parent)
    change = {key: value.replace("{base}", base) if isinstance(value, str) else value for key, value in change.items()}
    variables = good(source)
    variables["flask_apps"][0] |= change
    found = problems(variables)
    what = what.replace("{base}", base)
    assert len(found) == 1, found
    assert where in found[0]
    assert what in found[0]
    assert SECRET not in found[0]


@pytest.mark.parametrize("key", ["name", "domains", "source", "wsgi"])
def test_a_missing_key_is_told_with_what_it_is_for(source: Path, key: str) -> None:
    variables = good(source)
    del variables["flask_apps"][0][key]
    (found,) = problems(variables)
    options: Any = ROLES["flask_app"].options["flask_apps"]["options"]
    meaning = option_check.first_sentence(options[key])
    assert f"{key} is missing: {meaning}" in found
    assert f"For example: {key}: " in found


def test_a_misspelt_required_key_is_told_once(source: Path) -> None:
    variables = good(source)
    variables["flask_apps"][0]["wsgy"] = variables["flask_apps"][0].pop("wsgi")
    assert problems(variables) == ["flask_apps[0].wsgy (newsboard): there is no such option. Did you mean wsgi?"]


@pytest.mark.parametrize(
    "change",
    [
        {"wsgi": "newsboard:app.wsgi_app"},
        {"wsgi": "newsboard.web:make(1, ['a'], key={'b': None})"},
        {"wsgi": "wsgi:application"},
        {"domains": ["xn--bcher-kva.example.org"]},
        {"domains": ["localhost"]},
        {"max_body": "0"},
        {"max_body": 1048576},
        {"source": "git+ssh://git@git.example.org/x.git"},
        {"source": "git+file:///srv/git/x.git"},
        {"source": "news_board[extra]==1.2.post1"},
        {"static": {"/static/deep/": "newsboard/static"}},
        {"harakiri": 89},
        {"shared": ["a", "ab", "a-b/c", "a-b/d", ".well-known"]},
        {"shared": ["tests", "src/empty", "newsboard/pages"]},
        {"sqlite": [], "shared": [], "hooks": {}},
    ],
    ids=str,
)
def test_unusual_but_good_values_pass(source: Path, change: dict[str, Any]) -> None:
    variables = good(source)
    if "source" in change:
        variables["flask_apps"][0].pop("static")
    variables["flask_apps"][0] |= change
    assert problems(variables) == []


def test_the_hint_for_a_src_layout_leads_to_an_entry_that_is_right(source: Path) -> None:
    variables = good(source)
    app = variables["flask_apps"][0]
    app["wsgi"] = "inner:app"
    (found,) = problems(variables)
    (hint,) = re.findall(r"Set (environment: \{.*\})\.", found)
    app |= yaml.safe_load(hint)
    assert problems(variables) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("./wheels/a-1.0-py3-none-any.whl", "./wheels/a-1.0-py3-none-any.whl is a path"),
        ("wheels/a-1.0-py3-none-any.whl", "wheels/a-1.0-py3-none-any.whl is a path"),
        ("a @ ./wheels/a-1.0-py3-none-any.whl ; python_version > '3'", "is a path"),
        ("a[b] @ file:wheels/a-1.0-py3-none-any.whl", "is a path"),
        (".", ". would be built on the host"),
        (".[extra]", ".[extra] would be built on the host"),
        ("../library", "../library would be built on the host"),
        ("--find-links wheels", "--find-links wheels is a folder of the source"),
        ("-f ./wheels", "--find-links ./wheels is a folder of the source"),
        ("--find-links=wheels", "--find-links wheels is a folder of the source"),
        ("--find-links https://wheels.example.org/", ""),
        ("--find-links /opt/wheels", ""),
        ("--extra-index-url https://packages.example.org/simple", ""),
        ("a @ https://wheels.example.org/a-1.0-py3-none-any.whl", ""),
        ("a @ file:///opt/wheels/a-1.0-py3-none-any.whl", ""),
        ("/opt/wheels/a-1.0-py3-none-any.whl", ""),
        ("zope.interface[x]==5 ; python_version > '3'  # ./here", ""),
    ],
)
def test_what_a_host_would_not_find_is_told_with_file_and_line(source: Path, line: str, what: str) -> None:
    (source / "requirements").mkdir()
    (source / "requirements.txt").write_text("flask\n-r requirements/base.txt\n")
    (source / "requirements" / "base.txt").write_text(f"-c ../requirements.txt\n\n{line}\n")
    found = problems(good(source))
    assert len(found) == bool(what), found
    if what:
        assert (
            'flask_apps[0].requirements (newsboard) = "requirements.txt": requirements/base.txt, line 3: ' in found[0]
        )
        assert what in found[0]


def test_a_module_that_a_requirement_brings_needs_no_file(source: Path) -> None:
    variables = good(source)
    variables["flask_apps"][0]["wsgi"] = "news_site:app"
    assert "no news_site.py" in problems(variables)[0]
    (source / "requirements.txt").write_text("# pinned\nNews-Site==1.2 --hash=sha256:00\n")
    assert problems(variables) == []


def test_requirements_that_would_run_code_of_others_are_refused_by_file_and_line(source: Path) -> None:
    (source / "requirements.txt").write_text("flask\n-r more/base.txt\n-e ./src\n")
    (source / "more").mkdir()
    (source / "more" / "base.txt").write_text("# pinned\n--no-binary docopt\n")
    found = problems(good(source))
    assert len(found) == 2
    assert "flask_apps[0].requirements" in found[0] and "requirements.txt, line 3: -e ./src would be" in found[0]
    assert "more/base.txt, line 2: --no-binary" in found[1]


def test_a_requirements_file_that_releases_do_without_is_refused(source: Path) -> None:
    (source / "requirements.txt").write_text("-r venv/base.txt\n-r ../base.txt\n")
    (source / "venv").mkdir()
    for path in (source / "venv" / "base.txt", source.parent / "base.txt"):
        path.touch()
    options = good(source)
    options["flask_apps"][0]["exclude"] = ["venv"]
    found = problems(options)
    assert len(found) == 2 and all("is not in the source as it is released" in text for text in found)


PYPROJECT = '[project]\nname = "news"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = []\n'


def test_pyproject_stands_in_for_requirements(source: Path) -> None:
    (source / "requirements.txt").unlink()
    (source / "pyproject.toml").write_text(PYPROJECT)
    assert problems(good(source)) == []


@pytest.mark.parametrize(
    ("lock", "command"),
    [
        ("uv.lock", "uv export --no-dev --no-emit-project --output-file requirements.txt"),
        ("poetry.lock", "poetry export --output requirements.txt"),
        ("pdm.lock", "pdm export --prod --output requirements.txt"),
        ("Pipfile.lock", "Run pipenv requirements --hash > requirements.txt in the source"),
        ("Pipfile", "pipenv lock && pipenv requirements --hash > requirements.txt"),
        ("pylock.toml", "uv pip sync pylock.toml && uv pip freeze > requirements.txt"),
        ("pylock.prod.toml", "uv pip sync pylock.prod.toml"),
    ],
)
def test_a_lock_that_is_not_read_is_told_with_the_command_that_exports_it(
    source: Path, lock: str, command: str
) -> None:
    variables = good(source)
    (source / lock).touch()
    assert problems(variables) == [], "beside a requirements file it is not asked for"
    (source / "requirements.txt").unlink()
    for pyproject in ("", PYPROJECT):
        (source / "pyproject.toml").write_text(pyproject)
        (found,) = problems(variables)
        assert f'requirements (newsboard) = "requirements.txt": {lock} isn\'t read' in found
        assert command in found
    variables["flask_apps"][0]["exclude"] = [lock]
    assert problems(variables) == []


def test_the_command_that_exports_a_lock_makes_what_is_asked_for(source: Path, tmp_path: Path) -> None:
    (source / "requirements.txt").unlink()
    (source / "pyproject.toml").write_text(PYPROJECT)
    uv = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "UV_OFFLINE": "1"}
    uv["UV_CACHE_DIR"], uv["UV_PYTHON"] = str(tmp_path / "cache"), sys.executable
    subprocess.run(["uv", "lock", "--quiet"], cwd=source, env=uv, check=True)
    (found,) = problems(good(source))
    (command,) = re.findall(r"Run (.*) in the source", found)
    subprocess.run(command, shell=True, cwd=source, env=uv, check=True, capture_output=True)
    assert problems(good(source)) == []


@pytest.mark.parametrize(
    "text",
    ["", "[tool.poetry.dependencies]\n", '[project]\nname = "a"\ndynamic = ["dependencies"]\n',
     '[project]\nname = "a"\n[tool.poetry.dependencies]\n'],
)  # fmt: skip
def test_dependencies_that_only_a_build_could_tell_are_refused(source: Path, text: str) -> None:
    (source / "requirements.txt").unlink()
    (source / "pyproject.toml").write_text(text)
    (found,) = problems(good(source))
    assert "pyproject.toml doesn't list its dependencies in [project]" in found
    (source / "pyproject.toml").write_text("[project\n")
    (found,) = problems(good(source))
    assert "pyproject.toml can't be read" in found


def test_shared_may_be_where_the_source_has_only_what_is_excluded(source: Path) -> None:
    variables = good(source)
    app = variables["flask_apps"][0]
    uploads = source / "uploads"
    (uploads / "__pycache__").mkdir(parents=True)
    (uploads / "__pycache__" / "a.py").touch()
    (uploads / "b.pyc").touch()
    assert problems(variables) == []
    (uploads / "inner").mkdir()
    (uploads / "inner" / ".gitkeep").touch()
    assert problems(variables) == [], "it keeps an empty folder in the repository"
    (uploads / "inner" / ".gitmark").touch()
    assert "It has uploads/inner/.gitmark." in problems(variables)[0]
    app["exclude"] = ["__pycache__", "*.pyc", ".git*"]
    assert problems(variables) == []
    app["exclude"] = ["uploads"]
    assert problems(variables) == []


def test_a_link_in_the_source_is_hidden_by_shared_as_well(source: Path) -> None:
    variables = good(source)
    (source / "uploads").symlink_to("nowhere")
    assert "It has uploads." in problems(variables)[0]
    (source / "uploads").unlink()
    (source / "uploads").mkdir()
    (source / "uploads" / "link").symlink_to("../src")
    assert "It has uploads/link." in problems(variables)[0]


TASKS = """
- name: Old pages are gone from the cache
  ansible.builtin.uri: {url: "https://cache.example.org/{{ release.app }}", method: PURGE}
  vars: {key: !vault "sealed", other: !unsafe "{{"}
"""


@pytest.mark.parametrize("hook", ["before_migrate", "before_activate", "after_activate"])
@pytest.mark.parametrize(
    ("text", "what"),
    [
        (TASKS, ""),
        ("[]", ""),
        ("", "must hold a list of tasks"),
        ("name: x\nansible.builtin.debug:\n", "must hold a list of tasks"),
        ("- one\n- two\n", "must hold a list of tasks"),
        ("- name: x\n - y: [\n", "a.yml, line 2: it isn't YAML."),
        ("- when: 2026-99-99\n", "a.yml: it isn't YAML."),
        ("- hosts: web\n  tasks: []\n", "It holds a playbook"),
        ("- ansible.builtin.import_playbook: b.yml\n", "It holds a playbook"),
    ],
    ids=["tasks", "none", "empty", "mapping", "texts", "no YAML", "no date", "playbook", "import"],
)
def test_a_hook_is_a_file_of_tasks(source: Path, hook: str, text: str, what: str) -> None:
    file = source.parent / "a.yml"
    file.write_text(text)
    variables = good(source) | {"inventory": str(source.parent)}
    variables["flask_apps"][0]["hooks"] = {hook: "{{ inventory }}/a.yml"}
    found = problems(variables)
    assert len(found) == bool(what), found
    if what:
        assert f'flask_apps[0].hooks.{hook} (newsboard) = "{file}"' in found[0]
        assert what in found[0]


def test_a_hook_that_is_no_file_is_told(source: Path) -> None:
    variables = good(source)
    (source.parent / "purge.yml").write_text(TASKS)
    variables["flask_apps"][0]["hooks"] = {
        "before_migrate": f"{source}/none.yml",
        "before_activate": str(source),
        "after_activate": f"{source.parent}/pruge.yml",
    }
    missing, folder, misspelt = problems(variables)
    assert f"there is no such file on this machine. Looked at {source}/none.yml." in missing
    assert "it is a folder" in folder
    assert f"Did you mean {source.parent}/purge.yml?" in misspelt
    (source.parent / "latin.yml").write_bytes(b"- name: caf\xe9\n")
    variables["flask_apps"][0]["hooks"] = {"before_migrate": f"{source.parent}/latin.yml"}
    assert "it isn't YAML" in problems(variables)[0]


@pytest.mark.parametrize("shared", ["newsboard/static", "newsboard/static/uploads", "newsboard"])
def test_what_the_app_writes_is_not_for_nginx_to_serve(source: Path, shared: str) -> None:
    variables = good(source)
    app = variables["flask_apps"][0]
    app["shared"], app["exclude"] = [shared], ["newsboard/nothing"]
    (source / "newsboard" / "static" / ".gitkeep").touch()
    told = [text for text in problems(variables) if "static" in text.partition(" (newsboard)")[0]]
    assert len(told) == 1, problems(variables)
    assert 'flask_apps[0].static["/static/"] (newsboard) = "newsboard/static": a shared folder is in it' in told[0]
    assert "each file there would be a 403. Take it out of static, and have the app send the files." in told[0]
    assert told[0].endswith(f"The shared folder is {shared}.")
    app["shared"] = ["newsboard/static-uploads", "static"]
    assert problems(variables) == []


def test_static_files_of_a_requirement_are_the_apps_to_serve(source: Path) -> None:
    variables = good(source)
    variables["flask_apps"][1]["static"] = {"/static/": "newsboard/static"}
    (found,) = problems(variables)
    assert 'flask_apps[1].static["/static/"] (second): the source is a requirement, and has no folders' in found


# --- certificates of the operator's own


def own_pair(folder: Path, *names: str) -> dict[str, str]:
    """Make a pair in a folder, and return its entry in flask_apps."""
    paths = {"key": str(folder / "key.pem"), "fullchain": str(folder / "fullchain.pem")}
    words = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x",
        "-keyout", paths["key"], "-out", paths["fullchain"], "-addext",
        "subjectAltName=" + ",".join(f"{'IP' if ':' in name or name[0].isdigit() else 'DNS'}:{name}" for name in names),
    ]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True)
    return paths


def test_an_own_pair_is_looked_into(source: Path) -> None:
    variables = good(source)
    variables["flask_apps"][0]["certificate"] = own_pair(source.parent, *variables["flask_apps"][0]["domains"])
    assert problems(variables) == []
    variables["flask_apps"][0]["domains"].append("more.example.org")
    (found,) = problems(variables)
    assert found.startswith("flask_apps[0].certificate.fullchain (newsboard) = ")
    assert "doesn't name more.example.org." in found


def test_an_own_pair_needs_both_files_as_absolute_paths(source: Path) -> None:
    variables = good(source)
    variables["flask_apps"][0]["certificate"] = {"key": "key.pem"}
    missing, relative = sorted(problems(variables))
    assert "fullchain is missing" in missing and "it must be an absolute path." in relative
    variables["flask_apps"][0]["certificate"] = {"key": "/nowhere/key.pem", "fullchain": "/nowhere/chain.pem"}
    assert all("there is no such file on this machine." in text for text in problems(variables))


# --- options beside the apps

HOST: list[tuple[dict[str, Any], str, str]] = [
    ({"nginx_adpot": True}, "nginx_adpot", "Did you mean nginx_adopt?"),
    ({"ngnix_adopt": True}, "ngnix_adopt", "Did you mean nginx_adopt?"),
    ({"uwsgi_backlogs": 1}, "uwsgi_backlogs", "Did you mean uwsgi_backlog?"),
    ({"host_name": "x"}, "host_name", "A variable of your own must not begin with host_"),
    ({"certificate_dir": "x"}, "certificate_dir", "Did you mean certificate_directory?"),
    ({"flask_app_threads": 4}, "flask_app_threads", "threads belongs to one app"),
    ({"flask_apps_": []}, "flask_apps_", "Did you mean flask_apps?"),
    ({"test_host_mirorr": "x"}, "test_host_mirorr", "Did you mean test_host_mirror?"),
    ({"nginx_adopt": "perhaps"}, 'nginx_adopt = "perhaps"', "true or false"),
    ({"nginx_worker_connections": "8k"}, 'nginx_worker_connections = "8k"', "whole number"),
    ({"nginx_large_header_buffers": 8}, "nginx_large_header_buffers = 8", "at most 7"),
    ({"uwsgi_backlog": 4097}, "uwsgi_backlog = 4097", "at most net.core.somaxconn of host_sysctl, which is 4096"),
    ({"host_sysctl": {"net.core.somaxconn": 128}}, "uwsgi_backlog = 1024", "which is 128"),
    ({"host_sysctl": {"net.core.somaxconn": "x"}}, 'host_sysctl["net.core.somaxconn"] = "x"', "whole number"),
    ({"flask_app_keep": 1}, "flask_app_keep = 1", "at least 2: with fewer there is no release to go back to"),
    ({"flask_app_lock_limit": 59}, "flask_app_lock_limit = 59", "at least 60: a run renews its lock twice a minute"),
    ({"flask_app_break_lock": "0123456789a"}, 'flask_app_break_lock = "0123456789a"', "what -e break_lock=… sets"),
    ({"flask_app_break_lock": "0123456789abc"}, "flask_app_break_lock", "12 digits and letters a to f"),
    ({"flask_app_break_lock": "0123456789ag"}, "flask_app_break_lock", "12 digits and letters a to f"),
    ({"flask_app_to": "20260101T000000Z"}, 'flask_app_to = "20260101T000000Z"', "what -e to=… sets"),
    ({"flask_app_to": "2026-01-01T00:00:00Z-0123abcd"}, "flask_app_to", "as 20260101T000000Z-0123abcd"),
    ({"flask_app_to": "20260101T000000Z-0123abcd\n"}, "flask_app_to", "the id of a release"),
    ({"flask_app_to": "previous"}, "flask_app_to", "playbooks/releases.yml lists them"),
    ({"flask_app_versions": "1"}, "flask_app_versions", "Did you mean flask_app_version?"),
    ({"certificate_days": 30}, "certificate_days = 30", "at least 31"),
    (
        {"certificate_acme_directory": "http://a.example.org/d"},
        "certificate_acme_directory",
        "the https URL of a directory",
    ),
    ({"certificate_acme_directory": "acme.example.org"}, "certificate_acme_directory", "the https URL of a directory"),
    ({"certificate_acme_email": "operator"}, 'certificate_acme_email = "operator"', "as in operator@example.org"),
    ({"certificate_acme_ca_file": "/nowhere/ca.pem"}, "certificate_acme_ca_file", "Looked at /nowhere/ca.pem"),
    ({"certificate_acme_eab_kid": "a"}, 'certificate_acme_eab_kid = "a"', "Set certificate_acme_eab_hmac_key as well"),
    ({"certificate_acme_eab_hmac_key": "YQ"}, "certificate_acme_eab_hmac_key", "Set certificate_acme_eab_kid as well"),
    ({"certificate_acme_eab_kid": "a\nb", "certificate_acme_eab_hmac_key": "YQ"}, "certificate_acme_eab_kid", "blanks"),
    ({"host_timezone": "Europe/Copenhagn"}, "host_timezone", "Did you mean Europe/Copenhagen?"),
    ({"host_packages": "htop"}, "host_packages", "Write [htop]."),
    ({"host_packages": ["h top"]}, "host_packages[0]", "name of a Debian package"),
    ({"host_ntp_servers": ["ntp://a.example.org"]}, "host_ntp_servers[0]", "without a scheme"),
    ({"host_proxy": "proxy.example.org:3128"}, "host_proxy", "URL of an HTTP proxy"),
    ({"host_ca_certificates": ["/nowhere/ca.pem"]}, "host_ca_certificates[0]", "Looked at /nowhere/ca.pem"),
    (
        {"host_firewall_rules": ["accept\naccept"]},
        "host_firewall_rules[0]",
        "one rule, on one line",
    ),
    ({"host_firewall_rules": ["tcp dport 1 accept; drop"]}, "host_firewall_rules[0]", "one rule, on one line"),
    ({"host_firewall_rules": ["add rule inet x input drop"]}, "host_firewall_rules[0]", "It begins with add."),
    ({"host_firewall_rules": ["flush ruleset"]}, "host_firewall_rules[0]", "a rule alone"),
    ({"host_firewall_rules": ["accept } chain x {"]}, "host_firewall_rules[0]", "braces don't match"),
    ({"host_firewall_rules": ["tcp dport { 1, 2 accept"]}, "host_firewall_rules[0]", "braces don't match"),
    ({"host_firewall_rules": [" "]}, "host_firewall_rules[0]", "is empty"),
    ({"host_firewall_rules": "tcp dport 1 accept"}, "host_firewall_rules", "Write [tcp dport 1 accept]."),
    ({"host_ssh_trusted": ["192.0.2.1/24"]}, "host_ssh_trusted[0]", 'Did you mean "192.0.2.0/24"?'),
    ({"host_ssh_trusted": ["office"]}, "host_ssh_trusted[0]", "an address or a network"),
    ({"host_ssh_allow_users": ["me you"]}, "host_ssh_allow_users[0]", "one entry of the list for each"),
    ({"host_ssh_rate": 5}, "host_ssh_rate = 5", "10 to 100000: with less"),
    ({"host_access_undo_seconds": 5}, "host_access_undo_seconds = 5", "20 to 3600: a new connection needs time"),
    ({"host_updates_reboot": 870}, "host_updates_reboot", "YAML reads it as a number"),
    ({"host_updates_reboot": "24:00"}, "host_updates_reboot", "time of day"),
    ({"host_journal_max_use": "1 GB"}, "host_journal_max_use", "as in 500M"),
    ({"flask_app_build_environment": {"A": True}}, "flask_app_build_environment.A", "put it in quotes"),
    ({"flask_apps": {}}, "flask_apps", "must be a list"),
    ({"flask_apps": ["x"]}, "flask_apps[0]", "must be a mapping"),
]


@pytest.mark.parametrize(("change", "where", "what"), HOST, ids=[f"{next(iter(row[0]))}-{row[2][:28]}" for row in HOST])
def test_a_bad_option_is_told(source: Path, change: dict[str, Any], where: str, what: str) -> None:
    found = [text for text in problems(good(source) | change) if where in text]
    assert len(found) == 1, problems(good(source) | change)
    assert found[0].startswith(where)
    assert what in found[0]


def test_good_options_of_a_host_pass(source: Path) -> None:
    given = {
        "host_firewall_rules": ["tcp dport { 9100, 9113 } ip saddr 192.0.2.1 accept", "ip6 saddr 2001:db8::/32 drop"],
        "host_ssh_trusted": ["192.0.2.0/24", "2001:db8::1"],
        "host_ssh_allow_users": ["root", "me@192.0.2.*"],
        "host_updates_reboot": "04:30",
        "host_journal_max_use": "500M",
    }
    assert problems(good(source) | given) == []


@pytest.mark.parametrize("name", ["flask_app_version", "flask_app_break_lock", "flask_app_to"])
def test_what_is_asked_for_with_e_may_be_empty(source: Path, name: str) -> None:
    # As the playbooks hand it on where it isn't given.
    assert problems(good(source) | {name: ""}) == []


def test_apps_that_are_missing_are_told_unless_their_name_is_misspelt(source: Path) -> None:
    assert "flask_apps: it isn't set" in problems({})[0]
    (found,) = problems({"flask_app": good(source)["flask_apps"]})
    assert found == "flask_app: there is no such option. Did you mean flask_apps?"


@pytest.mark.parametrize(
    "name",
    ["hostvars", "groups", "_nginx_x", "ansible_host", "ansible_host_key_checking", "flask_opts", "my_nginx_adopt",
     "playbook_dir", "nginxes", "hosts", "test_host_release", "test_host_address6", "role_names", "postgres_version"],
)  # fmt: skip
def test_other_variables_are_left_alone(source: Path, name: str) -> None:
    assert problems(good(source) | {name: "x"}) == []


# --- templates and secrets


def test_what_follows_from_facts_is_left_to_the_role(source: Path) -> None:
    variables = good(source) | {
        "nginx_worker_connections": "{{ ansible_facts.processor_vcpus }}",
        "cores": "{{ ansible_facts.x }}",
    }
    variables["flask_apps"][0] |= {"processes": "{{ cores }}", "threads": "{{ _flask_app_threads }}"}

    def evaluate(value: object) -> object:
        if isinstance(value, str) and "{{" in value:
            raise CannotEvaluate("object of type 'dict' has no attribute 'x'")
        return value

    as_written = evaluator(variables).written
    report, options = option_check.check_host(ROLES, Evaluator(variables, evaluate, written=as_written))
    apps: Any = options["flask_apps"]
    assert report.problems == []
    assert apps[0]["processes"] is UNUSABLE


def test_an_undefined_variable_is_one_problem_and_hides_no_other(source: Path) -> None:
    variables = good(source) | {"vault_newsboards": {"SECRET_KEY": SECRET}}
    variables["flask_apps"][0] |= {"secrets": "{{ vault_newsboard }}", "processes": 0}
    assert problems(variables) == [
        "flask_apps[0].secrets (newsboard): it uses the variable vault_newsboard, which is not defined for this host. "
        "Did you mean vault_newsboards?",
        "flask_apps[0].processes (newsboard) = 0: it must be 1 to 1024.",
    ]


def test_variables_that_refer_to_each_other_end(source: Path) -> None:
    variables = good(source) | {"one": ["{{ two }}"], "two": ["{{ one }}"], "host_packages": "{{ one }}"}
    assert problems(variables)


@pytest.mark.parametrize(
    "change",
    [
        {"secrets": {"KEY": [SECRET]}},
        {"secrets": SECRET},
        {"secrets": [f"KEY={SECRET}"]},
        {"secrets": {f"KEY {SECRET}": 1}},
        {"secret": {"KEY": SECRET}},
        {"secret": SECRET},
        {"wsgi": "{{ vault_it }}"},
        {"source": "/{{ vault_it }}"},
        {"source": f"git+http://user:{SECRET}@git.example.org/x"},
        {"source": f"https://{SECRET}@git.example.org/x"},
        {"source": f"https://user:p@{SECRET}@git.example.org/x"},
        {"domains": ["{{ indirect }}"]},
        {"max_body": "sealed-text"},
        {"health_path": "sealed-text"},
        {"environment": f"KEY={SECRET}"},
        {"environment": {"ONE": {"KEY": SECRET}}},
    ],
    ids=str,
)
def test_no_message_shows_a_secret(source: Path, change: dict[str, Any]) -> None:
    variables = good(source) | {"vault_it": SECRET, "indirect": "{{ vault_it }}/"}
    variables["flask_apps"][0] |= change
    found = problems(variables, encrypted=("sealed-text",))
    assert found
    assert SECRET not in "\n".join(found)
    assert "sealed-text" not in "\n".join(found)


@pytest.mark.parametrize("name", ["flask_app_release_key", "flask_app_relase_key"])
def test_the_release_key_is_not_shown(source: Path, name: str) -> None:
    for value, part in ([SECRET], SECRET), (8675.309, "8675"):
        (found,) = problems(good(source) | {name: value})
        assert part not in found


def test_a_proxys_password_is_not_shown(source: Path) -> None:
    (found,) = problems(good(source) | {"host_proxy": f"socks5://me:{SECRET}@proxy.example.org"})
    assert SECRET not in found
    assert "socks5://…@proxy.example.org" in found


# --- several hosts


def test_what_hosts_share_is_one_line() -> None:
    reports = {}
    for host in ("web1", "web2", "web3"):
        reports[host] = Report()
        reports[host].add("nginx_adpot", "there is no such option.")
    reports["web3"].add("host_name", "there is no such option.")
    text = option_check.report_text({host: report.problems for host, report in reports.items()}, ["inventory/x"])
    assert text.startswith("2 problems in the options. No host was touched.\n")
    assert "- nginx_adpot: there is no such option. [web1, web2, web3]\n" in text
    assert "- host_name: there is no such option. [web3]\n" in text
    assert "inventory/x" in text


def test_the_app_to_release_must_be_one_of_some_host(source: Path) -> None:
    def only(name: str) -> list[list[str]]:
        reports, options = {}, {}
        for host, count in (("web1", 3), ("web2", 1)):
            variables = good(source) | {"flask_app_only": name}
            variables["flask_apps"] = copy.deepcopy(variables["flask_apps"][:count])
            reports[host], options[host] = option_check.check_host(ROLES, evaluator(variables))
        option_check.check_only(reports, options)
        return [[str(problem) for problem in report.problems] for report in reports.values()]

    assert only("third") == [[], []]
    assert only("") == [[], []]
    (found,), _ = only("thrid")
    assert 'flask_app_only = "thrid"' in found
    assert "Did you mean third?" in found
    assert "There are: newsboard, second, third." in only("x")[0][0]


@pytest.mark.parametrize(
    ("only", "version", "what"),
    [
        ("third", "v2.0", ""),
        ("third", "feature/new-page", ""),
        ("third", "0123456789abcdef0123456789abcdef01234567", ""),
        ("third", "--upload-pack=x", "must be a branch, tag or commit"),
        ("third", "a b", "must be a branch, tag or commit"),
        ("second", "1.3", ""),
        ("second", "1!2.0rc1.post2+local.1", ""),
        ("second", "main", "no version of a package, as in 1.2 or 2.0rc1"),
        ("second", "1.*", "no version of a package"),
        ("second", "second==1.3", 'Write "1.3".'),
        ("second", "1.3 ", "without blanks"),
        ("newsboard", "v2.0", "the source of newsboard is a directory, which has no versions"),
        (
            "",
            "v2.0",
            "which -e app=… names. It is what -e version=… sets, or a variable named version. There are: newsb",
        ),
        ("", "", ""),
        ("newsboard", "", ""),
    ],
)
def test_the_version_to_release_is_one_of_the_apps_source(source: Path, only: str, version: str, what: str) -> None:
    variables = good(source) | {"flask_app_only": only, "flask_app_version": version}
    report, options = option_check.check_host(ROLES, evaluator(variables))
    option_check.check_only({"web1": report}, {"web1": options})
    found = [str(problem) for problem in report.problems]
    assert len(found) == bool(what), found
    if what:
        assert found[0].startswith(f'flask_app_version = "{version}": ')
        assert what in found[0]


def test_a_version_needs_no_name_where_there_is_one_app(source: Path) -> None:
    def version(chosen: dict[str, slice], only: str = "", text: str = "v2 0") -> list[list[str]]:
        reports, options = {}, {}
        for host, apps in chosen.items():
            variables = good(source) | {"flask_app_version": text, "flask_app_only": only}
            variables["flask_apps"] = variables["flask_apps"][apps]
            reports[host], options[host] = option_check.check_host(ROLES, evaluator(variables))
        option_check.check_only(reports, options)
        return [[str(problem) for problem in report.problems] for report in reports.values()]

    third, second = slice(2, 3), slice(1, 2)
    assert version({"web1": third}, text="v2.0") == [[]]
    assert "must be a branch, tag or commit" in version({"web1": third})[0][0]
    # Two hosts, each with its own app: one version would be released of both.
    for found in version({"web1": third, "web2": second}, text="2.0"):
        assert "There are: second, third." in found[0]
    # A host without the app has nothing to say about its version.
    told, silent = version({"web1": third, "web2": second}, only="third")
    assert "must be a branch, tag or commit" in told[0]
    assert silent == []
    # An app that isn't there is one problem.
    (misspelt,) = version({"web1": third}, only="thrid")[0]
    assert "Did you mean third?" in misspelt


def test_an_empty_group_is_told() -> None:
    groups = {"all": ["a"], "ungrouped": [], "webs": ["a"], "web": []}
    assert option_check.empty_group("webs", groups, []) is None
    text = option_check.empty_group("web", groups, ["inventory/x"])
    assert text is not None
    assert "The group web has no hosts in this inventory (inventory/x)" in text
    assert "Is the group webs meant to be web?" in text


# --- real runs


@dataclass
class Outcome:
    """What a run of ansible-playbook did."""

    code: int
    text: str
    connections: str


Play = Callable[..., Outcome]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run preflight.yml, then a play that connects, over hosts out of reach; ssh only notes that it was called."""
    log = tmp_path / "ssh.log"
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexit 255\n')
    ssh.chmod(0o755)
    (tmp_path / "site.yml").write_text(
        yaml.safe_dump(
            [
                {"import_playbook": str(ROOT / "playbooks" / "preflight.yml")},
                {"hosts": "web", "gather_facts": False, "tasks": [{"ansible.builtin.raw": "true"}]},
            ]
        )
    )

    def run(inventory: dict[str, Any], variables: str = "", *arguments: str) -> Outcome:
        folder = tmp_path / "inventory"
        (folder / "group_vars").mkdir(parents=True)
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (folder / "group_vars" / "all.yml").write_text(variables)
        (tmp_path / "vault-password").write_text("a password")
        result = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", folder, tmp_path / "site.yml", *arguments],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_HOME": str(tmp_path / "home"),
                "ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "vault-password"),
                "PATH": f"{ssh.parent}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Outcome(result.returncode, result.stdout + result.stderr, log.read_text() if log.exists() else "")

    return run


INVENTORY: dict[str, Any] = {
    "all": {
        "children": {
            "web": {"hosts": {"web1": {"ansible_host": "192.0.2.1"}, "web2": {"ansible_host": "192.0.2.2"}}},
            "storage": {"hosts": {"db1": {"ansible_host": "192.0.2.3"}}},
        }
    }
}


def encrypted(text: str) -> str:
    """Write a value as ansible-vault encrypt_string does, below a key that is indented by four."""
    vault = VaultLib([("default", VaultSecret(b"a password"))])
    return "!vault |\n" + "\n".join(f"        {line}" for line in vault.encrypt(text).decode().splitlines())


def test_a_bad_run_ends_with_one_message_and_no_connection(play: Play, source: Path) -> None:
    variables = f"""
nginx_adpot: {SECRET}
vault_newsboard: {{SECRET_KEY: [{SECRET}]}}
flask_apps:
  - name: newsboard
    domains: ["https://news.example.org"]
    source: "{{{{ inventory_dir }}}}/../app"
    wsgi: newsboard:app
    helth_path: /
    secrets: "{{{{ vault_newsboard }}}}"
    environment: {{SIZE: "{{{{ size_of_page }}}}"}}
    max_body: {encrypted(SECRET)}
"""
    outcome = play(INVENTORY, variables, "-vvv")
    assert outcome.code != 0
    assert outcome.connections == ""
    assert SECRET not in outcome.text
    for text in (
        "6 problems in the options. No host was touched.",
        "nginx_adpot: there is no such option. Did you mean nginx_adopt? [web1, web2]",
        "flask_apps[0].helth_path (newsboard): there is no such option. Did you mean health_path? [web1, web2]",
        'flask_apps[0].domains[0] (newsboard) = "https://news.example.org": it must be a host name',
        "flask_apps[0].environment.SIZE (newsboard): it uses the variable size_of_page, which is not defined",
        "flask_apps[0].max_body (newsboard): it must be a size in NGINX's notation",
        "flask_apps[0].secrets.SECRET_KEY (newsboard): it must be text or a number",
    ):
        assert outcome.text.count(text) == 1, text + outcome.text


GOOD = """
vault_newsboard: {{SECRET_KEY: {secret}}}
flask_apps:
  - name: newsboard
    domains: [news.example.org]
    source: "{{{{ inventory_dir }}}}/../app"
    wsgi: newsboard:create_app()
    secrets: "{{{{ vault_newsboard }}}}"
    processes: "{{{{ ansible_facts.processor_vcpus }}}}"
"""


NUMBERS = """
pin: 0012
shop: {zip: 01234, size: 30}
flask_app_build_environment: {A: 1_0}
nginx_headers: {X-A: 017}
flask_apps:
  - name: newsboard
    domains: [news.example.org]
    source: "{{ inventory_dir }}/../app"
    wsgi: newsboard:create_app()
    max_body: 0100
    harakiri: "{{ shop.size * 2 }}"
    headers: {X-B: 8}
    environment:
      ZIP: 01234
      OPENS_AT: 22:30
      API_VERSION: 1.10
      ADDRESS: "{{ shop['zip'] }} Copenhagen"
      COMPUTED: "{{ shop.size + 1 }}"
      PARSED: "{{ ('[1.10]' | from_json)[0] }}"
      PORT: 8080  # as it is written
      RATIO: 0.5
      SIZE: "{{ shop.size }}"
      PAGES: "{{ shop.size }} pages"
      NEGATIVE: -7
      MADE_TEXT: "{{ (shop.size + 1) | string }}"
    secrets: {PIN: 0012, THROUGH: "{{ pin }}", SEALED: "{{ sealed }}", RIGHT: "{{ sealed_right }}", QUOTED: "0012"}
"""


def test_a_number_passes_as_text_only_as_it_was_written(play: Play, source: Path, tmp_path: Path) -> None:
    sealed = "# a comment\nsealed: 0012\nsealed_right: 12\n"
    vault = VaultLib([("default", VaultSecret(b"a password"))])
    (tmp_path / "sealed.yml").write_bytes(vault.encrypt(sealed))
    outcome = play(INVENTORY, NUMBERS, "-e", f"@{tmp_path}/sealed.yml", "--limit", "web1")
    assert outcome.connections == ""
    told = {
        match[1]: match[0].strip()
        for match in re.finditer(r"^ *- ((?:flask_app|nginx_|host_)\S+?):? .*", outcome.text, re.MULTILINE)
    }
    app = "flask_apps[0]"
    assert sorted(told) == sorted(
        ["flask_app_build_environment.A", "nginx_headers.X-A", f"{app}.max_body"]
        + [f"{app}.environment.{name}" for name in ("ZIP", "OPENS_AT", "API_VERSION", "ADDRESS", "COMPUTED", "PARSED")]
        + [f"{app}.secrets.{name}" for name in ("PIN", "THROUGH", "SEALED")]
    )
    place = f"{tmp_path}/inventory/group_vars/all.yml, line"
    for name, number, line in ("ZIP", "01234 is read as 668", 15), ("API_VERSION", "1.10 is read as 1.1", 17):
        text = told[f"{app}.environment.{name}"]
        assert f'put it in quotes, as in "0123". It stands in {place} {line}. {number}.' in text
    assert "22:30 is read as 1350." in told[f"{app}.environment.OPENS_AT"]
    assert f"{place} 3. 01234 is read as 668." in told[f"{app}.environment.ADDRESS"]
    assert "ends with | string" in told[f"{app}.environment.COMPUTED"]
    # What a secret is, is not told: its place is.
    assert told[f"{app}.secrets.PIN"].endswith(f"It stands in {place} 27.")
    assert told[f"{app}.secrets.THROUGH"].endswith(f"It stands in {place} 2.")
    assert told[f"{app}.secrets.SEALED"].endswith(f"It stands in {tmp_path}/sealed.yml, line 2.")


def test_a_number_of_unknown_origin_needs_quotes(source: Path) -> None:
    variables = good(source)
    report, _ = option_check.check_host(ROLES, Evaluator(variables, lambda value: value))
    found = "\n".join(str(problem) for problem in report.problems)
    assert found.count("put it in quotes") == 3
    assert "flask_apps[0].environment.WORKERS (newsboard) = 3: it must be text" in found


def test_a_good_run_goes_on_to_the_hosts(play: Play, source: Path) -> None:
    outcome = play(INVENTORY, GOOD.format(secret=SECRET), "-v")
    assert "The options of 2 hosts are right." in outcome.text
    assert "192.0.2.1" in outcome.connections, outcome.text


def test_with_a_limit_the_hosts_in_it_are_checked(play: Play, source: Path) -> None:
    inventory = copy.deepcopy(INVENTORY)
    inventory["all"]["children"]["web"]["hosts"]["web2"]["nginx_adpot"] = True
    outcome = play(inventory, GOOD.format(secret=SECRET), "-v", "--limit", "web1", "--tags", "other")
    assert "The options of 1 host are right." in outcome.text
    assert outcome.code == 0


def test_with_a_limit_a_bad_host_ends_the_run(play: Play, source: Path) -> None:
    inventory = copy.deepcopy(INVENTORY)
    inventory["all"]["children"]["web"]["hosts"]["web2"]["nginx_adpot"] = True
    outcome = play(inventory, GOOD.format(secret=SECRET), "--check", "--limit", "web2", "-e", "app=newsbord")
    assert outcome.code != 0
    assert outcome.connections == ""
    assert outcome.text.count("Did you mean nginx_adopt?") == 1
    assert outcome.text.count("Did you mean newsboard?") == 1


def test_what_the_playbooks_take_with_e_is_checked(play: Play, source: Path) -> None:
    extra = ("-e", "version=v2.0", "-e", "break_lock=me", "-e", "to=previous")
    outcome = play(INVENTORY, GOOD.format(secret=SECRET), *extra)
    assert outcome.code != 0
    assert outcome.connections == ""
    for text in (
        "3 problems in the options. No host was touched.",
        'flask_app_version = "v2.0": the source of newsboard is a directory, which has no versions',
        'flask_app_break_lock = "me": it must be the run that the refusal names',
        'flask_app_to = "previous": it must be the id of a release',
    ):
        assert outcome.text.count(text) == 1, text + outcome.text


def test_a_limit_without_web_hosts_passes(play: Play, source: Path) -> None:
    outcome = play(INVENTORY, "nginx_adpot: true", "-v", "--limit", "db1")
    assert "No host of web is in the limit." in outcome.text
    assert outcome.code == 0


def test_the_other_tiers_are_checked_as_well(play: Play, source: Path) -> None:
    hosts = {"web": {"hosts": {"web1": {}}}, "balancer": {"hosts": {"b1": {"balancer_router_id": 300}}}}
    outcome = play(
        {"all": {"children": hosts}},
        f"flask_apps: [{{name: news, domains: [a.example], source: {source}, wsgi: 'newsboard:app'}}]",
    )
    assert "balancer_router_id = 300" in outcome.text
    assert "[b1]" in outcome.text
    assert outcome.connections == ""


def test_a_host_is_of_one_tier_alone(play: Play, source: Path) -> None:
    outcome = play({"all": {"children": {"web": {"hosts": {"web1": {}}}, "database": {"hosts": {"web1": {}}}}}})
    assert "web1: in more than one of web, balancer, database" in outcome.text
    assert outcome.connections == ""


@pytest.mark.parametrize("inventory", [{"all": {}}, {"webs": {"hosts": {"web1": {}}}}], ids=["no hosts", "misspelt"])
def test_an_inventory_without_web_hosts_fails(play: Play, inventory: dict[str, Any]) -> None:
    outcome = play(inventory)
    assert outcome.code != 0
    assert outcome.text.count("The group web has no hosts in this inventory") == 1
    assert outcome.connections == ""


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"X Frame": "DENY"}, 'headers["X Frame"]: the name of a header has letters, digits and hyphens alone'),
        ({"X-A": "1", "x-a": "2"}, "headers.x-a: it is there twice, also as X-A. Keep one of them."),
        ({"X-A": "two\nlines"}, "headers.X-A: it must be on one line"),
        ({"X-A": "$host"}, "headers.X-A: it must be on one line"),
        ({"X-A": None}, "headers.X-A: it must be a text."),
        ({"X-A": ["b"]}, "headers.X-A: it must be a text."),
        ({"-X": "1"}, "headers.-X: the name of a header has letters, digits and hyphens alone"),
        ({"X--A": "1"}, "headers.X--A: the name of a header has letters, digits and hyphens alone"),
        ({"X" * 101: "1"}, "X: the name of a header has at most 100 characters here. This one has 101."),
        ({"X-A": "x" * 4001}, "headers.X-A: it must have at most 4000 characters, for NGINX's sake. It has 4001."),
        ({"X-A": '"' * 2001}, "headers.X-A: it must have at most 4000 characters, for NGINX's sake. It has 4002, with"),
    ],
)
def test_headers_are_what_nginx_can_send(source: Path, headers: dict[str, Any], text: str) -> None:
    variables = good(source)
    variables["flask_apps"][0]["headers"] = headers
    (problem,) = problems(variables)
    assert text.replace("headers", "flask_apps[0].headers (newsboard)", 0) in problem.replace(" (newsboard)", "")
    variables = good(source) | {"nginx_headers": headers}
    (problem,) = problems(variables)
    assert problem.startswith("nginx_")
    assert text in problem


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("192.0.2.7/24", 'as 192.0.2.1 or 2001:db8::/32. Did you mean "192.0.2.0/24"?'),
        ("proxy.example.org", "it must be an address or a network"),
        ("", "it must be an address or a network"),
    ],
)
def test_networks_are_what_nginx_can_read(source: Path, network: str, text: str) -> None:
    variables = good(source) | {"nginx_trusted_proxies": [network]}
    variables["flask_apps"][0]["maintenance"] = {"addresses": [network]}
    found = problems(variables)
    assert len(found) == 2
    assert all(text in problem for problem in found)


def test_limits_are_numbers_that_let_somebody_in(source: Path) -> None:
    variables = good(source)
    variables["flask_apps"][0]["limits"] = {"requests": 0, "burst": -1, "conections": 5}
    found = "\n".join(problems(variables))
    assert "limits.requests (newsboard) = 0: it must be at least 1." in found
    assert "limits.burst (newsboard) = -1: it must be at least 0." in found
    assert "Did you mean connections?" in found


@pytest.mark.parametrize(
    ("cache", "texts"),
    [
        ({"paths": ["story"]}, ['cache.paths[0] (newsboard) = "story": it must be a path that begins with a slash']),
        ({"paths": ["/a b", "/a?b", "/*/a", "/a;b", "/${a}"]}, ["begins with a slash"] * 5),
        ({"paths": ["/a//b", "/.env", "/a/../b"]}, ["no part of it may be empty or begin with a dot"] * 3),
        ({"paths": ["/a", "/b", "/a"]}, ["paths[2] (newsboard)", "it stands in paths as well"]),
        ({"paths": ["/static/*"]}, ["it stands in static as well"]),
        ({"cookies": ["a=b", "a b", "$a"]}, ["the name of a cookie"] * 3),
        ({"seconds": 0, "wait": 5}, ["it must be at least 1", "it must be"]),
        ({"size": "2 G"}, ["Write 2g."]),
        ({"path": ["/"]}, ["Did you mean paths?"]),
    ],
)
def test_kept_pages_have_paths_that_nginx_asks_the_app_for(
    source: Path, cache: dict[str, Any], texts: list[str]
) -> None:
    variables = good(source)
    variables["flask_apps"][0]["cache"] = cache
    found = problems(variables)
    joined = "\n".join(found)
    for text in texts:
        assert joined.count(text) >= texts.count(text), joined


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["/a", "/b/*", "/a"], 'idempotent[2] (newsboard) = "/a": it stands in idempotent as well.'),
        (["/a/*", "/a/*"], "idempotent[1] (newsboard)"),
        (["/*"], 'idempotent[0] (newsboard) = "/*": it is every path of the app.'),
        (["/a", "/a*", "/"], ""),
    ],
)
def test_posts_that_may_arrive_twice_have_paths_that_balancers_can_tell_apart(
    source: Path, paths: list[str], text: str
) -> None:
    variables = good(source)
    variables["flask_apps"][0]["idempotent"] = paths
    found = problems(variables)
    assert len(found) == bool(text)
    assert text in "".join(found)


def test_pages_to_forget_are_paths(source: Path) -> None:
    assert not problems(good(source) | {"flask_app_purge": ["/", "/story/*", "/list?page=2"]})
    (found,) = problems(good(source) | {"flask_app_purge": ["story"]})
    assert "flask_app_purge[0]" in found
    assert "begins with a slash" in found
