"""The database: numbers that go together, who is let in, and what the members of a cluster do."""

from __future__ import annotations

# ruff: noqa: D102, D107  (stand-ins: their names say what they do)
import base64
import hmac
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.postgresql_https import Answer, Client
from ansible.module_utils.postgresql_psql import ServerError, identifier, literal
from ansible.module_utils.postgresql_scram import proves, verifier
from ansible.module_utils.postgresql_tuning import RESERVED, tuned
from ansible.module_utils.postgresql_units import Unit

Plugin = Callable[[str, str], ModuleType]


# --- numbers


def amount(text: str) -> float:
    """Return megabytes."""
    number, unit = re.fullmatch(r"(\d+)(kB|MB|GB)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"kB": 1 / 1024, "MB": 1, "GB": 1024}[unit]


@pytest.mark.parametrize("memory", [512, 1024, 4096, 24_000, 256_000])
@pytest.mark.parametrize("connections", [20, 200, 1000])
def test_what_a_server_may_take_fits_into_its_memory(memory: int, connections: int) -> None:
    numbers = tuned(memory_mb=memory, cores=2, connections=connections)
    host, allowed = numbers["host"], int(numbers["common"]["max_connections"])
    everyone = allowed * amount(host["work_mem"])
    # Three vacuums, and a sort in each connection.
    assert amount(host["shared_buffers"]) + 3 * amount(host["maintenance_work_mem"]) + everyone < memory
    assert amount(host["shared_buffers"]) < amount(host["effective_cache_size"]) < memory


def test_clients_get_the_connections_they_were_promised() -> None:
    common = tuned(memory_mb=2048, cores=2, connections=150)["common"]
    assert int(common["max_connections"]) - int(common["superuser_reserved_connections"]) == 150
    assert int(common["superuser_reserved_connections"]) == RESERVED


@pytest.mark.parametrize(("cores", "each"), [(1, 0), (2, 0), (4, 1), (64, 2)])
def test_one_query_does_not_take_all_cores(cores: int, each: int) -> None:
    host = tuned(memory_mb=2048, cores=cores, connections=100)["host"]
    assert int(host["max_parallel_workers_per_gather"]) == each < max(cores, 1)
    assert int(host["max_parallel_workers"]) <= max(cores, 1)


def test_more_connections_leave_less_for_each() -> None:
    few, many = (tuned(memory_mb=8192, cores=2, connections=number)["host"]["work_mem"] for number in (50, 500))
    assert amount(few) > amount(many)


def test_a_host_that_runs_apps_too_keeps_half_for_them(plugin: Plugin) -> None:
    numbers = plugin("filter", "postgresql_tuning").postgresql_tuning
    host = {"memory_mb": 4000, "cores": 2}
    assert numbers(host, 200)["host"]["shared_buffers"] == "1000MB"
    assert numbers(host, 200, 1200)["host"]["shared_buffers"] == "300MB"


# --- who is let in


@pytest.fixture
def access(plugin: Plugin) -> ModuleType:
    return plugin("filter", "postgresql_access")


def test_accounts_come_in_by_tls_and_to_their_own_database_only(access: ModuleType) -> None:
    lines = access.postgresql_hba(["news", "all"], ["192.0.2.5", "2001:db8::/64", "192.0.2.5"], [])
    assert lines == [
        "local all all peer",
        'hostssl sameuser "news","all" samehost scram-sha-256',
        'hostssl sameuser "news","all" 192.0.2.5/32 scram-sha-256',
        'hostssl sameuser "news","all" 2001:db8::/64 scram-sha-256',
    ]


def test_hosts_of_a_cluster_show_a_certificate_besides(access: ModuleType) -> None:
    lines = access.postgresql_hba([], ["192.0.2.5"], ["192.0.2.21", "2001:db8::22"])
    assert lines[0] == "local replication replicator scram-sha-256"
    between = [line for line in lines if line.startswith("hostssl")]
    assert len(between) == 4
    assert all(line.endswith("scram-sha-256 clientcert=verify-ca") for line in between)
    assert not any("192.0.2.5" in line for line in lines)
    assert not any(line.startswith(("host ", "hostnossl")) or line.endswith("trust") for line in lines)


def test_clients_are_addresses_and_networks(access: ModuleType) -> None:
    assert access.not_networks(["192.0.2.0/24", "192.0.2.5/24", "::1", "10.0.0.300"]) == ["10.0.0.300"]


# --- passwords


def test_what_is_kept_proves_the_password_as_the_standard_says() -> None:
    # RFC 7677, 3: user, pencil.
    kept = verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    said = (
        "n=user,r=rOprNGfwEbeRWgbNEkqO,"
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    server_key = base64.b64decode(kept.rsplit(":", 1)[1])
    signature = base64.b64encode(hmac.digest(server_key, said.encode(), "sha256")).decode()
    assert signature == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_a_password_is_known_again_and_no_other_is() -> None:
    kept = verifier("one-secret")
    assert kept != verifier("one-secret")
    assert "one-secret" not in kept
    assert proves(kept, "one-secret")
    assert not proves(kept, "another")
    assert not proves(None, "one-secret")
    assert not proves("md5ab12", "one-secret")


# --- services


class Systemd:
    """Stands in for AnsibleModule and the services that it reaches."""

    def __init__(self, *, active: str = "active", reload_first: bool = False, check_mode: bool = False) -> None:
        self.active, self.reload_first, self.check_mode = active, reload_first, check_mode
        self.params: dict[str, Any] = {}
        self.asked: list[str] = []

    def run_command(self, words: list[str], **_: Any) -> tuple[int, str, str]:
        if "--property=ActiveState" in words:
            return 0, f"{self.active}\n", ""
        if "--property=NeedDaemonReload" in words:
            return 0, "yes\n" if self.reload_first else "no\n", ""
        if words[0] == "systemctl":
            self.asked.append(" ".join(words[1:]))
        return 0, "", ""

    def fail_json(self, msg: str, **_: Any) -> None:
        raise AssertionError(msg)


def test_a_service_is_behind_until_it_took_up_what_its_files_say(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("one\n")
    unit = Unit(Systemd(), "some.service", [file, tmp_path / "missing"], tmp_path / "state")
    assert unit.behind()
    unit.remember(unit.digest())
    assert not unit.behind()
    file.write_text("two\n")
    # Whoever changed it, and whether or not that run came to its end.
    assert Unit(Systemd(), "some.service", [file, tmp_path / "missing"], tmp_path / "state").behind()
    assert (tmp_path / "state" / "some.service").stat().st_mode & 0o777 == 0o600


def test_systemd_reads_its_own_files_first(tmp_path: Path) -> None:
    module = Systemd(reload_first=True)
    Unit(module, "some.service", [], tmp_path).system("start", "--no-block")
    assert module.asked == ["daemon-reload", "start --no-block some.service"]


def test_a_host_that_cannot_be_asked_is_no_answer(tmp_path: Path) -> None:
    answer = Client(tmp_path).ask("GET", "https://127.0.0.1:1/health")
    assert (answer.status, answer.good) == (0, False)


# --- etcd

MEMBERS = {"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"}
TOGETHER = "a=https://192.0.2.1:2380,b=https://192.0.2.2:2380,c=https://192.0.2.3:2380"


def entry(name: str, address: str, number: int, began: bool = True) -> dict[str, Any]:
    clients = [f"https://{address}:2379"] if began else []
    return {"ID": str(number), "name": name, "peerURLs": [f"https://{address}:2380"], "clientURLs": clients}


class Others:
    """Stands in for the members on the other hosts."""

    def __init__(self, members: list[dict[str, Any]]) -> None:
        self.members = members
        self.calls: list[tuple[str, Any]] = []

    def ask(self, method: str, url: str, body: Any = None, *, seconds: float = 3) -> Answer:
        action = url.rsplit("/", 1)[1]
        self.calls.append((action, body))
        if action == "health" or not self.members:
            return Answer(0, "refused")
        if action == "remove":
            self.members = [one for one in self.members if one["ID"] != body["ID"]]
        if action == "add":
            self.members = [*self.members, {"ID": "99", "peerURLs": body["peerURLs"]}]
        return Answer(200, {"members": self.members})


@pytest.fixture
def etcd(plugin: Plugin, tmp_path: Path) -> Callable[..., Any]:
    code = plugin("modules", "postgresql_etcd")

    def make(others: list[dict[str, Any]], *, check_mode: bool = False, active: str = "inactive") -> Any:
        module = Systemd(active=active, check_mode=check_mode)
        module.params = {
            "name": "a",
            "members": MEMBERS,
            "content": "ETCD_NAME=a\n",
            "certificates": str(tmp_path),
            "drop_in": str(tmp_path / "drop_in"),
            "file": str(tmp_path / "etcd"),
            "data": str(tmp_path / "data"),
            "seconds": 0,
        }
        member = code.Etcd(module)
        member.client = Others(others)
        member.unit.state = tmp_path / "state"
        member.works = lambda: True
        return member

    return make


def test_hosts_without_data_begin_together(etcd: Callable[..., Any], tmp_path: Path) -> None:
    member = etcd([])
    assert member.start()["changed"]
    text = (tmp_path / "etcd").read_text()
    assert text.startswith("ETCD_NAME=a\n")
    assert f"ETCD_INITIAL_CLUSTER={TOGETHER}\nETCD_INITIAL_CLUSTER_STATE=new\n" in text
    assert member.module.asked == ["start --no-block etcd.service"]


def test_the_slowest_of_those_that_begin_together_does_as_they_did(etcd: Callable[..., Any]) -> None:
    member = etcd([entry("a", "192.0.2.1", 1, began=False), entry("b", "192.0.2.2", 2), entry("c", "192.0.2.3", 3)])
    assert member.start_values()["ETCD_INITIAL_CLUSTER_STATE"] == "new"
    assert [action for action, _ in member.client.calls] == ["list"]


def test_a_new_host_joins_the_cluster_of_the_others(etcd: Callable[..., Any]) -> None:
    member = etcd([entry("b", "192.0.2.2", 2), entry("c", "192.0.2.3", 3)])
    values = member.start_values()
    assert values["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
    assert sorted(values["ETCD_INITIAL_CLUSTER"].split(",")) == TOGETHER.split(",")
    assert [action for action, _ in member.client.calls] == ["list", "add", "list"]


def test_a_host_that_lost_its_data_is_taken_out_before_it_comes_back(etcd: Callable[..., Any]) -> None:
    member = etcd([entry("a", "192.0.2.1", 1), entry("b", "192.0.2.2", 2), entry("c", "192.0.2.3", 3)])
    assert member.start_values()["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
    assert [action for action, _ in member.client.calls] == ["list", "remove", "add", "list"]
    assert member.client.calls[1] == ("remove", {"ID": "1"})


def test_a_join_that_was_interrupted_goes_on(etcd: Callable[..., Any]) -> None:
    member = etcd([entry("", "192.0.2.1", 9, began=False), entry("b", "192.0.2.2", 2), entry("c", "192.0.2.3", 3)])
    assert member.start_values()["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
    assert [action for action, _ in member.client.calls] == ["list"]


def test_a_foreign_member_that_never_began_is_named(etcd: Callable[..., Any]) -> None:
    member = etcd([entry("", "192.0.2.9", 9, began=False), entry("b", "192.0.2.2", 2)])
    with pytest.raises(AssertionError, match=r"https://192\.0\.2\.9:2380 that never began"):
        member.start_values()


def test_a_member_with_data_keeps_what_it_began_with(etcd: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "member").mkdir(parents=True)
    began = {"ETCD_INITIAL_CLUSTER": "a=https://192.0.2.1:2380", "ETCD_INITIAL_CLUSTER_STATE": "new"}
    (tmp_path / "etcd").write_text("".join(f"{name}={value}\n" for name, value in began.items()))
    member = etcd([])
    assert member.start_values() == began
    assert member.start()["changed"]
    again = etcd([], active="active").start()
    assert (again["changed"], again["settled"]) == (False, True)


def test_a_changed_setting_restarts_a_member_that_works(etcd: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "member").mkdir(parents=True)
    etcd([]).start()
    member = etcd([], active="active")
    member.module.params["content"] = "ETCD_NAME=a\nETCD_HEARTBEAT_INTERVAL=200\n"
    first = member.start()
    assert (first["changed"], first["settled"], member.module.asked) == (True, False, [])
    assert member.settle() == {"changed": True, "settled": True}
    assert member.module.asked == ["restart etcd.service"]


def test_check_mode_neither_writes_nor_asks_for_a_place(etcd: Callable[..., Any], tmp_path: Path) -> None:
    member = etcd([entry("b", "192.0.2.2", 2), entry("c", "192.0.2.3", 3)], check_mode=True)
    result = member.start()
    assert (result["changed"], result["settled"]) == (True, True)
    assert not (tmp_path / "etcd").exists()
    assert [action for action, _ in member.client.calls] == ["list"]


# --- Patroni


@pytest.fixture
def patroni(plugin: Plugin) -> ModuleType:
    return plugin("modules", "patroni_cluster")


def test_only_what_is_otherwise_is_patched(patroni: ModuleType) -> None:
    now: dict[str, Any] = {
        "ttl": 20,
        "own": 1,
        "postgresql": {"pg_hba": ["a", "b"], "parameters": {"jit": "off", "own": "2"}},
    }
    wanted = {"ttl": 20, "postgresql": {"pg_hba": ["b", "a"], "parameters": {"jit": "off", "max_connections": "205"}}}
    patch = patroni.patch_for(now, wanted)
    assert patch == {"postgresql": {"pg_hba": ["b", "a"], "parameters": {"max_connections": "205"}}}
    after: dict[str, Any] = patroni.patched(now, patch)
    assert patroni.patch_for(after, wanted) == {}
    assert after["own"] == 1
    assert after["postgresql"]["parameters"] == {"jit": "off", "own": "2", "max_connections": "205"}
    assert now["postgresql"]["pg_hba"] == ["a", "b"]


def test_the_leader_restarts_last_and_who_need_not_does_not(patroni: ModuleType) -> None:
    members = [
        {"name": "a", "role": "leader", "pending_restart": True},
        {"name": "b", "role": "sync_standby", "pending_restart": True},
        {"name": "c", "role": "replica", "pending_restart": True},
        {"name": "d", "role": "replica"},
    ]
    assert [one["name"] for one in patroni.restart_order(members)] == ["c", "b", "a"]


def test_a_leader_that_is_starting_is_none_yet(patroni: ModuleType) -> None:
    assert patroni.leader_of([{"name": "a", "role": "leader", "state": "starting"}]) is None
    assert patroni.leader_of([{"name": "a", "role": "leader", "state": "running"}])["name"] == "a"


def test_a_former_leader_follows_only_once_it_has_the_new_ones_history(patroni: ModuleType) -> None:
    leader = {"name": "a", "role": "leader", "state": "running", "timeline": 2}
    assert patroni.follows(leader, leader)
    assert patroni.follows({"name": "b", "state": "streaming", "timeline": 2}, leader)
    assert not patroni.follows({"name": "b", "state": "running", "timeline": 1}, leader)
    assert not patroni.follows({"name": "b", "state": "creating replica"}, leader)
    assert not patroni.follows(None, leader)


class Api:
    """Stands in for Patroni's REST API."""

    def __init__(self, leader: str, settings: dict[str, Any]) -> None:
        self.leader, self.settings = leader, settings
        self.changes: list[tuple[str, str, Any]] = []

    def ask(self, method: str, url: str, body: Any = None, *, seconds: float = 3) -> Answer:
        if method != "GET":
            self.changes.append((method, url, body))
            return Answer(200, {})
        if url.endswith("/config"):
            return Answer(200, self.settings)
        roles = {name: "leader" if name == self.leader else "replica" for name in MEMBERS}
        members = [{"name": name, "role": role, "state": "running"} for name, role in roles.items()]
        return Answer(200, {"members": members})


@pytest.fixture
def member(patroni: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    def make(leader: str, settings: dict[str, Any], **systemd: Any) -> Any:
        module = Systemd(**systemd)
        module.params = {
            "unit": "patroni@17-main.service",
            "name": "a",
            "api": "https://192.0.2.1:8008",
            "certificates": str(tmp_path),
            "files": [str(tmp_path / "17-main.yml")],
            "settings": {"ttl": 20, "loop_wait": 0},
            "user": "patroni",
            "password": "secret",
            "seconds": 0,
        }
        made = patroni.Patroni(module)
        made.client, made.unit.state = Api(leader, settings), tmp_path / "state"
        return made

    return make


def test_the_leader_brings_shared_settings_up_to_date_and_the_others_look_on(member: Callable[..., Any]) -> None:
    assert member("b", {"ttl": 30}).run()["leader"] == "b"
    copy, leader = member("b", {"ttl": 30}), member("a", {"ttl": 30, "loop_wait": 0})
    assert (copy.run()["changed"], copy.client.changes) == (False, [])
    result = leader.run()
    assert (result["changed"], result["unsettled"]) == (True, True)
    assert leader.client.changes == [("PATCH", "https://192.0.2.1:8008/config", {"ttl": 20})]


def test_a_second_run_changes_nothing(member: Callable[..., Any]) -> None:
    right = {"ttl": 20, "loop_wait": 0}
    first = member("a", right, active="inactive")
    assert first.run()["changed"]
    assert "start patroni@17-main.service" in first.module.asked
    second = member("a", right)
    assert second.run() == {"changed": False, "leader": "a", "unsettled": False}


def test_check_mode_patches_nothing(member: Callable[..., Any]) -> None:
    looking = member("a", {"ttl": 30, "loop_wait": 0}, check_mode=True)
    result = looking.run()
    assert result["changed"]
    assert '"ttl": 20' in result["diff"]["after"]
    assert looking.client.changes == []


# --- databases


class Kept:
    """Stands in for the server."""

    def __init__(self, roles: list[dict[str, Any]], found: list[dict[str, Any]], schema: dict[str, Any]) -> None:
        self.roles, self.found, self.schema = roles, found, schema
        self.ran: list[str] = []

    def rows(self, query: str, database: str = "postgres") -> list[dict[str, Any]]:
        if "pg_authid" in query:
            return self.roles
        return self.found if "pg_database" in query else [self.schema]

    def run(self, statements: str, database: str = "postgres") -> str:
        self.ran.append(f"{database}: {statements}")
        return ""


def role(name: str, password: str, *, superuser: bool = False) -> dict[str, Any]:
    return {"name": name, "password": verifier(password), "login": True, "super": superuser}


@pytest.fixture
def databases(plugin: Plugin) -> Callable[..., Any]:
    code = plugin("modules", "postgresql_databases")

    def make(server: Kept, check_mode: bool = False, **params: Any) -> Any:
        module = Systemd(check_mode=check_mode)
        module.params = {"databases": [{"name": "news", "password": "a-secret"}], "passwords": {}, **params}
        return code.Databases(module, server)

    return make


def test_a_database_is_its_accounts_alone_and_no_statement_has_a_password(databases: Callable[..., Any]) -> None:
    server = Kept([], [], {"owner": "pg_database_owner", "open": True})
    run = databases(server)
    run.bring_about()
    assert run.done == ["account news", "database news", "rights on database news", "schema public of news"]
    assert not any("a-secret" in statements for statements in server.ran)
    assert server.ran[2] == 'postgres: REVOKE ALL ON DATABASE "news" FROM PUBLIC;'
    assert server.ran[3].startswith('news: ALTER SCHEMA public OWNER TO "news";')


def test_what_is_right_is_left_alone(databases: Callable[..., Any]) -> None:
    server = Kept(
        [role("news", "a-secret"), role("postgres", "s", superuser=True)],
        [{"name": "news", "owner": "news", "open": False}],
        {"owner": "news", "open": False},
    )
    run = databases(server, passwords={"postgres": "s"})
    run.bring_about()
    assert (run.done, server.ran) == ([], [])


def test_a_changed_password_is_changed(databases: Callable[..., Any]) -> None:
    server = Kept(
        [role("news", "old"), role("postgres", "old", superuser=True)],
        [{"name": "news", "owner": "news", "open": False}],
        {"owner": "news", "open": False},
    )
    run = databases(server, passwords={"postgres": "new", "not-there": "x"})
    run.bring_about()
    assert run.done == ["password of postgres", "password of news"]
    verifier_of_news = server.ran[1].split("PASSWORD ")[1].strip(";").strip("'")
    assert proves(verifier_of_news, "a-secret")


def test_check_mode_runs_no_statement(databases: Callable[..., Any]) -> None:
    server = Kept([], [], {"owner": "pg_database_owner", "open": True})
    run = databases(server, check_mode=True)
    run.bring_about()
    assert run.done == ["account news", "database news", "rights on database news"]
    assert server.ran == []


def test_a_superuser_is_nobodys_app(databases: Callable[..., Any]) -> None:
    server = Kept([role("news", "a-secret", superuser=True)], [], {})
    with pytest.raises(AssertionError, match="news is a superuser's name"):
        databases(server).bring_about()


def test_names_and_texts_are_quoted() -> None:
    assert identifier('a"b') == '"a""b"'
    assert literal("a'b") == "'a''b'"


# --- a server by itself


@pytest.fixture
def local(plugin: Plugin, tmp_path: Path) -> Callable[..., Any]:
    code = plugin("modules", "postgresql_server")

    class Answers:
        """Stands in for the server."""

        def __init__(self) -> None:
            self.mistakes: list[dict[str, Any]] = []
            self.waits: list[dict[str, Any]] = []
            self.loads = 0

        def reached(self) -> bool:
            return True

        def run(self, statements: str) -> str:
            self.loads += 1
            return str(self.loads)

        def rows(self, query: str) -> list[dict[str, Any]]:
            return self.mistakes if "pg_file_settings" in query else self.waits

    def make(active: str = "active", **answers: Any) -> Any:
        (tmp_path / "settings").write_text(str(answers))
        module = Systemd(active=active)
        module.params = {
            "unit": "postgresql@17-main.service",
            "files": [str(tmp_path / "settings")],
            "log": str(tmp_path / "log"),
            "seconds": 0,
        }
        made = code.Local(module)
        made.server, made.unit.state = Answers(), tmp_path / "state"
        for name, value in answers.items():
            setattr(made.server, name, value)
        return made

    return make


def test_a_server_reloads_and_restarts_only_for_what_needs_it(local: Callable[..., Any]) -> None:
    first = local()
    assert first.bring_about() == {"changed": True, "restarted": []}
    assert first.module.asked == ["reload postgresql@17-main.service"]
    second = local()
    assert second.bring_about() == {"changed": False, "restarted": []}
    assert second.module.asked == []
    third = local(waits=[{"name": "shared_buffers"}])
    assert third.bring_about()["restarted"] == ["shared_buffers"]
    assert third.module.asked == ["reload postgresql@17-main.service", "restart postgresql@17-main.service"]


def test_a_server_that_is_down_is_started(local: Callable[..., Any]) -> None:
    down = local("failed")
    assert down.bring_about()["changed"]
    assert down.module.asked == ["restart postgresql@17-main.service"]


def test_files_that_are_not_understood_are_not_loaded(local: Callable[..., Any]) -> None:
    wrong = local(mistakes=[{"file": "/etc/x", "line": 3, "error": "work_mem: setting could not be applied"}])
    with pytest.raises(AssertionError, match=r"/etc/x, line 3: work_mem"):
        wrong.bring_about()
    assert wrong.module.asked == []


# --- before anything is done


def test_a_server_of_the_other_form_is_not_put_in_danger(plugin: Plugin, tmp_path: Path) -> None:
    code = plugin("modules", "postgresql_preflight")
    assert code.server_problem(17, True, tmp_path) == code.server_problem(17, False, tmp_path) == ""
    plain = tmp_path / "postgresql/17/main/postgresql.conf"
    plain.parent.mkdir(parents=True)
    plain.touch()
    assert "pg_dumpall" in code.server_problem(17, True, tmp_path)
    assert code.server_problem(17, False, tmp_path) == ""
    (tmp_path / "patroni").mkdir()
    (tmp_path / "patroni/17-main.yml").touch()
    assert "member of a cluster" in code.server_problem(17, False, tmp_path)


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        ({}, []),
        ({"postgresql/17/main": "port = 5432"}, []),
        ({"postgresql/17/main": "# port = 5433\n"}, []),
        # An upgrade of Debian by hand, before and after a run that made a new one beside it.
        (
            {"postgresql/15/main": "port = 5432"},
            ["PostgreSQL 15 (", "install postgresql-17", "pg_upgradecluster 15 main"],
        ),
        (
            {"postgresql/15/main": "port = 5432", "postgresql/17/main": "port = 5433\t# (change requires restart)"},
            ["There is one already, on port 5433.", "pg_dropcluster --stop 17 main", "pg_upgradecluster 15 main"],
        ),
        # pg_upgradecluster gives the new one the port.
        ({"postgresql/15/main": "port = 5433", "postgresql/17/main": "port = 5432"}, []),
        ({"postgresql/15/main": "port = 5432", "postgresql/17/other": "port = 5433"}, ["PostgreSQL 15 ("]),
        # From another archive than Debian's.
        ({"postgresql/18/main": "port = 5432"}, ["PostgreSQL 18 (", "pg_dropcluster --stop 18 main, run this again"]),
        ({"patroni/15-main.yml": ""}, ["PostgreSQL 15 (", "pg_dumpall, with PostgreSQL 15"]),
        ({"patroni/15-main.yml": "", "patroni/17-main.yml": ""}, []),
    ],
)
def test_a_server_of_another_version_is_not_left_beside_an_empty_one(
    plugin: Plugin, tmp_path: Path, servers: dict[str, str], words: list[str]
) -> None:
    for name, text in servers.items():
        path = tmp_path / name / ("" if name.endswith(".yml") else "postgresql.conf")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    problem = plugin("modules", "postgresql_preflight").other_version_problem(17, tmp_path)
    assert bool(problem) is bool(words), problem
    for word in words:
        assert word in problem


def test_missing_certificates_and_foreign_addresses_are_told(plugin: Plugin, tmp_path: Path) -> None:
    code = plugin("modules", "postgresql_preflight")
    assert "lacks key.pem, certificate.pem, authority.pem" in code.certificate_problem(tmp_path)
    assert code.own_address("127.0.0.1")
    assert not code.own_address("192.0.2.77")


def test_a_clean_host_tells_its_cores_and_memory(run_module: Callable[..., dict[str, Any]]) -> None:
    # This machine may have a server of its own.
    here = [int(path.parts[-3]) for path in Path("/etc/postgresql").glob("[0-9]*/main/postgresql.conf")]
    common = {"version": max(here, default=99), "cluster": False, "address": "127.0.0.1"}
    told = run_module("postgresql_preflight", check=True, certificates="/nowhere", **common)
    assert not run_module("postgresql_preflight", **common)["changed"]
    assert told["cores"] >= 1
    assert told["memory_mb"] > 100
    assert not told["changed"]
    refused = run_module(
        "postgresql_preflight", version=99, cluster=True, address="192.0.2.77", certificates="/nowhere"
    )
    assert refused["failed"]
    assert "it has no address 192.0.2.77" in refused["msg"]
    assert "/nowhere lacks" in refused["msg"]


def test_errors_of_the_server_keep_their_own_words() -> None:
    assert str(ServerError("FATAL: no")) == "FATAL: no"
