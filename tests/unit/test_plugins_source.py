"""A release's id follows from what the operator put in: the source, the options, the values; and from nothing else."""

from __future__ import annotations

# ruff: noqa: D102, D107  (stand-ins: their names say what they do)
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils import release_source
from ansible.module_utils.filesystem import landing
from ansible.module_utils.release_source import (
    Layout,
    Source,
    SourceError,
    input_digest,
    keyed_digest,
    time_of,
)

ROOT = Path(__file__).resolve().parents[2]
EXCLUDE = (".git", "venv", "__pycache__", "*.pyc")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Make a small source with a file of each kind."""
    folder = tmp_path / "app"
    (folder / "pages").mkdir(parents=True)
    (folder / "app.py").write_text("application = None\n")
    (folder / "pages" / "größe.html").write_bytes(b"\x00\xff")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "here").symlink_to("pages")
    return folder


def of(folder: Path) -> Source:
    return Source.parse(str(folder), exclude=EXCLUDE)


def test_a_digest_is_the_same_for_two_copies_whatever_their_times_owners_and_umask(app: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(app, copy, symlinks=True)
    for path in [copy, *copy.rglob("*")]:
        os.utime(path, (1, 1), follow_symlinks=False)
        if os.getuid() == 0:
            os.chown(path, 1234, 1234, follow_symlinks=False)
    (copy / "app.py").chmod(0o600)
    (copy / "run.sh").chmod(0o700)
    (copy / "empty").mkdir()
    assert of(copy).digest() == of(app).digest()


def replace_link(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda app: (app / "app.py").write_text("application = 1\n"),
    "execute bit set": lambda app: (app / "app.py").chmod(0o755),
    "execute bit gone": lambda app: (app / "run.sh").chmod(0o644),
    "a link's target": lambda app: replace_link(app / "here", lambda path: path.symlink_to("app.py")),
    "a link becomes a file": lambda app: replace_link(app / "here", lambda path: path.write_text("pages")),
    "a new name": lambda app: (app / "app.py").rename(app / "main.py"),
    "another folder": lambda app: (app / "app.py").rename(app / "pages" / "app.py"),
    "a new file": lambda app: (app / "more.py").touch(),
    "a file less": lambda app: (app / "app.py").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_digest_differs_after_each_change(app: Path, change: Callable[[Path], object]) -> None:
    before = of(app).digest()
    change(app)
    assert of(app).digest() != before


def test_what_is_excluded_is_left_out_at_any_depth(app: Path) -> None:
    before = of(app).digest()
    for name in (".git/HEAD", "venv/bin/python", "pages/__pycache__/x.txt", "pages/x.pyc"):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).touch()
    (app / "pages" / "venv").symlink_to("/usr")
    assert of(app).digest() == before
    assert [entry.name for entry in of(app).entries()] == ["app.py", "here", "pages/größe.html", "run.sh"]


LINKS = {"here": "pages", "pages/up": "..", "pages/deep/out": "../up/../x", "one": "two", "two": "one", "root": "/etc"}


@pytest.mark.parametrize(
    ("path", "lands"),
    [
        ("a", "a"),
        ("x/../a", "a"),
        ("x/./a", "x/a"),
        ("x/..", ""),
        ("..hidden", "..hidden"),
        ("here/index.html", "pages/index.html"),
        ("here/up/a", "a"),
        ("..", None),
        ("x/y/../../../b", None),
        ("/etc/passwd", None),
        ("root/passwd", None),
        # By its text it stays inside. The link on its way says otherwise.
        ("pages/deep/out", None),
        ("here/up/../a", None),
        ("one", None),
    ],
)
def test_a_path_is_followed_through_the_links_on_its_way(path: str, lands: str | None) -> None:
    assert landing(path, LINKS) == lands


@pytest.mark.parametrize("target", ["/etc/passwd", "../elsewhere"])
def test_a_link_out_of_the_source_is_refused_by_name(app: Path, target: str) -> None:
    (app / "out").symlink_to(target)
    with pytest.raises(SourceError, match=f"the link out .* to {target}"):
        of(app).digest()


def test_a_link_that_leads_out_by_another_link_is_refused_by_name(app: Path) -> None:
    (app / "pages" / "deep").mkdir()
    (app / "pages" / "up").symlink_to("..")
    (app / "pages" / "deep" / "out").symlink_to("../up/../etc")
    with pytest.raises(SourceError, match=r"the link pages/deep/out .* to \.\./up/\.\./etc"):
        of(app).digest()


def test_links_in_a_circle_are_refused_by_name(app: Path) -> None:
    (app / "one").symlink_to("two")
    (app / "two").symlink_to("one")
    with pytest.raises(SourceError, match="the link one of the source"):
        of(app).digest()


def test_a_link_to_a_folder_above_it_within_the_source_is_fine(app: Path) -> None:
    (app / "pages" / "up").symlink_to("..")
    assert of(app).digest()


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{tmp_path}/nowhere is no directory"):
        of(tmp_path / "nowhere").digest()


def test_a_folder_that_cannot_be_read_is_an_error_and_not_left_out(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("pages"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"pages can't be read: Permission denied"):
        of(app).digest()


def test_an_archive_brings_the_same_source_to_the_host(app: Path, tmp_path: Path) -> None:
    of(app).write_archive(tmp_path / "code.tar.gz", 1767225600)
    with tarfile.open(tmp_path / "code.tar.gz") as archive:
        modes = {member.name: (oct(member.mode), member.uid, member.mtime) for member in archive}
        if hasattr(tarfile, "data_filter"):
            archive.extractall(tmp_path / "host", filter="data")
        else:
            archive.extractall(tmp_path / "host")
    assert modes["app.py"] == ("0o644", 0, 1767225600) and modes["run.sh"] == ("0o755", 0, 1767225600)
    assert of(tmp_path / "host").digest() == of(app).digest()


KEY = "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("name", "text", "mode"),
    [
        (".env", "TOKEN=abc\n", "0o640"),
        ("pages/.env", "", "0o640"),
        (".env.production", "", "0o640"),
        (".env.example", "", "0o644"),
        (".envoy", "", "0o644"),
        (".netrc", "", "0o640"),
        ("instance/config.py", "SECRET_KEY = 'x'\n", "0o640"),
        ("pages/instance/x", "", "0o644"),
        ("tls/server.pem", f"-----BEGIN CERTIFICATE-----\n{KEY}", "0o640"),
        ("tls/chain.pem", "-----BEGIN CERTIFICATE-----\n", "0o644"),
        ("settings.py", "", "0o644"),
    ],
)
def test_what_may_hold_a_secret_is_not_for_every_account_of_a_host(
    app: Path, tmp_path: Path, name: str, text: str, mode: str
) -> None:
    (app / name).parent.mkdir(parents=True, exist_ok=True)
    (app / name).write_text(text)
    of(app).write_archive(tmp_path / "code.tar.gz", 1)
    with tarfile.open(tmp_path / "code.tar.gz") as archive:
        assert oct(archive.getmember(name).mode) == mode
    (app / name).chmod(0o700)
    of(app).write_archive(tmp_path / "code.tar.gz", 1)
    with tarfile.open(tmp_path / "code.tar.gz") as archive:
        assert oct(archive.getmember(name).mode) == {"0o640": "0o750", "0o644": "0o755"}[mode]


def run_release_source(app: Path, folder: Path, **more: object) -> str:
    """Work out the id of a release by a real run, and return what it says."""
    entry = {"name": "news", "source": str(app), "requirements": "requirements.txt", "environment": {}, "secrets": {}}
    playbook = [{"hosts": "localhost", "gather_facts": False, "tasks": [{"release_source": {"app": entry | more}}]}]
    (folder / "play.yml").write_text(yaml.safe_dump(playbook))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", folder / "play.yml"],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    return " ".join((done.stdout + done.stderr).split())


def test_what_is_left_out_of_the_folder_instance_is_told(repository: Repository, tmp_path: Path) -> None:
    spec = yaml.safe_load((ROOT / "roles/flask_app/meta/argument_specs.yml").read_text())["argument_specs"]["main"]
    default = spec["options"]["flask_apps"]["options"]["exclude"]["default"]
    app = repository.folder
    (app / "requirements.txt").touch()
    more = {"version": "", "exclude": default, "static": {}}
    assert "without" not in run_release_source(app, tmp_path, **more)
    (app / "instance" / "__pycache__").mkdir(parents=True)
    (app / "instance" / "__pycache__" / "config.pyc").touch()
    assert of(app).left_out() == Source.parse(str(app), exclude=tuple(default)).left_out() == []
    (app / "instance" / "config.py").touch()
    repository.commit()
    told = run_release_source(app, tmp_path, **more)
    assert "news: the release is made without instance/config.py of the source, as exclude has instance" in told
    # Who names it knows.
    assert "without" not in run_release_source(app, tmp_path, **more | {"exclude": [".git", "instance"]})
    found = Source("git", repository.source().text, "HEAD", tuple(default), repository.cache)
    assert found.left_out() == ["instance/config.py"]
    assert "instance/config.py" in [entry.name for entry in of(app).entries()]


def times(app: Path, release_id: str) -> dict[str, int | float]:
    archive = app.parent / f"{release_id}.tar.gz"
    of(app).write_archive(archive, time_of(release_id))
    with tarfile.open(archive) as found:
        return {member.name: member.mtime for member in found}


def test_all_files_of_a_release_bear_its_time_so_that_each_release_has_other_etags_on_all_hosts_alike(
    app: Path,
) -> None:
    # NGINX makes the ETag of a static file of its time and its size, and what the page refers to may be as long.
    one, other = "20260101T000000Z-0123abcd", "20260101T000001Z-0123abcd"
    first = times(app, one)
    assert first == dict.fromkeys(["app.py", "here", "pages/größe.html", "run.sh"], 1767225600)
    for path in app.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert times(app, one) == first
    assert set(times(app, other).values()) == {1767225601}


def test_a_releases_time_is_that_in_its_id_wherever_the_control_node_is(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for zone in ("UTC", "Asia/Kolkata", "XYZ+7"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert time_of("20260101T000000Z-0123abcd") == 1767225600
            assert time_of("20260701T123456Z-0123abcd") == 1782909296
    finally:
        monkeypatch.undo()
        time.tzset()


# --- Git


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Repository:
    """A repository with two commits, a tag on the first, and a branch."""

    def __init__(self, app: Path, cache: Path) -> None:
        self.folder, self.cache = app, cache
        git(app, "init", "--quiet")
        self.first = self.commit()
        git(app, "tag", "v1")
        (app / "app.py").write_text("application = 2\n")
        self.second = self.commit()
        git(app, "branch", "next", "v1")

    def commit(self) -> str:
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--message=x")
        return git(self.folder, "rev-parse", "HEAD")

    def source(self, version: str = "") -> Source:
        found = Source.parse(f"git+file://{self.folder}", version, EXCLUDE)
        return Source(found.kind, found.text, found.version, found.exclude, self.cache)


@pytest.fixture
def repository(app: Path, tmp_path: Path) -> Repository:
    """Make a Git repository of the source."""
    return Repository(app, tmp_path / "cache")


def test_a_branch_a_tag_and_a_commit_are_found(repository: Repository) -> None:
    wanted = {"": repository.second, "main": repository.second, "v1": repository.first, "next": repository.first}
    wanted[repository.first] = wanted[repository.first[:10]] = repository.first
    assert {version: repository.source(version).described() for version in wanted} == wanted


def test_a_clone_and_a_directory_of_the_same_commit_have_the_same_digest(repository: Repository) -> None:
    assert repository.source().digest() == of(repository.folder).digest()
    assert repository.source("v1").digest() != repository.source().digest()


def test_a_branch_that_moved_is_fetched_again(repository: Repository) -> None:
    before = repository.source("main")
    assert before.described() == repository.second
    (repository.folder / "app.py").write_text("application = 3\n")
    third = repository.commit()
    assert repository.source("main").described() == third
    # Of one source, digest and name are of the same commit.
    assert before.described() == repository.second


def test_a_version_that_is_not_there_is_named(repository: Repository) -> None:
    with pytest.raises(SourceError, match="has no branch, tag or commit 'v9'"):
        repository.source("v9").digest()


def test_a_repository_that_is_not_there_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    source = Source("git", f"file://{tmp_path}/nowhere", "HEAD", (), tmp_path / "cache")
    with pytest.raises(SourceError, match=f"git clone of file://{tmp_path}/nowhere failed: "):
        source.digest()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


TreeEntry = tuple[str, str, str]  # mode, name, and the object


class Crafted:
    """A repository of trees that no Git command makes, written object by object."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        folder.mkdir()
        git(folder, "init", "--quiet")

    def write(self, kind: str, content: bytes) -> str:
        words = ["git", "-C", str(self.folder), "hash-object", "-t", kind, "-w", "--literally", "--stdin"]
        return subprocess.run(words, input=content, capture_output=True, check=True).stdout.decode().strip()

    def blob(self, text: str) -> str:
        return self.write("blob", text.encode())

    def tree(self, *entries: TreeEntry) -> str:
        return self.write(
            "tree", b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(found) for mode, name, found in entries)
        )

    def source(self, tree: str, exclude: tuple[str, ...] = ()) -> Source:
        git(self.folder, "update-ref", "refs/heads/main", git(self.folder, "commit-tree", "-m", "x", tree))
        return Source("git", f"file://{self.folder}", "main", exclude, self.cache)


