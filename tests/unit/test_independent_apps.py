"""Apps are independent: one that can't be released keeps no other from its release and its site, and the run ends red.

The role's own tasks run, on two hosts that are this machine. But for the one that reads the source, all modules of this
project are played by stand-ins, so that nothing is changed.
"""

from __future__ import annotations

import json
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

ROOT = Path(__file__).resolve().parents[2]
MODULES = {path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")}

# Notes on which host it was asked for what, and answers as the real module does. It fails where it is told to.
STAND_IN = """\
import json
from ansible.plugins.action import ActionBase

NAME, APPS, FAILS, LOG = json.loads({setting!r})


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        args, host = self._task.args, self._task.delegate_to or task_vars["inventory_hostname"]
        app = args.get("app")
        with open(LOG, "a") as noted:
            files = sorted(args.get("files") or []) if NAME == "nginx_config" else []
            noted.write(json.dumps(dict(module=NAME, app=app, origin=host, files=files)) + "\\n")
        kind = FAILS.get(f"{{app}} {{NAME}} {{host}}") or FAILS.get(f"{{app}} {{NAME}}")
        if NAME == "host_preflight":
            accounts = {{app: [f"/srv/{{app}}", "/usr/sbin/nologin"] for app in APPS}}
            return dict(ansible_facts=dict(accounts=accounts, distribution_major_version="13"))
        if NAME == "release_state":
            state = dict(current="", record={{}}, releases=[], way_back="", withdrawn=[], settled=True)
            facts = dict(cores=2, memory_mb=2048, python="3.13.0", uwsgi="2.0.28")
            full = {{app: FAILS.get(f"{{app}} no_room {{host}}", "") for app in args["apps"]}}
            return dict(apps={{app: dict(state, no_room=full[app]) for app in args["apps"]}}, host=facts)
        if NAME == "release_lock":
            return dict(refused="are locked by another run" if kind else "", held_by="")
        if NAME == "release_abandon":
            return dict(failed=True, msg="refused at " + args["step"] + ": " + args["reason"])
        return dict(failed=bool(kind), msg=kind or "", changed=True, previous="")
"""

WHOLE_WAY = [
    "release_lock", "release_fetch", "release_build", "release_configure", "release_start", "release_probe",
    "release_activate", "release_prune",
]  # fmt: skip


@dataclass
class Outcome:
    """What a run did."""

    status: int
    text: str
    noted: list[dict[str, Any]]

    def steps(self, app: str, host: str) -> list[str]:
        """List what was done for an app on a host."""
        return [step["module"] for step in self.noted if (step["app"], step["origin"]) == (app, host)]


def playbook(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run play.yml of a folder on the hosts of its inventory.yml."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "inventory.yml", "play.yml"],
        cwd=folder,
        env=environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(folder / "home"), **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Outcome]:
    """Run tasks of the role for apps, of which each has options besides those that it must have."""

    def go(tasks: str, apps: dict[str, dict[str, Any]], fails: dict[str, str], **variables: Any) -> Outcome:
        log, stand_ins = tmp_path / "log", tmp_path / "action"
        stand_ins.mkdir()
        (tmp_path / "module_utils").symlink_to(ROOT / "plugins" / "module_utils")
        (stand_ins / "release_source.py").symlink_to(ROOT / "plugins" / "action" / "release_source.py")
        for name in sorted(MODULES - {"release_source"}):
            setting = json.dumps([name, list(apps), fails, str(log)])
            (stand_ins / f"{name}.py").write_text(STAND_IN.format(setting=setting))
        for name in apps:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "app.py").write_text("app = None\n")
            (tmp_path / name / "requirements.txt").touch()
        entries = [
            {
                "name": name,
                "domains": [f"{name}.example.org"],
                "source": str(tmp_path / name),
                "wsgi": "app:app",
                **more,
            }
            for name, more in apps.items()
        ]
        hosts = {name: {"ansible_connection": "local"} for name in ("web1", "web2")}
        (tmp_path / "inventory.yml").write_text(yaml.safe_dump({"web": {"hosts": hosts}}))
        # For their defaults alone, which are the whole play's then.
        roles = [
            {"ansible.builtin.import_role": {"name": name}, "when": False} for name in ("nginx", "certificate", "uwsgi")
        ]
        wanted = {"ansible.builtin.import_role": {"name": "flask_app", "tasks_from": tasks}}
        play = {
            "hosts": "web",
            "gather_facts": False,
            "vars": {"flask_apps": entries, **variables},
            "tasks": [{"host_preflight": {}}, *roles, wanted],
        }
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
        # In place of the real ones: no module of ours is found.
        done = playbook(tmp_path, ANSIBLE_ACTION_PLUGINS=str(stand_ins), ANSIBLE_LIBRARY=str(tmp_path))
        noted = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return Outcome(done.returncode, done.stdout + done.stderr, noted)

    return go


