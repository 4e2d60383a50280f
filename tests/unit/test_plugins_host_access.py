"""host_access: what differs, what is refused before anything changes, and what is kept for the way back."""

from __future__ import annotations

# ruff: noqa: D102, D107  (stand-ins: their names say what they do)
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MINE = (os.getuid(), os.getgid())
TABLE = "table inet flask_on_metal {\n}\n"
MAIN = "Include {}/*.conf\nUsePAM yes\n"
DROP_IN = "# ours\nPasswordAuthentication no\n\nMaxAuthTries 6\n"


class Host:
    """A host below a folder, with nft, sshd and systemctl as told."""

    def __init__(self, code: ModuleType, root: Path, fake_module: Any) -> None:
        self.code, self.root, self.fake_module = code, root, fake_module
        self.table: str | None = None
        self.nft_refuses = ""

    def access(self, *, firewall: str = "rules\n", ssh: str = DROP_IN, check: bool = False, **params: Any) -> Any:
        given = {"firewall": firewall, "firewall_unit": "unit\n", "ssh": ssh, "ssh_allow_users": [], **params}
        module = self.fake_module(check_mode=check, undo_program="#!/bin/bash\n", undo_seconds=60, **given)
        module.run_command = self.answer
        self.commands: list[list[str]] = []
        return self.code.Access(module)

    def answer(self, words: list[str], **_: Any) -> tuple[int, str, str]:
        self.commands.append(words)
        if words[0] == "nft" and "list" in words:
            return (0, self.table, "") if self.table is not None else (1, "", "No such file or directory")
        if words[0] == "nft" and "--check" in words:
            return (1, "", f"{words[-1]}:3:1-2: Error: {self.nft_refuses}") if self.nft_refuses else (0, "", "")
        if words[0] == "nft":
            self.table = TABLE if "--file" in words else None
        if "sshd" in words[0] and "-T" in words:
            return 0, effective(Path(words[-1])), ""
        return 0, "", ""

    def done(self, *words: str) -> bool:
        return list(words) in self.commands


def effective(path: Path) -> str:
    """Tell what sshd would: the first value of each option wins, and drop-ins are read in the order of their names."""
    found: dict[str, str] = {}

    def read(path: Path) -> None:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "Include":
                for drop_in in sorted(Path(value).parent.glob("*.conf")):
                    read(drop_in)
            elif name and not name.startswith("#"):
                found.setdefault(name.lower(), value)

    read(path)
    return "".join(f"{name} {value}\n" for name, value in found.items())


