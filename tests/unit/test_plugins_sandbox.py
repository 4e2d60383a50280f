"""What a source or an index sends is unpacked and installed by an account without rights, and is root's afterwards."""

from __future__ import annotations

import hashlib
import io
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils import disk_space
from ansible.module_utils import release as release_utils
from ansible.module_utils import sandbox as sandbox_utils
from ansible.module_utils import uv as uv_utils
from ansible.module_utils.disk_space import caches, size, wanted
from ansible.module_utils.release import App, Release
from ansible.module_utils.sandbox import Sandbox, Unfit, environment_file, secrets_in, take_over

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another account")

UV = Path(sys.executable).with_name("uv")
NOBODY = pwd.getpwnam("nobody")

# This machine's init need not be systemd. Account, rights, folder, environment and streams are as that has them.
SYSTEMD_RUN = """#!/usr/bin/python3 -I
import os, re, sys
settings, words = [], sys.argv[1:]
while (word := words.pop(0)) != "--":
    settings += [word.removeprefix("--property=")] if word.startswith("--property=") else []
given = dict(setting.split("=", 1) for setting in settings)
with open(os.environ["NOTED"], "a") as noted:
    noted.write("\\0".join([*sys.argv, ""]))
text = open(given["EnvironmentFile"]).read()
lines = re.findall(r'^(\\w+)="((?:[^"\\\\]|\\\\.)*)"$', text, re.MULTILINE)
names = {name: re.sub(r"\\\\(.)", r"\\1", value) for name, value in lines}
os.chdir(given["WorkingDirectory"])
os.umask(int(given["UMask"], 8))
os.execvpe("setpriv", ["setpriv", f"--reuid={given['User']}", "--regid=nogroup", "--clear-groups", "--no-new-privs",
    "--inh-caps=-all", "--bounding-set=-all", "--", *(word.replace("$$", "$") for word in words)],
    {"PATH": os.environ["PATH"], **names})
"""


class Host:
    """A place below /tmp that another account can reach, with an app."""

    def __init__(self, folder: Path) -> None:
        """Make it."""
        self.folder, self.app = folder, App("news")
        self.noted = folder / "noted"
        for name in ("srv/news/releases", "srv/news/shared", "programs"):
            (folder / name).mkdir(parents=True)
        for name, text in {"systemd-run": SYSTEMD_RUN, "systemctl": "#!/bin/sh\n"}.items():
            (folder / "programs" / name).write_text(text)
            (folder / "programs" / name).chmod(0o755)

    def release(self, number: int) -> Release:
        """Make the folder of a release."""
        release = Release(self.app, f"2026010{number}T000000Z-0123abcd")
        release.folder.mkdir()
        return release

    def arguments(self) -> str:
        """All that systemd-run was called with."""
        return self.noted.read_text()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Put what is the host's below a folder, with an account that is there already."""
    folder = Path(tempfile.mkdtemp(prefix="flask-on-metal-test."))
    folder.chmod(0o755)
    monkeypatch.setattr(sandbox_utils, "ACCOUNT", "nobody")
    monkeypatch.setattr(sandbox_utils, "account_ids", lambda *_: (NOBODY.pw_uid, NOBODY.pw_gid))
    monkeypatch.setattr(sandbox_utils, "CACHES", folder / "caches")
    monkeypatch.setattr(sandbox_utils, "RUNTIME", folder / "run")
    monkeypatch.setattr(release_utils, "SERVED", folder / "srv")
    monkeypatch.setenv("PATH", f"{folder / 'programs'}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTED", str(folder / "noted"))
    yield Host(folder)
    shutil.rmtree(folder)


def run(sandbox: Sandbox, script: str, folder: Path) -> tuple[int, str, str]:
    return sandbox.run(["/bin/sh", "-c", script], where=folder, writes=[folder])


# --- the account


def test_a_command_has_neither_rights_nor_a_way_to_them(host: Host) -> None:
    folder = host.release(1).folder
    status, out, err = run(Sandbox("news"), "id -u; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status", folder)
    assert (status, err) == (0, "")
    zero = "0" * 16
    assert out.split() == [str(NOBODY.pw_uid), "CapEff:", zero, "CapBnd:", zero, "NoNewPrivs:", "1"]