def test_the_other_apps_get_their_releases_whatever_one_fails_at(run: Callable[..., Outcome], tmp_path: Path) -> None:
    hook = tmp_path / "hook.yml"
    hook.write_text(yaml.safe_dump([{"name": "Team is told", "ansible.builtin.fail": {"msg": "nobody is there"}}]))
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "pyproject.toml").write_text('[project]\nname = "newer"\nrequires-python = ">=3.99"\n')
    found = run(
        "deploy",
        {
            "half": {},
            "locked": {},
            "missing": {"source": str(tmp_path / "nowhere")},
            "newer": {"source": str(tmp_path / "newer")},
            "full": {},
            "hooked": {"hooks": {"after_activate": str(hook)}},
            "good": {},
        },
        {
            "half release_start web1": "it does not import",
            "locked release_lock": "refused",
            "full no_room web2": "full has no room for a release",
        },
    )
    assert found.status != 0
    for host in ("web1", "web2"):
        assert found.steps("good", host) == WHOLE_WAY, found.text
        assert found.steps("missing", host) == found.steps("newer", host) == found.steps("full", host) == []
        assert found.steps("half", host)[-1] == "release_abandon"
        # One text for each host, at the end, with the next commands.
        ending = found.text.partition("TASK [flask_app : No app failed]")[2]
        assert f"{host} has no new release of:" in ending
    assert "release_activate" not in found.steps("half", "web2")
    for words in (
        "half: “Start | instance of the release runs beside the one that serves” failed",
        "half: “Activate | all hosts of this run are ready” failed",
        "locked: “Lock | no other run has it” failed",
        "missing: “Source of the app can be read” failed",
        "newer: “Interpreter of each host is one that the app takes” failed",
        "full: “Disks have room for the release” failed",
        "hooked: “After_activate hook” failed",
        "It kept nothing from good.",
        "deploy.yml -e app=half",
    ):
        assert words in ending
    assert "web2: full has no room for a release" in found.text
    assert "web1 (3.13.0), web2 (3.13.0) have another one" in found.text
    # The summary has all of them, whatever they failed at.
    assert "nothing  unchanged: “Source of the app can be read” failed" in found.text


def test_sites_are_written_and_the_playbook_goes_on_after_an_app_failed(run: Callable[..., Outcome]) -> None:
    found = run("main", {"broken": {}, "good": {}}, {"broken release_probe": "no 200"}, _flask_app_outcome_later=True)
    assert found.status == 0, found.text
    for host in ("web1", "web2"):
        written = [step["files"] for step in found.noted if (step["module"], step["origin"]) == ("nginx_config", host)]
        # Tested before the releases, and written after them.
        assert len(written) == 2
        assert all("sites/good.conf" in sites for sites in written)
    # The playbook ends red by itself then, after all else.
    site = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
    assert site[2]["vars"]["_flask_app_outcome_later"] == "{{ rolling is not defined }}"
    assert site[-1]["tasks"][-1]["ansible.builtin.import_role"] == {"name": "flask_app", "tasks_from": "outcome"}


def test_site_takes_with_e_what_deploy_takes() -> None:
    site, deploy = (yaml.safe_load((ROOT / "playbooks" / name).read_text()) for name in ("site.yml", "deploy.yml"))
    wanted = deploy[-1]["tasks"][0]["vars"]
    assert "flask_app_only" in wanted
    assert {name: site[2]["vars"].get(name) for name in wanted} == wanted


def test_what_the_last_play_of_site_tells(tmp_path: Path) -> None:
    # It runs nothing on a host: what the plays before have found out is given here.
    play = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())[-1]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    broken = {"app": "broken", "outcome": "refused", "step": "Start"}
    hosts: dict[str, dict[str, Any]] = {
        "web1": {"__host_access": {"shut_by": ["TCP 443: the chain input"]}, "__flask_app_reports": []},
        "web2": {
            "__host_access": {"shut_by": []},
            "__flask_app_reports": [broken, {"app": "good", "outcome": "released"}],
        },
        "web3": {},  # as with --tags nginx
    }
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump({"web": {"hosts": hosts}}))
    done = playbook(tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    firewall, _, outcome = done.stdout.partition("TASK [flask_app : No app failed]")
    assert "TCP 443: the chain input" in firewall and "web1 can't be reached there" in firewall
    assert "ok: [web2]" not in firewall and "ok: [web3]" not in firewall
    assert "web2 has no new release of:" in outcome and "web1 has" not in outcome
    for host, failed in (("web1", 0), ("web2", 1), ("web3", 0)):
        assert re.search(rf"{host} +: .* failed={failed}", outcome), outcome