@pytest.fixture
def crafted(tmp_path: Path) -> Crafted:
    """Make an empty repository."""
    return Crafted(tmp_path / "crafted", tmp_path / "cache")


FILE, LINK, FOLDER = "100644", "120000", "40000"

TREES: dict[str, tuple[Callable[[Crafted], list[TreeEntry]], str]] = {
    "a link, and a folder of its name": (
        lambda made: [
            (LINK, "a", made.blob("b")),
            (FOLDER, "a", made.tree((FILE, "x", made.blob("y")))),
        ],
        "a is in the source twice",
    ),
    "a link that leads out through a link of a folder's name": (
        lambda made: [
            (LINK, "a", made.blob("b/c")),
            (FOLDER, "a", made.tree((LINK, "out", made.blob("../../..")))),
            (FOLDER, "b", made.tree((FILE, "c", made.blob("")))),
        ],
        "a is in the source twice",
    ),
    "a file twice": (
        lambda made: [(FILE, "a", made.blob("1")), (FILE, "a", made.blob("2"))],
        "a is in the source twice",
    ),
    "a file, and a folder of its name": (
        lambda made: [(FILE, "a", made.blob("1")), (FOLDER, "a", made.tree((FILE, "x", made.blob("y"))))],
        "a is in the source twice",
    ),
    "a name that leads up": (
        lambda made: [(FOLDER, "..", made.tree((FILE, "x", made.blob("y"))))],
        "invalid path",
    ),
    "a name with a slash": (
        lambda made: [(FILE, "../../x", made.blob("y"))],
        "invalid path",
    ),
}