def test_a_command_writes_where_it_may_and_nowhere_else(host: Host) -> None:
    release, sandbox = host.release(1), Sandbox("news")
    mine = release.folder / "venv"
    mine.mkdir()
    sandbox.give(mine)
    assert run(sandbox, "echo x >file", mine)[0] == 0
    status, _, err = run(sandbox, "echo x >../file", mine)
    assert status != 0 and "Permission denied" in err


def test_the_environment_arrives_and_is_neither_in_arguments_nor_left_behind(host: Host) -> None:
    value = 'hunter2 "quoted" $HOME `id` \\ ü'
    sandbox = Sandbox("news", {"UV_INDEX_WORK_PASSWORD": value})
    status, out, _ = run(sandbox, 'printf %s "$UV_INDEX_WORK_PASSWORD"', host.release(1).folder)
    assert (status, out) == (0, value)
    assert "hunter2" not in host.arguments()
    assert list((host.folder / "run").iterdir()) == []


def test_a_dollar_in_a_command_is_not_systemds(host: Host) -> None:
    assert run(Sandbox("news"), "x=1; echo $x $$ | grep -c '^1 [0-9]'", host.release(1).folder)[1] == "1\n"


def test_what_the_host_trusts_is_trusted_unless_the_operator_says_otherwise(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert Sandbox("news").environment["SSL_CERT_FILE"] == "/etc/ssl/certs/ca-certificates.crt"
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/hosts")
    assert Sandbox("news").environment["SSL_CERT_FILE"] == "/etc/hosts"
    own = Sandbox("news", {"SSL_CERT_FILE": "/etc/own.pem"})
    assert own.environment["SSL_CERT_FILE"] == "/etc/own.pem"


def test_a_file_that_the_environment_names_is_shown(host: Host) -> None:
    named = host.folder / "netrc"
    named.touch()
    run(Sandbox("news", {"NETRC": str(named), "OTHER": "/nowhere"}), "true", host.release(1).folder)
    assert f"-{named}" in host.arguments() and "/nowhere" not in host.arguments()


def test_a_hosts_own_proxy_and_index_are_taken_and_nothing_else_of_roots_environment(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "UV_DEFAULT_INDEX", "SUDO_USER", "PYTHONPATH"):
        monkeypatch.setenv(name, "x")
    found = Sandbox("news").environment
    assert found["https_proxy"] == found["UV_DEFAULT_INDEX"] == "x"
    assert not {"SUDO_USER", "PYTHONPATH"} & set(found)


def test_each_app_has_a_cache_of_its_own(host: Host) -> None:
    caches = {Sandbox(name).cache for name in ("news", "blog")}
    assert len(caches) == 2
    run(Sandbox("news"), "true", host.release(1).folder)
    found = Sandbox("news").cache.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (NOBODY.pw_uid, 0o700)


def test_a_command_that_says_nothing_is_explained(host: Host) -> None:
    _, _, err = run(Sandbox("news"), "exit 226", host.release(1).folder)
    assert err == "it ended with status 226, and said nothing. On the host: journalctl -u news-build.service"


def test_what_is_secret_in_an_environment_is_known() -> None:
    assert secrets_in(
        {
            "UV_HTTP_TIMEOUT": "3",
            "UV_DEFAULT_INDEX": "https://me:hunter2@example.org/simple",
            "UV_INDEX": "work=https://t0ken@example.org/simple https://example.org/simple",
            "UV_INDEX_WORK_PASSWORD": "hunter3",
            "HTTPS_PROXY": "http://192.0.2.1:3128",
        }
    ) == {"me:hunter2", "hunter2", "t0ken", "hunter3"}
    assert environment_file({"A": 1}) == 'A="1"\n'


# --- what becomes root's


def made(host: Host, script: str) -> Path:
    """Have the account make something."""
    sandbox, folder = Sandbox("news"), host.release(1).folder / "code"
    folder.mkdir()
    sandbox.give(folder)
    status, _, err = run(sandbox, script, folder)
    assert status == 0, err
    return folder


def test_what_was_made_becomes_roots_and_nobody_elses_to_change(host: Host) -> None:
    folder = made(host, "mkdir a; echo x >a/x; chmod 777 a a/x; echo y >y; chmod 4755 y; ln -s a/x link; ln -s a here")
    take_over(folder)
    for path in [folder, *folder.rglob("*")]:
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (0, 0), path
        assert path.is_symlink() or found.st_mode & 0o7022 == 0, path
    assert (folder / "link").read_text() == "x\n"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ln -s /etc/passwd out", "the link out leads out, to /etc/passwd"),
        ("ln -s .. out", "the link out leads out, to .."),
        ("mkdir -p a/b; ln -s .. a/up; ln -s ../up/../x a/b/out", "the link a/b/out leads out"),
        ("ln -s /usr/bin/python3/../../../etc out", "the link out leads out"),
        ("mkfifo pipe", "pipe is no file, folder or link"),
        ("echo x >x; ln x y", "has a second name"),
    ],
)
def test_what_could_be_changed_later_or_leads_out_is_refused(host: Host, script: str, words: str) -> None:
    folder = made(host, script)
    with pytest.raises(Unfit, match=words):
        take_over(folder)