@pytest.fixture
def host(
    plugin: Callable[[str, str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_module: Any
) -> Host:
    """Lay a host out below tmp_path, with Debian's sshd_config."""
    code = plugin("modules", "host_access")
    units, ssh = tmp_path / "systemd", tmp_path / "ssh"
    for folder in (units, ssh / "sshd_config.d", tmp_path / "run"):
        folder.mkdir(parents=True)
    places = {
        "FIREWALL": tmp_path / "etc" / "firewall.nft",
        "UNIT": units / "flask-on-metal-firewall.service",
        "WANTED_BY": units / "sysinit.target.wants" / "flask-on-metal-firewall.service",
        "SSHD_CONFIG": ssh / "sshd_config",
        "DROP_INS": ssh / "sshd_config.d",
        "DROP_IN": ssh / "sshd_config.d" / "00-flask-on-metal.conf",
        "STATE": tmp_path / "state",
        "UNDO_UNITS": units,
        "RUN_SSHD": tmp_path / "run" / "sshd",
    }
    for name, path in places.items():
        monkeypatch.setattr(code, name, path)
    write = code.write_atomically
    monkeypatch.setattr(code, "write_atomically", lambda path, text, mode: write(path, text, mode, *MINE))
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/usr/sbin/{name}")
    monkeypatch.setattr(code, "session", lambda: None)
    code.SSHD_CONFIG.write_text(MAIN.format(code.DROP_INS))
    return Host(code, tmp_path, fake_module)


def bring_about(host: Host, **given: Any) -> Any:
    access = host.access(**given)
    return host.code.bring_about(access.module, access)


# --- what differs


def test_a_clean_host_gets_all_of_it_and_then_nothing_changes(host: Host) -> None:
    first = bring_about(host)
    assert first["changed"]
    assert f"{host.code.FIREWALL} made" in first["changes"]
    assert "nftables table inet flask_on_metal loaded" in first["changes"]
    assert host.done("nft", "--file", str(host.code.FIREWALL))
    assert host.done("systemctl", "start", "flask-on-metal-firewall.service")
    assert host.code.WANTED_BY.readlink() == host.code.UNIT
    host.access().confirm()
    assert bring_about(host) == {"changed": False, "changed_paths": [], "changes": []}
    assert not any(words[0] == "systemctl" for words in host.commands), "a run without a change asks for nothing"


def test_a_table_that_was_flushed_or_changed_by_hand_is_loaded_again(host: Host) -> None:
    bring_about(host)
    host.access().confirm()
    for table in (None, TABLE.replace("{", "{ chain mine { }")):
        host.table = table
        again = bring_about(host)
        assert again["changes"] == ["nftables table inet flask_on_metal loaded"]
        assert host.table == TABLE
        host.access().confirm()


def test_check_mode_predicts_and_touches_nothing(host: Host) -> None:
    before = sorted(host.root.rglob("*"))
    assert bring_about(host, check=True)["changed"]
    assert [path for path in sorted(host.root.rglob("*")) if path.name != "sshd"] == before


def test_switched_off_takes_away_what_was_made_and_no_other_table(host: Host) -> None:
    bring_about(host)
    host.access().confirm()
    gone = bring_about(host, firewall="", ssh="")
    assert "nftables table inet flask_on_metal removed" in gone["changes"]
    assert host.done("nft", "delete", "table", "inet", "flask_on_metal")
    left = [host.code.FIREWALL, host.code.UNIT, host.code.WANTED_BY, host.code.DROP_IN]
    assert not any(path.exists() or path.is_symlink() for path in left)
    assert not any("flush" in words for words in host.commands)


def test_a_host_without_sshd_gets_a_firewall_alone(host: Host) -> None:
    host.code.SSHD_CONFIG.unlink()
    assert not any("sshd_config" in change for change in bring_about(host)["changes"])


# --- what is refused


def refused(host: Host, module_failed: type[Exception], **given: Any) -> str:
    before = {path: path.read_text() for path in host.root.rglob("*") if path.is_file()}
    with pytest.raises(module_failed) as failure:
        bring_about(host, **given)
    assert {path: path.read_text() for path in host.root.rglob("*") if path.is_file()} == before
    assert "othing was changed" in str(failure.value)
    return str(failure.value)


def test_a_rule_that_nft_refuses_is_told_in_its_words(host: Host, module_failed: type[Exception]) -> None:
    host.nft_refuses = "syntax error, unexpected newline"
    said = refused(host, module_failed)
    assert f"{host.code.FIREWALL}:3:1-2: Error: syntax error" in said
    assert "host_firewall_rules" in said


OVERRIDES = {
    "a drop-in that comes first": ("sshd_config.d/00-a.conf", "PasswordAuthentication yes\n"),
    "a line above the Include": ("sshd_config", "PasswordAuthentication yes\n" + MAIN),
}


@pytest.mark.parametrize(("name", "text"), OVERRIDES.values(), ids=OVERRIDES.keys())
def test_what_overrides_ours_is_named(host: Host, module_failed: type[Exception], name: str, text: str) -> None:
    path = host.code.SSHD_CONFIG.parent / name
    path.write_text(text.format(host.code.DROP_INS))
    # Has no effect, and is not what is looked for.
    (host.code.DROP_INS / "50-cloud-init.conf").write_text("PasswordAuthentication yes\n")
    said = refused(host, module_failed)
    assert "passwordauthentication is decided elsewhere" in said
    assert f"{path} line 1: PasswordAuthentication yes" in said
    assert "50-cloud-init.conf" not in said


def test_an_override_that_came_later_is_found_though_nothing_else_differs(
    host: Host, module_failed: type[Exception]
) -> None:
    bring_about(host)
    host.access().confirm()
    (host.code.DROP_INS / "00-a.conf").write_text("PasswordAuthentication yes\n")
    assert "00-a.conf line 1" in refused(host, module_failed)


def test_a_configuration_that_does_not_include_drop_ins_is_told(host: Host, module_failed: type[Exception]) -> None:
    host.code.SSHD_CONFIG.write_text("UsePAM yes\n#Include /etc/ssh/sshd_config.d/*.conf\n")
    assert "doesn't include" in refused(host, module_failed)


def test_the_account_in_use_is_never_closed(
    host: Host, module_failed: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.code, "session", lambda: os.getpid())
    monkeypatch.setattr(host.code, "account", lambda _: "me")
    assert "me is not in you, root" in refused(host, module_failed, ssh_allow_users=["you", "root"])
    for pattern in ("me", "m?", "me@192.0.2.*"):
        host.access(ssh_allow_users=[pattern]).prove_account()


# --- the way back


def test_what_was_there_is_kept_and_a_timer_armed_before_anything_changes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.code.DROP_IN.write_text("old\n")
    access = host.access()
    seen = {}

    def apply(changes: Any) -> None:
        armed = host.code.STATE / "armed"
        seen["old"] = (armed / "before" / host.code.DROP_IN.relative_to("/")).read_text()
        seen["absent"] = (armed / "absent").read_text().split()
        seen["timer"] = host.done("systemctl", "restart", "flask-on-metal-undo.timer")
        seen["now"] = host.code.DROP_IN.read_text()

    monkeypatch.setattr(access, "apply", apply)
    host.code.bring_about(access.module, access)
    assert seen["old"] == seen["now"] == "old\n"
    assert seen["timer"]
    assert set(seen["absent"]) == {str(host.code.FIREWALL), str(host.code.UNIT), str(host.code.WANTED_BY)}
    assert "OnActiveSec=60" in (host.code.UNDO_UNITS / "flask-on-metal-undo.timer").read_text()
    # It must survive a reboot.
    assert (host.code.UNDO_UNITS / "timers.target.wants" / "flask-on-metal-undo.timer").is_symlink()


def test_a_change_that_fails_half_way_is_taken_back_at_once(
    host: Host, module_failed: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    access = host.access()

    def fail(*words: str) -> None:
        if words[0] == "nft":
            raise OSError("nft: no")

    monkeypatch.setattr(access, "must", fail)
    with pytest.raises(module_failed, match="was taken back"):
        host.code.bring_about(access.module, access)
    assert host.done("bash", str(host.code.STATE / "undo.sh"))


def test_a_change_that_a_dead_run_left_waiting_is_undone_first(host: Host) -> None:
    (host.code.STATE / "armed").mkdir(parents=True)
    bring_about(host)
    assert host.commands[0] == ["bash", str(host.code.STATE / "undo.sh")]


@pytest.mark.parametrize(("begun", "good"), [(-5.0, False), (5.0, True)], ids=["older", "newer"])
def test_only_a_connection_that_is_newer_than_the_change_confirms_it(
    host: Host, module_failed: type[Exception], monkeypatch: pytest.MonkeyPatch, begun: float, good: bool
) -> None:
    bring_about(host)
    since = float((host.code.STATE / "armed" / "at").read_text())
    monkeypatch.setattr(host.code, "session", lambda: os.getpid())
    monkeypatch.setattr(host.code, "started", lambda _: since + begun)
    if good:
        host.access().confirm()
        assert host.code.state() == "quiet"
        assert not list(host.code.UNDO_UNITS.rglob("flask-on-metal-undo*"))
        assert host.done("systemctl", "stop", "flask-on-metal-undo.timer")
    else:
        with pytest.raises(module_failed, match="older than the change"):
            host.access().confirm()
        assert host.code.state() == "armed"


def test_a_confirmation_that_comes_after_the_timer_is_none(host: Host, module_failed: type[Exception]) -> None:
    bring_about(host)
    (host.code.STATE / "armed").rename(host.code.STATE / "undone")
    with pytest.raises(module_failed, match="the timer was faster"):
        host.access().confirm()


def test_a_timer_that_goes_off_in_the_middle_of_a_change_leaves_nothing_of_it(
    host: Host, module_failed: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    access = host.access()
    must = access.must

    def slow(*words: str) -> None:
        if words[0] == "nft":
            (host.code.STATE / "armed").rename(host.code.STATE / "undone")
        must(*words)

    monkeypatch.setattr(access, "must", slow)
    with pytest.raises(module_failed, match="longer than host_access_undo_seconds"):
        host.code.bring_about(access.module, access)
    # What the second undoing works from.
    assert (host.code.STATE / "armed" / "absent").exists()


def test_the_start_of_this_process_is_in_the_past_and_its_clock_is_the_same(host: Host) -> None:
    assert 0 < host.code.started(os.getpid()) <= host.code.now()


# --- the script


def test_the_script_restores_files_and_removes_what_was_new(tmp_path: Path) -> None:
    state, etc, programs = tmp_path / "access", tmp_path / "etc", tmp_path / "bin"
    kept = state / "armed" / "before" / str(etc / "old.conf").lstrip("/")
    for folder in (kept.parent, etc, programs):
        folder.mkdir(parents=True)
    (etc / "old.conf").write_text("changed\n")
    (etc / "new.conf").write_text("new\n")
    kept.write_text("old\n")
    kept.chmod(0o600)
    # Folders are left as they are, their modes included.
    (state / "armed" / "before").chmod(0o700)
    (state / "armed" / "absent").write_text(f"{etc / 'new.conf'}\n")
    mode = etc.stat().st_mode
    for name in ("systemctl", "nft"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/log\n')
        (programs / name).chmod(0o755)
    script = tmp_path / "undo.sh"
    text = (ROOT / "roles" / "host" / "files" / "undo_access.sh").read_text()
    for path in ("/var/lib/flask-on-metal/access", "/etc/systemd/system", "/etc/flask-on-metal"):
        assert path in text
    text = text.replace("/var/lib/flask-on-metal/access", str(state)).replace("/etc/", f"{etc}/")
    script.write_text(text)
    run = [shutil.which("bash") or "bash", str(script)]
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    assert subprocess.run(run, env=environment, check=False).returncode == 0
    assert (etc / "old.conf").read_text() == "old\n"
    assert (etc / "old.conf").stat().st_mode & 0o777 == 0o600
    assert not (etc / "new.conf").exists()
    assert etc.stat().st_mode == mode
    assert (state / "undone").is_dir() and not (state / "armed").exists()
    log = (tmp_path / "log").read_text()
    assert "nft delete table inet flask_on_metal" in log
    assert "ssh.service" in log
    # Called again, when nothing is armed, it does nothing.
    (tmp_path / "log").unlink()
    assert subprocess.run(run, env=environment, check=False).returncode == 0
    assert not (tmp_path / "log").exists()