@pytest.mark.parametrize(("make", "words"), TREES.values(), ids=TREES.keys())
def test_a_tree_that_would_be_written_elsewhere_is_refused_by_name(
    crafted: Crafted, make: Callable[[Crafted], list[TreeEntry]], words: str
) -> None:
    source = crafted.source(crafted.tree(*make(crafted)))
    with pytest.raises(SourceError, match=words):
        source.digest()
    with pytest.raises(SourceError, match=words):
        source.write_archive(crafted.folder / "code.tar.gz", 1767225600)


@pytest.mark.parametrize("name", ["../x", "a/../x", "/etc/x", "a//b", ".", ""])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(SourceError, match="is no name of a file"):
        Layout().add(name)


def test_what_is_excluded_is_in_nobodys_way(crafted: Crafted) -> None:
    blob = crafted.blob("x")
    tree = crafted.tree((FILE, "app.py", blob), (LINK, "old", blob), (FOLDER, "old", crafted.tree((FILE, "x", blob))))
    assert [entry.name for entry in crafted.source(tree, ("old",)).entries()] == ["app.py"]


def test_a_run_inside_a_git_hook_reads_the_source_and_not_the_operators_repository(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "another" / "index"))
    assert len(repository.source().described()) == 40


def test_what_the_options_name_is_looked_for_in_a_repository(repository: Repository) -> None:
    def refusal(requirements: str = "requirements.txt", *static: str) -> str:
        try:
            repository.source().check(requirements, static)
        except SourceError as error:
            return str(error)
        return ""

    assert "neither requirements.txt nor pyproject.toml" in refusal()
    (repository.folder / "pyproject.toml").write_text('[project]\nname = "news"\ndependencies = ["flask"]\n')
    repository.commit()
    assert refusal() == ""
    (repository.folder / "uv.lock").touch()
    repository.commit()
    assert "uv.lock isn't read, and requirements.txt isn't there" in refusal()
    (repository.folder / "requirements.txt").touch()
    repository.commit()
    assert refusal() == refusal("requirements.txt", "pages", "pages/") == ""
    assert "the folder page, which static names, isn't in the source" in refusal("requirements.txt", "page")


