"""NGINX's tree: whose a file is, what a run would change, and what is put back when the new one doesn't serve."""

from __future__ import annotations

# ruff: noqa: D102, D107  (stand-ins: their names say what they do)
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MINE = (os.getuid(), os.getgid())


@pytest.fixture
def code(plugin: Callable[[str, str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the module, with its state below tmp_path."""
    found = plugin("modules", "nginx_config")
    monkeypatch.setattr(found, "STATE", tmp_path / "state")
    monkeypatch.setattr(found, "BACKUPS", tmp_path / "backups")
    monkeypatch.setattr(found, "RELOAD_SECONDS", 0.5)
    write = found.write_atomically
    monkeypatch.setattr(found, "write_atomically", lambda path, text, mode: write(path, text, mode, *MINE))
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make /etc/nginx as Debian's packages leave it."""
    root = tmp_path / "nginx"
    for name in ("modules-enabled", "sites-available", "sites-enabled", "sites"):
        (root / name).mkdir(parents=True)
    (root / "nginx.conf").write_text("debian's\n")
    (root / "mime.types").write_text("debian's\n")
    (root / "sites-available" / "default").write_text("welcome\n")
    (root / "sites-enabled" / "default").symlink_to(root / "sites-available" / "default")
    # A module's package makes such a link, to a file outside that is not there on this machine.
    (root / "modules-enabled" / "50-mod-x.conf").symlink_to("/usr/share/nginx/modules-available/mod-x.conf")
    return root


class Host:
    """A configuration on a host, with systemctl, nginx and dpkg-query as told."""

    def __init__(self, code: ModuleType, root: Path, fake_module: Any) -> None:
        self.code, self.root, self.fake_module = code, root, fake_module
        self.conffiles = {
            str(path): hashlib.md5(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }

    def configuration(self, files: dict[str, str] | None = None, **params: Any) -> Any:
        given = {"files": files or {}, "owned": ["sites/*.conf"], "expendable": [], "adopt": False, **params}
        module = self.fake_module(root=str(self.root), status_socket=str(self.root.parent / "run" / "s"), **given)
        listed = "".join(f"\n {path} {md5}\n" for path, md5 in self.conffiles.items())
        module.answers["dpkg-query"] = (0, f" /etc/other deadbeef obsolete{listed}", "")
        module.answers["nginx"] = (0, "", "")
        module.answers["systemctl"] = (0, "", "")
        return self.code.Configuration(module)

    def remember(self, *names: str) -> None:
        self.code.STATE.mkdir(exist_ok=True)
        (self.code.STATE / "manifest.json").write_text(json.dumps(names))

    def text(self) -> dict[str, str]:
        files = (path for path in sorted(self.root.rglob("*")) if path.is_file() and not path.is_symlink())
        return {str(path.relative_to(self.root)): path.read_text() for path in files}


@pytest.fixture
def host(code: ModuleType, root: Path, fake_module: Any) -> Host:
    """Put the two together."""
    return Host(code, root, fake_module)


# --- whose is it?


def test_a_fresh_installation_of_debians_has_nothing_foreign(host: Host) -> None:
    assert host.configuration().foreign() == []


def write_deep(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("x")


FOREIGN: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "somebody's site": (
        lambda root: (root / "sites-enabled" / "shop.conf").write_text("x"),
        ["sites-enabled/shop.conf"],
    ),
    "a changed nginx.conf": (lambda root: (root / "nginx.conf").write_text("mine"), ["nginx.conf"]),
    "a changed default site, and so the link to it": (
        lambda root: (root / "sites-available" / "default").write_text("mine"),
        ["sites-available/default", "sites-enabled/default"],
    ),
    "a link to somebody's file": (
        lambda root: (root / "sites-enabled" / "shop").symlink_to(__file__),
        ["sites-enabled/shop"],
    ),
    "a file in our own folder": (lambda root: (root / "sites" / "shop.conf").write_text("x"), ["sites/shop.conf"]),
    "a deep file": (
        lambda root: write_deep(root / "tls" / "a" / "key"),
        ["tls/a/key"],
    ),
}


@pytest.mark.parametrize(("make", "found"), FOREIGN.values(), ids=FOREIGN.keys())
def test_somebody_elses_file_is_found_and_refused_by_name(
    host: Host, module_failed: type[Exception], make: Callable[[Path], object], found: list[str]
) -> None:
    make(host.root)
    assert host.configuration().foreign() == [str(host.root / name) for name in found]
    with pytest.raises(module_failed, match="made by somebody else") as failure:
        host.configuration().refuse_foreign()
    assert all(str(host.root / name) in str(failure.value) for name in found)


def test_what_this_module_made_is_its_own(host: Host) -> None:
    (host.root / "nginx.conf").write_text("ours")
    (host.root / "sites" / "news.conf").write_text("ours")
    host.remember("nginx.conf", "sites/news.conf")
    assert host.configuration().foreign() == []


@pytest.mark.parametrize("name", ["nginx.conf.dpkg-dist", "mime.types.dpkg-old", ".nginx.conf.a1b2c3d_"])
def test_what_an_upgrade_or_an_interrupted_write_leaves_stops_no_run(host: Host, name: str) -> None:
    (host.root / name).write_text("x")
    assert host.configuration().foreign() == []


def test_adopted_files_are_moved_aside_when_the_new_configuration_serves(
    host: Host, monkeypatch: pytest.MonkeyPatch, module_failed: type[Exception]
) -> None:
    (host.root / "sites-enabled" / "shop.conf").write_text("shop")
    (host.root / "nginx.conf").write_text("edited")
    (host.root / "mime.types").write_text("edited")
    wanted = {"nginx.conf": "ours"}
    refused = host.configuration(wanted, adopt=True)
    monkeypatch.setattr(refused, "serves", lambda _: False)
    with pytest.raises(module_failed):
        refused.bring_about(wanted, [], refused.adoptable())
    assert host.text()["nginx.conf"] == "edited"
    assert host.text()["sites-enabled/shop.conf"] == "shop"

    host.remember()
    taken = host.configuration(wanted, adopt=True)
    monkeypatch.setattr(taken, "serves", lambda _: True)
    taken.bring_about(wanted, [], taken.adoptable())
    assert not (host.root / "sites-enabled" / "shop.conf").exists()
    assert host.text()["nginx.conf"] == "ours"
    # Edited, and a package's: it stays, and is accepted from now on.
    assert host.text()["mime.types"] == "edited"
    assert {path.read_text() for path in host.code.BACKUPS.rglob("shop.conf")} == {"shop"}
    assert {path.read_text() for path in host.code.BACKUPS.rglob("nginx.conf")} == {"edited"}
    assert host.configuration().foreign() == []


# --- what would change?


def test_changes_are_what_differs_and_what_is_no_longer_wanted(host: Host) -> None:
    for name in ("news", "old", "same"):
        (host.root / "sites" / f"{name}.conf").write_text(f"{name}\n")
    host.remember("nginx.conf", "sites/news.conf", "sites/old.conf", "sites/same.conf")
    wanted = {"sites/news.conf": "new\n", "sites/same.conf": "same\n", "sites/more.conf": "more\n"}
    write, gone = host.configuration(wanted).changes()
    assert write == {"sites/news.conf": "new\n", "sites/more.conf": "more\n"}
    assert gone == ["sites/old.conf"]  # and not nginx.conf, which is ours but not among `owned`


# --- the change


def serve(host: Host, configuration: Any, monkeypatch: pytest.MonkeyPatch, answer: str | None = None) -> None:
    """Have the server answer with the id that its tree has, or with another one."""

    def serving() -> str | None:
        if answer is not None:
            return answer
        return (host.root / host.code.ID_FILE).read_text().partition("default ")[2].partition(";")[0]

    monkeypatch.setattr(configuration, "serving", serving)


def test_a_configuration_that_serves_is_written_and_remembered(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.root / "sites" / "old.conf").write_text("old\n")
    host.remember("sites/old.conf")
    configuration = host.configuration({"nginx.conf": "ours\n", "sites/news.conf": "news\n"})
    serve(host, configuration, monkeypatch)
    first = configuration.bring_about(*configuration.changes(), [])
    assert f"default {first};" in (host.root / host.code.ID_FILE).read_text()
    assert host.text()["nginx.conf"] == "ours\n" and host.text()["sites/news.conf"] == "news\n"
    assert "sites/old.conf" not in host.text()
    manifest = json.loads((host.code.STATE / "manifest.json").read_text())
    assert manifest == ["configuration_id.conf", "nginx.conf", "sites/news.conf"]
    assert host.configuration({"nginx.conf": "ours\n", "sites/news.conf": "news\n"}).changes() == ({}, [])
    assert not configuration.beside.exists()

    again = host.configuration({"sites/news.conf": "news, changed\n"})
    serve(host, again, monkeypatch)
    assert again.bring_about(*again.changes(), []) != first


def test_a_configuration_that_nginx_refuses_changes_nothing(
    host: Host, module_failed: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = host.text()
    configuration = host.configuration({"nginx.conf": "broken\n"})
    configuration.module.answers["nginx"] = (1, "", f"unknown directive in {configuration.beside}/nginx.conf:1")
    with pytest.raises(module_failed, match=f"unknown directive in {host.root}/nginx.conf:1") as failure:
        configuration.bring_about(*configuration.changes(), [])
    # Nobody answers at the status socket.
    assert "goes on serving" not in str(failure.value)
    assert "nothing was changed. It doesn't answer with the old one either" in str(failure.value)
    serve(host, configuration, monkeypatch, answer="old")
    with pytest.raises(module_failed, match="refuses the new configuration; the old one goes on serving"):
        configuration.bring_about(*configuration.changes(), [])
    assert host.text() == before
    assert not configuration.beside.exists()


def test_a_configuration_can_be_tested_and_nothing_else(
    host: Host, module_failed: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = host.text()
    configuration = host.configuration({"sites/news.conf": "news\n"})
    serve(host, configuration, monkeypatch, answer="old")
    configuration.test(*configuration.changes())
    configuration.module.answers["nginx"] = (1, "", f"unknown directive in {configuration.beside}/sites/news.conf:1")
    with pytest.raises(module_failed, match="refuses the new configuration; the old one goes on serving"):
        configuration.test(*configuration.changes())
    assert host.text() == before and not configuration.beside.exists()
    assert [words[0] for words in configuration.module.commands] == ["nginx", "nginx"]


def picky(configuration: Any, *refused: str) -> None:
    """Have NGINX refuse a tree that has one of these texts, wherever."""

    def run(words: list[str], **_: Any) -> tuple[int, str, str]:
        configuration.module.commands.append(words)
        if words[0] != "nginx":
            return (0, "", "")
        tree = Path(words[-1]).parent
        texts = {path: path.read_text() for path in tree.rglob("*.conf") if path.is_file()}
        bad = next((path for path, text in texts.items() for one in refused if one in text), None)
        return (1, "", f"no certificate in {bad}") if bad else (0, "", "")

    configuration.module.run_command = run


def test_a_server_that_is_dead_starts_without_the_sites_that_it_refuses(
    host: Host, module_failed: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good", "worse", "good/app"):
        (host.root / "sites" / name).parent.mkdir(exist_ok=True)
        (host.root / "sites" / f"{name}.conf").write_text(f"{name}\n")
    host.remember("nginx.conf", *(f"sites/{name}.conf" for name in ("bad", "good", "good/app", "worse")))
    wanted = {"nginx.conf": "ours\n"}

    # One that runs goes on with what it has, whatever lies there.
    alive = host.configuration(wanted, owned=[], expendable=["sites/*.conf"])
    picky(alive, "bad", "worse")
    serve(host, alive, monkeypatch, answer="old")
    with pytest.raises(module_failed, match="the old one goes on serving"):
        alive.bring_about(*alive.changes(), [])
    assert "sites/bad.conf" in host.text()

    dead = host.configuration(wanted, owned=[], expendable=["sites/*.conf"])
    picky(dead, "bad", "worse")
    monkeypatch.setattr(dead, "running", lambda: False)
    monkeypatch.setattr(dead, "serves", lambda _: True)
    dead.bring_about(*dead.changes(), [])
    assert host.text()["nginx.conf"] == "ours\n"
    assert [name for name in host.text() if name.startswith("sites/")] == ["sites/good/app.conf", "sites/good.conf"]
    assert {"sites/bad.conf", "sites/worse.conf"}.isdisjoint(
        json.loads((host.code.STATE / "manifest.json").read_text())
    )
    (warning,) = dead.module.warnings
    assert "sites/bad.conf, sites/worse.conf" in warning and f"no certificate in {host.root}/sites/" in warning

    # What is not a site's fault is told as before, and takes no site away.
    broken = host.configuration({"nginx.conf": "broken\n"}, owned=[], expendable=["sites/*.conf"])
    picky(broken, "broken")
    monkeypatch.setattr(broken, "running", lambda: False)
    with pytest.raises(module_failed, match=f"no certificate in {host.root}/nginx.conf"):
        broken.bring_about(*broken.changes(), [])
    assert host.text()["nginx.conf"] == "ours\n" and "sites/good.conf" in host.text()


@pytest.mark.parametrize("running", [True, False])
def test_a_configuration_that_does_not_serve_is_taken_back(
    host: Host, module_failed: type[Exception], monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    (host.root / "sites" / "old.conf").write_text("old\n")
    host.remember("sites/old.conf")
    before = host.text()
    configuration = host.configuration({"nginx.conf": "ours\n", "sites/news.conf": "news\n"})
    serve(host, configuration, monkeypatch, answer="another")
    monkeypatch.setattr(configuration, "running", lambda: running)
    with pytest.raises(module_failed, match="does not serve; the old one was put back") as failure:
        configuration.bring_about(*configuration.changes(), [])
    assert host.text() == before
    orders = [words[1] for words in configuration.module.commands if words[0] == "systemctl"]
    # What did not run before is not left running with Debian's welcome page. Failed starts are no reason not to try.
    assert orders == (
        ["reload-or-restart", "reload-or-restart"] if running else ["reset-failed", "reload-or-restart", "stop"]
    )
    # It was asked what serves now, and that is another one.
    assert "It serves" not in str(failure.value)
    assert ("NGINX doesn't serve it: journalctl -u nginx" if running else "NGINX was stopped") in str(failure.value)
    again = host.configuration({"nginx.conf": "ours\n"})
    (host.root / host.code.ID_FILE).write_text("map '' $configuration_id { default another; }\n")
    serve(host, again, monkeypatch, answer="another")
    monkeypatch.setattr(again, "running", lambda: running)
    with pytest.raises(module_failed, match="It serves again" if running else "NGINX was stopped"):
        again.bring_about(*again.changes(), [])


def test_a_run_that_was_interrupted_half_way_knows_its_own_files(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"nginx.conf": "ours\n", "sites/news.conf": "news\n"}
    configuration = host.configuration(wanted)
    serve(host, configuration, monkeypatch)

    def interrupted(*_: object) -> dict[str, str | None]:
        (host.root / "nginx.conf").write_text("ours\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(configuration, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        configuration.bring_about(*configuration.changes(), [])
    after = host.configuration(wanted)
    assert after.foreign() == []
    assert after.changes() == ({"sites/news.conf": "news\n"}, [])
    serve(host, after, monkeypatch)
    after.bring_about(*after.changes(), [])
    assert host.configuration(wanted).changes() == ({}, [])


def test_a_socket_left_by_a_killed_server_does_not_keep_the_next_one_from_starting(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = host.configuration({"nginx.conf": "ours\n"})
    left = Path(configuration.module.params["status_socket"])
    left.parent.mkdir()
    left.touch()
    serve(host, configuration, monkeypatch)
    monkeypatch.setattr(configuration, "running", lambda: True)
    configuration.bring_about(*configuration.changes(), [])
    assert left.exists()
    monkeypatch.setattr(configuration, "running", lambda: False)
    configuration.bring_about({}, [], [])
    assert not left.exists()