def test_a_socket_is_refused(host: Host) -> None:
    folder = made(host, "true")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        with pytest.raises(Unfit, match="s is no file"):
            take_over(folder)


# --- the code


@pytest.fixture
def fetch(plugin: Callable[[str, str], ModuleType], host: Host) -> ModuleType:
    """Import release_fetch."""
    return plugin("modules", "release_fetch")


def archive(host: Host, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    path = host.folder / "code.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        for member, content in members:
            member.size, member.mtime = len(content), 1767225600
            made.addfile(member, io.BytesIO(content))
    path.chmod(0o600)
    return path


def member(name: str, *, mode: int = 0o644, link: str = "", kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.mode = mode
    if link:
        found.type, found.linkname = kind, link
    return found


def test_code_is_unpacked_as_it_was_sent_and_compiled(host: Host, fetch: ModuleType) -> None:
    release = host.release(1)
    code = release.folder / "code"
    code.mkdir()
    sent = [
        (member("app.py"), b"application = None\n"),
        (member("bad.py"), b"def"),
        (member("bin/run.sh", mode=0o755), b"#!/bin/sh\n"),
        (member("größe.html"), b"\x00\xff"),
        (member("here", link="bin"), b""),
    ]
    fetch.unpack(release, archive(host, *sent))
    assert (code / "app.py").read_text() == "application = None\n" and (code / "größe.html").read_bytes() == b"\x00\xff"
    modes = {path.name: path.stat().st_mode & 0o777 for path in code.iterdir() if path.is_file()}
    assert modes == {"app.py": 0o644, "bad.py": 0o644, "größe.html": 0o644}
    assert (code / "bin/run.sh").stat().st_mode & 0o777 == 0o755 and (code / "here").readlink() == Path("bin")
    # NGINX makes the ETag of it.
    assert (code / "app.py").stat().st_mtime == 1767225600
    assert [path.name.split(".")[0] for path in (code / "__pycache__").iterdir()] == ["app"]
    assert {path.lstat().st_uid for path in [code, *code.rglob("*")]} == {0}


def test_what_is_not_for_everybody_arrives_for_the_app_alone(
    host: Host, fetch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = host.release(1)
    (release.folder / "code").mkdir()
    sent = [(member("instance/config.py", mode=0o640), b"key = 1\n"), (member("app.py"), b"")]
    fetch.unpack(release, archive(host, *sent))
    monkeypatch.setattr(fetch.pwd, "getpwnam", lambda _: NOBODY)
    fetch.close(release)
    written = [path for path in (release.folder / "code").rglob("*.py*") if path.is_file()]
    # And so is what it was compiled to.
    assert len(written) == 4
    for path in written:
        closed, state = path.name.startswith("config"), path.stat()
        assert (state.st_uid, state.st_gid) == (0, NOBODY.pw_gid if closed else 0), path
        assert state.st_mode & 0o777 == (0o640 if closed else 0o644), path


@pytest.mark.parametrize(
    "sent",
    [
        [(member("a", link="/OUT"), b""), (member("a/x"), b"written")],
        [(member("../../x"), b"written")],
        [(member("/OUT/x"), b"written")],
        [(member("x", link="/OUT/secret", kind=tarfile.LNKTYPE), b"")],
        [(member("a", link="/OUT"), b"")],
    ],
    ids=["through a link", "up", "from the root", "a second name for it", "a link alone"],
)
def test_nothing_is_written_elsewhere_whatever_was_sent(
    host: Host, fetch: ModuleType, sent: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    # The control node refuses such a source; this is what a host does with one that got by.
    out = host.folder / "out"
    out.mkdir(mode=0o755)
    (out / "secret").write_text("secret")
    (out / "secret").chmod(0o600)
    for item, _ in sent:
        item.name, item.linkname = (text.replace("/OUT", str(out)) for text in (item.name, item.linkname))
    release = host.release(1)
    (release.folder / "code").mkdir()
    with_code = set(release.folder.iterdir())
    try:
        fetch.unpack(release, archive(host, *sent))
    except Unfit:
        pass
    else:
        assert not any(path.is_symlink() for path in (release.folder / "code").rglob("*"))
    assert [path.name for path in out.iterdir()] == ["secret"] and (out / "secret").lstat().st_nlink == 1
    assert set(release.folder.iterdir()) == with_code and not (host.folder / "srv" / "x").exists()


def test_an_archive_that_is_none_is_said_to_be(host: Host, fetch: ModuleType) -> None:
    release = host.release(1)
    (release.folder / "code").mkdir()
    (host.folder / "code.tar.gz").write_text("none")
    with pytest.raises(Unfit, match="gzip: stdin: not in gzip format"):
        fetch.unpack(release, host.folder / "code.tar.gz")


# --- the environment


def wheel(folder: Path, name: str = "thing") -> str:
    """Make a wheel of a small package; returns its hash."""
    about = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "answer = 42\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
        f"{about}/RECORD": "",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        for file, text in files.items():
            made.writestr(file, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Builder:
    """Builds releases by uv itself, of a wheel in a folder."""

    def __init__(self, host: Host, plugin: Callable[[str, str], ModuleType], fake_module: Any) -> None:
        """Take no index: what is there is all."""
        self.host, self.plugin, self.fake_module = host, plugin("modules", "release_build"), fake_module
        self.wheels = host.folder / "wheels"
        self.wheels.mkdir()
        self.hash = wheel(self.wheels)
        self.environment = {"UV_FIND_LINKS": str(self.wheels), "UV_NO_INDEX": "1"}

    def build(self, number: int, **files: str) -> Release:
        """Build a release whose code has these requirements files."""
        release = self.host.release(number)
        (release.folder / "code").mkdir()
        for name, text in files.items():
            (release.folder / "code" / f"{name}.txt").write_text(text)
        module = self.fake_module(requirement="", requirements="requirements.txt", resolve=False, keep=5)
        self.plugin.Build(module, release, Sandbox("news", self.environment)).run()
        return release


@pytest.fixture
def builder(
    host: Host, plugin: Callable[[str, str], ModuleType], fake_module: Any, monkeypatch: pytest.MonkeyPatch
) -> Builder:
    """Have uv where another account can run it, on a disk that has nothing to keep free."""
    if not UV.exists():
        pytest.skip("uv is not beside this Python")
    for name in ("RESERVE", "FIRST"):
        monkeypatch.setattr(disk_space, name, 0)
    programs = host.folder / "uv" / "bin"
    programs.mkdir(parents=True)
    shutil.copy2(UV, programs / "uv")
    found = Builder(host, plugin, fake_module)
    monkeypatch.setattr(found.plugin, "UV", programs / "uv")
    monkeypatch.setattr(uv_utils, "UV", programs / "uv")
    return found


def test_an_environment_is_made_by_the_account_and_is_roots_afterwards(builder: Builder) -> None:
    release = builder.build(1, requirements="-r more.txt\n", more="thing\n")
    lock = (release.folder / "requirements.lock").read_text()
    assert lock.startswith("# asked: ") and f"thing==1.0 \\\n    --hash=sha256:{builder.hash}" in lock
    venv = release.folder / "venv"
    said = subprocess.run(
        [venv / "bin/python", "-c", "import thing; print(thing.answer)"], capture_output=True, text=True
    )
    assert said.stdout == "42\n"
    everything = [venv, *venv.rglob("*")]
    assert {path.lstat().st_uid for path in everything} == {0}
    assert [path for path in everything if not path.is_symlink() and path.stat().st_mode & 0o022] == []
    # Nothing is written once it serves; and nothing of it is in the cache, which another build writes to.
    assert any(path.name.startswith("thing.") and path.suffix == ".pyc" for path in everything)
    assert [path for path in everything if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1] == []
    assert not (venv / ".lock").exists()


def test_the_next_release_copies_what_would_be_the_same(builder: Builder) -> None:
    first = builder.build(1, requirements="thing\n")
    builder.host.app.link.symlink_to(f"releases/{first.id}")
    before = builder.host.arguments()
    second = builder.build(2, requirements="thing\n")
    assert builder.host.arguments() == before
    assert (second.folder / "venv/bin/thing").read_bytes() == (first.folder / "venv/bin/thing").read_bytes()


def test_a_build_notes_what_its_release_takes(builder: Builder) -> None:
    for number in (1, 2):
        release = builder.build(number, requirements="thing\n", notes="x" * 2**20 * number)
        assert abs(int((release.folder / "size").read_text()) - size(release.folder)) < 2**17
        builder.host.app.link.unlink(missing_ok=True)
        builder.host.app.link.symlink_to(f"releases/{release.id}")
        assert wanted(builder.host.app) > number * 2**20


def test_a_cache_above_its_limit_begins_anew(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    builder.build(1, requirements="thing\n")
    cache = Sandbox("news").cache
    assert caches() == [cache] and any(path.is_dir() for path in cache.iterdir())
    monkeypatch.setattr(builder.plugin, "UV_CACHE_LIMIT", 0)
    builder.build(2, requirements="thing\n")
    assert not any(path.is_dir() for path in cache.iterdir())


# As systemd has it: what runs is none of the caller's descendants, and outlives who asked for it.
DETACHED = """#!/bin/sh
setsid --fork sh -c 'echo $$ >"$NOTED.pid"; exec sleep 60'
until [ -s "$NOTED.pid" ]; do sleep 0.01; done
while [ -e "/proc/$(cat "$NOTED.pid")/fd/0" ]; do sleep 0.01; done
exit 1
"""
KILLING = """#!/bin/sh
echo "$@" >>"$NOTED"
[ "$1" != kill ] || [ ! -s "$NOTED.pid" ] || kill -KILL "$(cat "$NOTED.pid")"
"""


def test_a_build_is_ended_where_systemd_runs_it_and_says_why(
    builder: Builder, module_failed: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = builder.host.folder / "programs"
    (programs / "systemd-run").write_text(DETACHED)
    (programs / "systemctl").write_text(KILLING)
    monkeypatch.setattr(builder.plugin, "shortage", lambda _: "")
    monkeypatch.setattr(disk_space, "RESERVE", 2**60)
    begun = time.monotonic()
    with pytest.raises(module_failed, match="they are for the apps that run"):
        builder.build(1, requirements="thing\n")
    assert time.monotonic() - begun < 20
    assert "kill --signal=SIGKILL news-build.service\n" in builder.host.arguments()
    pid = builder.host.noted.with_suffix(".pid").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
    assert state.strip()[:1] in ("", "Z")


class Index(SimpleHTTPRequestHandler):
    """Lists folders of wheels, as a simple package index does."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """Serve three places with a package each."""
    for name in ("one", "two", "three"):
        folder = tmp_path / "index" / name / f"from-{name}"
        folder.mkdir(parents=True)
        wheel(folder, f"from_{name}")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=str(tmp_path / "index"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_was_resolved_by_an_index_of_the_apps_is_installed_from_it(builder: Builder, index: str) -> None:
    builder.environment = {"SECRET_OF_THE_INDEX": "hunter2"}
    with_secret = index.replace("//", "//me:${SECRET_OF_THE_INDEX}@")
    release = builder.build(
        1,
        requirements=f"--index-url {with_secret}/one\n--extra-index-url {index}/two\n"
        f"--find-links {index}/three/from-three/\nfrom-one\nfrom-two\nfrom-three\n",
    )
    assert "hunter2" not in (release.folder / "requirements.lock").read_text()
    installed = {path.name for path in (release.folder / "venv" / "lib").glob("*/site-packages/from_*.dist-info")}
    assert installed == {f"from_{name}-1.0.dist-info" for name in ("one", "two", "three")}


EVIL = {
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": "import os\nopen({path!r}, 'w').write(str(os.getuid()))\n",
}


def test_code_that_a_package_runs_nevertheless_is_the_accounts_and_not_roots(builder: Builder) -> None:
    # The control node refuses such a line; this is what a host does with one that got by.
    ran = builder.host.folder / "ran"
    ran.mkdir()
    ran.chmod(0o777)
    evil = builder.wheels / "evil"
    evil.mkdir()
    for name, text in EVIL.items():
        (evil / name).write_text(text.format(path=str(ran / "by")))
    with (evil / "pyproject.toml").open("a") as project:
        project.write('[project]\nname = "evil"\ndynamic = ["version"]\n')
    with pytest.raises(Unfit, match="Failed to build"):
        builder.build(1, requirements=f"--no-binary evil\n{evil}\n")
    assert (ran / "by").read_text() == str(NOBODY.pw_uid)


@pytest.mark.parametrize("name", ["release_build", "wheel_environment"])
def test_an_index_password_is_not_in_what_a_module_tells_of_itself(
    run_module: Callable[..., dict[str, Any]], name: str
) -> None:
    own: dict[str, dict[str, Any]] = {
        "release_build": {"app": "news", "id": "20260101T000000Z-0123abcd", "run": "0123456789ab", "uv": "uv==3",
                          "requirements": "requirements3.txt", "keep": 5},
        "wheel_environment": {"path": "/nowhere/venv3", "lock": "/nowhere/requirements3.txt"},
    }  # fmt: skip
    environment = {"UV_DEFAULT_INDEX": "https://me:hunter2@example.org/simple", "UV_HTTP_TIMEOUT": "3"}
    said = run_module(name, check=True, environment=environment, **own[name])
    assert said["changed"] and "hunter2" not in str(said)
    # And a short value is not cut out of everything else.
    assert "requirements3.txt" in str(said["invocation"])


def test_an_environment_that_cannot_be_made_says_so_without_the_password(
    builder: Builder, run_module: Callable[..., dict[str, Any]]
) -> None:
    folder = builder.host.folder / "bench"
    folder.mkdir()
    (folder / "requirements.txt").write_text("other==1 --hash=sha256:" + "0" * 64 + "\n")
    index = {"UV_DEFAULT_INDEX": "http://me:hunter2@127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    arguments = {"path": f"{folder}/venv", "lock": f"{folder}/requirements.txt"}
    said = run_module("wheel_environment", environment=index, **arguments)
    assert said["failed"] and "127.0.0.1:9" in said["msg"] and "hunter2" not in str(said)
    assert not (folder / "venv").exists() and "hunter2" not in builder.host.arguments()
    (folder / "requirements.txt").write_text(f"thing==1.0 --hash=sha256:{builder.hash}\n")
    for changed in (True, False):
        said = run_module("wheel_environment", environment=builder.environment, **arguments)
        assert said["changed"] is changed, said
    assert (folder / "venv/bin/thing").exists()