def test_head_is_the_default_branch_of_today(repository: Repository) -> None:
    assert repository.source().described() == repository.second
    git(repository.folder, "checkout", "--quiet", "-b", "trunk", "v1")
    (repository.folder / "app.py").write_text("application = 4\n")
    moved = repository.commit()
    assert repository.source().described() == moved
    git(repository.folder, "branch", "--quiet", "-D", "main")
    assert repository.source().described() == moved
    # A checked-out commit without a branch is a default as well.
    git(repository.folder, "checkout", "--quiet", "v1")
    assert repository.source().described() == repository.first


def test_what_published_archives_do_without_is_in_a_release(repository: Repository) -> None:
    (repository.folder / ".gitattributes").write_text("pages export-ignore\napp.py export-subst\n")
    (repository.folder / "app.py").write_text("made_of = '$Format:%H$'\n")
    repository.commit()
    assert repository.source().digest() == of(repository.folder).digest()
    found = {entry.name: entry.content for entry in repository.source().entries()}
    assert found["app.py"] == b"made_of = '$Format:%H$'\n"
    assert "pages/größe.html" in found


def test_a_submodule_is_named_and_not_lost(repository: Repository, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "--quiet")
    (library / "greeting.py").touch()
    git(library, "add", "--all")
    git(library, "commit", "--quiet", "--message=x")
    git(repository.folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "pages/lib")
    repository.commit()
    with pytest.raises(SourceError, match="the submodule pages/lib isn't in the source"):
        repository.source().digest()
    assert Source("git", repository.source().text, "HEAD", ("lib",), repository.cache).digest()
    # A directory has it where it is checked out, and not where the clone came without.
    assert "pages/lib/greeting.py" in [entry.name for entry in of(repository.folder).entries()]
    git(tmp_path, "clone", "--quiet", str(repository.folder), "clone")
    with pytest.raises(SourceError, match="the submodule pages/lib isn't in the source"):
        of(tmp_path / "clone").digest()


def test_a_file_of_which_only_the_pointer_is_there_is_named(repository: Repository) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
    (repository.folder / "pages" / "photo.jpg").write_text(pointer)
    repository.commit()
    for source in (repository.source(), of(repository.folder)):
        with pytest.raises(SourceError, match=r"the file pages/photo.jpg of the source is in Git LFS"):
            source.digest()
    assert Source.parse(str(repository.folder), exclude=("*.jpg", ".git")).digest()


def test_many_at_once_fetch_one_mirror(repository: Repository) -> None:
    heads = [repository.folder / ".git" / "refs" / "heads" / f"b{number}" for number in range(200)]
    for head in heads:
        head.write_text(f"{repository.first}\n")
    repository.source().described()
    # Git itself: cannot lock ref, is at … but expected ….
    for head in heads:
        head.write_text(f"{repository.second}\n")
    script = (
        "import sys, time, ansible.module_utils; ansible.module_utils.__path__.append(sys.argv[1])\n"
        "from pathlib import Path; from ansible.module_utils.release_source import Source\n"
        "while not Path(sys.argv[3], 'go').exists(): time.sleep(0.001)\n"
        "print(Source('git', sys.argv[2], 'main', (), Path(sys.argv[3])).described())\n"
    )
    words = [sys.executable, "-c", script, str(Path(release_source.__file__).parent), repository.source().text]
    running = [
        subprocess.Popen([*words, str(repository.cache)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    time.sleep(1)  # all of them wait
    (repository.cache / "go").touch()
    said = [process.communicate() for process in running]
    assert [err for _, err in said if err] == []
    assert [out.strip() for out, _ in said] == [repository.second] * 6


def test_a_commit_that_is_there_is_not_fetched_again(repository: Repository) -> None:
    commit = repository.source().described()
    repository.folder.rename(repository.folder.with_name("away"))
    assert repository.source(commit).described() == commit
    with pytest.raises(SourceError, match="git fetch of"):
        repository.source("main").described()


# --- the three forms


@pytest.mark.parametrize(
    ("text", "kind", "version"),
    [
        ("git+https://example.org/news.git", "git", "HEAD"),
        ("/home/me/news", "directory", ""),
        ("../app", "directory", ""),
        ("./a==b", "directory", ""),
        ("news==1.2", "requirement", ""),
        ("news[extra]==1.2", "requirement", ""),
    ],
)
def test_the_forms_of_a_source_are_told_apart(text: str, kind: str, version: str) -> None:
    found = Source.parse(text)
    assert (found.kind, found.version) == (kind, version)


def test_a_requirement_is_its_text() -> None:
    one, other = Source.parse("news==1.2"), Source.parse("news==1.3")
    assert one.described() == "news==1.2"
    assert list(one.entries()) == []
    assert one.digest() == Source.parse("news==1.2").digest() != other.digest()


# --- values and options


def test_the_hash_of_values_changes_with_app_key_and_each_value_and_not_with_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert release_source.SCRYPT["n"] >= 2**16, "a guess at a weak secret must not be cheap"
    monkeypatch.setitem(release_source.SCRYPT, "n", 2)  # what the cost is doesn't matter below
    values = {"A": "1", "B": "2"}
    found = [
        keyed_digest("news", values, ""),
        keyed_digest("news", values, "key"),
        keyed_digest("blog", values, ""),
        keyed_digest("news", {}, ""),
        keyed_digest("news", {"A": "1"}, ""),
        keyed_digest("news", {"A": "12", "B": ""}, ""),
        keyed_digest("news", {"A": "2", "B": "1"}, ""),
        keyed_digest("news", {"A": "1", "b": "2"}, ""),
        keyed_digest("news", {"A": "1", "B": "2 "}, ""),
        keyed_digest("news", {"A": "1", "B": "ü\ud800"}, ""),
    ]
    assert len(set(found)) == len(found)
    assert keyed_digest("news", {"B": "2", "A": "1"}, "") == found[0]


def test_the_whole_digest_changes_with_each_of_its_parts() -> None:
    found = [
        input_digest("a", {"x": 1}, "b"),
        input_digest("b", {"x": 1}, "a"),
        input_digest("a", {"x": 2}, "b"),
        input_digest("a", {"x": 1, "y": None}, "b"),
        input_digest("a", {}, "b"),
    ]
    assert len(set(found)) == len(found)
    assert input_digest("a", {"x": 1, "y": 2}, "b") == input_digest("a", {"y": 2, "x": 1}, "b")
