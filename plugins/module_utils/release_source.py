"""The source of a release on the control node: its digest, and the archive that is sent to hosts.

A digest depends on names, contents and execute bits alone: two clones of the same commit have the same one.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import hashlib
import io
import json
import os
import posixpath
import re
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ansible.module_utils.filesystem import landing
from ansible.module_utils.requirements import problems

# Cost of the stretched hash: 64 MiB and about 0.2 s a run.
SCRYPT = {"n": 2**16, "r": 8, "p": 1, "maxmem": 2**27}

OF_ANOTHER_REPOSITORY = {
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
}


# The default branch of the other side: a mirror's own HEAD stays what it was when the mirror was made.
DEFAULT_BRANCH = "refs/flask-on-metal/HEAD"
# Over the repository's own .gitattributes, which mean this for archives that are published.
ATTRIBUTES = "* -export-ignore -export-subst\n"

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"


# What the app alone reads on a host: its secrets may be in it. Flask's folder instance is for what belongs to one host.
CLOSED = (".env", ".env.*", ".envrc", ".netrc", ".pgpass", "instance/*")
NOT_CLOSED = ("*.example", "*.sample", "*.template", "*.dist")

# Locks that no build reads, and what makes a requirements file with the same versions out of each.
LOCKS = {
    "uv.lock": "uv export --no-dev --no-emit-project --output-file {file}",
    "poetry.lock": "poetry self add poetry-plugin-export && poetry export --output {file}",
    "pdm.lock": "pdm export --prod --output {file}",
    "Pipfile.lock": "pipenv requirements --hash > {file}",
    "Pipfile": "pipenv lock && pipenv requirements --hash > {file}",
    "pylock*.toml": "uv venv && uv pip sync {lock} && uv pip freeze > {file}",
}


class SourceError(Exception):
    """The source can't be had; the text says what to do."""


@dataclass(frozen=True)
class Entry:
    """One file or link of a source."""

    name: str  # below the source, with slashes
    executable: bool
    link: str | None  # target of a symbolic link
    content: bytes

    @property
    def mode(self) -> int:
        """Its mode on a host: readable for all, as NGINX serves static files, unless there may be a secret in it."""
        own, base = 0o755 if self.executable else 0o644, posixpath.basename(self.name)
        named = any(fnmatch.fnmatch(name, pattern) for name in (base, self.name) for pattern in CLOSED)
        example = any(fnmatch.fnmatch(base, pattern) for pattern in NOT_CLOSED)
        return own & ~0o007 if (named and not example) or b" PRIVATE KEY-----" in self.content[:10_000] else own


def check_dependencies(names: Iterable[str], requirements: str, read: Callable[[str], str]) -> None:
    """Check that a build reads the versions that the source has locked.

    Args:
        names: The files at the top of the source.
        requirements: Name of the requirements file, which isn't there.
        read: Reads a file at the top.

    Raises:
        SourceError: A lock would be ignored, or the dependencies aren't known without running the source's own code.
    """
    present = sorted(names)
    make = "and add {file} to the source"
    for pattern, command in LOCKS.items():
        if lock := next(iter(fnmatch.filter(present, pattern)), None):
            raise SourceError(
                f"{lock} isn't read, and {requirements} isn't there: the release would have other versions. Run"
                f" {command.format(file=requirements, lock=lock)} in the source, {make.format(file=requirements)}"
            )
    if "pyproject.toml" not in present:
        return
    try:
        whole = tomllib.loads(read("pyproject.toml"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourceError(f"the source's pyproject.toml can't be read: {error}") from error
    project = whole.get("project", {})
    unlisted = not project or "dependencies" in project.get("dynamic", ()) or "poetry" in whole.get("tool", {})
    if unlisted and "dependencies" not in project:
        raise SourceError(
            f"pyproject.toml doesn't list its dependencies in [project], and {requirements} isn't there: only its build"
            f" could tell them, which isn't run. Write them there, or into {requirements}"
        )


class Layout:
    """The names of a source as they will be written on a host: nothing twice, nothing elsewhere.

    Git's own commands make no tree that is refused here. One that was written by hand can have a link and below its
    name a file, which would land where the link leads.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.files: set[str] = set()
        self.folders: set[str] = set()
        self.links: dict[str, str] = {}

    def add(self, name: str, link: str | None = None) -> None:
        """Take one more file or link.

        Raises:
            SourceError: it can't be written beside the others, or below the source.
        """
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise SourceError(f"{name} is no name of a file: it would be written outside of the source. Remove it")
        above = ["/".join(parts[:end]) for end in range(1, len(parts))]
        twice = next((path for path in [*above, name] if path in self.files), name if name in self.folders else None)
        if twice is not None:
            raise SourceError(
                f"{twice} is in the source twice, as a file or link and as something else, and one would be written"
                " through the other. Keep one of them, or exclude it"
            )
        self.folders.update(above)
        self.files.add(name)
        if link is not None:
            self.links[name] = link

    def check_links(self) -> None:
        """Check, when all names are known, that each link stays within the source.

        Raises:
            SourceError: one doesn't.
        """
        for name, link in self.links.items():
            if landing(name, self.links) is None:
                raise SourceError(
                    f"the link {name} of the source leads out of it, to {link}, which isn't there on a host (or it"
                    " leads in a circle): replace it by what it names, or exclude it"
                )


@dataclass(frozen=True)
class Source:
    """A source as the operator wrote it, brought to the control node."""

    kind: str  # "directory", "git" or "requirement"
    text: str
    version: str = ""
    exclude: tuple[str, ...] = ()
    cache: Path = Path("~/.cache/flask-on-metal/git")

    @classmethod
    def parse(cls, text: str, version: str = "", exclude: tuple[str, ...] = ()) -> Source:
        """Tell the three forms apart: git+…, a directory, or a requirement name==version."""
        if text.startswith("git+"):
            return cls("git", text[4:], version or "HEAD", exclude)
        if "==" in text and "/" not in text:
            return cls("requirement", text)
        return cls("directory", text, exclude=exclude)

    # --- contents

    def entries(self) -> Iterator[Entry]:
        """All files and links, sorted by name.

        Whoever takes them all knows that they can be written: the last thing that is looked at are the links.

        Raises:
            SourceError: it isn't there, can't be read, or would be written elsewhere than below its folder.
        """
        found = {"directory": self._directory_entries, "git": self._git_entries}.get(self.kind)
        if absent := sorted(name for name in self._submodules() if not self._excluded(name)):
            raise SourceError(
                f"the submodule {absent[0]} isn't in the source: git has only its address there. Name a directory as"
                " source in which git submodule update --init --recursive has brought it, or exclude it"
            )
        layout = Layout()
        for entry in found() if found else ():
            if entry.content.startswith(LFS_POINTER):
                raise SourceError(
                    f"the file {entry.name} of the source is in Git LFS, and only its pointer is there. Name a"
                    " directory as source in which git lfs pull has brought it, or exclude it"
                )
            layout.add(entry.name, entry.link)
            yield entry
        layout.check_links()

    def _excluded(self, name: str) -> bool:
        return any(fnmatch.fnmatch(part, pattern) for part in name.split("/") for pattern in self.exclude)

    def _directory_entries(self) -> Iterator[Entry]:
        root = Path(self.text)
        if not root.is_dir():
            raise SourceError(f"the source {root} is no directory on the control node")

        def refuse(error: OSError) -> None:
            raise SourceError(f"the source's folder {error.filename} can't be read: {error.strerror}") from error

        found: list[Path] = []
        for folder, folders, files in os.walk(root, onerror=refuse):
            inside = Path(folder).relative_to(root)
            folders[:] = [name for name in folders if not self._excluded((inside / name).as_posix())]
            links = [name for name in folders if Path(folder, name).is_symlink()]
            found += [Path(folder, name) for name in [*files, *links]]
        for path in sorted(found, key=lambda path: path.relative_to(root).as_posix()):
            name = path.relative_to(root).as_posix()
            if self._excluded(name):
                continue
            try:
                if path.is_symlink():
                    yield Entry(name, False, str(path.readlink()), b"")
                elif path.is_file():
                    # The owner's bit, as in Git: what this user may execute is no property of the file.
                    yield Entry(name, bool(path.stat().st_mode & 0o100), None, path.read_bytes())
            except OSError as error:
                raise SourceError(f"the source's file {path} can't be read: {error.strerror}") from error

    def _submodules(self) -> list[str]:
        """List the submodules that the source lacks."""
        if self.kind == "git":
            folder, commit = self._git_commit
            tree = self._git("ls-tree", "-r", "-z", commit, folder=folder).decode(errors="surrogateescape")
            return [line.partition("\t")[2] for line in tree.split("\0") if line.startswith("160000 ")]
        root = Path(self.text)
        try:
            named = (root / ".gitmodules").read_text(errors="replace") if self.kind == "directory" else ""
        except OSError:
            return []
        paths = re.findall(r"^\s*path\s*=\s*(.+?)\s*$", named, re.MULTILINE)
        return [path for path in paths if not (root / path).is_dir() or not any((root / path).iterdir())]

    def _git(self, *words: str, folder: Path | None = None) -> bytes:
        where = ["-C", str(folder)] if folder else []
        # Inside a Git hook these name the operator's own repository.
        environment = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_REPOSITORY}
        # Never a prompt for a password: it would wait for ever in CI.
        environment["GIT_TERMINAL_PROMPT"] = "0"
        done = subprocess.run(["git", *where, *words], capture_output=True, env=environment, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise SourceError(f"git {words[0]} of {self.text} failed: {said}")
        return done.stdout

    @cached_property
    def _git_commit(self) -> tuple[Path, str]:
        # Asked once: a branch that moves meanwhile would give a digest of one commit and the name of another.
        folder = self.cache.expanduser() / hashlib.sha256(self.text.encode()).hexdigest()[:16]
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Each host of a run comes here, and other runs: git itself can't fetch twice at once.
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return folder, self._commit_in(folder)

    def _commit_in(self, folder: Path) -> str:
        if not folder.exists():
            # Beside first: half a clone is not taken for a whole one.
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as beside:
                self._git("clone", "--quiet", "--mirror", "--", self.text, f"{beside}/clone")
                Path(beside, "clone").rename(folder)
        (folder / "info").mkdir(exist_ok=True)
        (folder / "info" / "attributes").write_text(ATTRIBUTES)
        if re.fullmatch("[0-9a-f]{40}", self.version):
            with contextlib.suppress(SourceError):  # not there yet
                return self._resolved(self.version, folder)
        self._git(
            "fetch", "--quiet", "--prune", "origin", "+refs/*:refs/*", f"+HEAD:{DEFAULT_BRANCH}", folder=folder
        )  # fmt: skip
        return self._resolved(DEFAULT_BRANCH if self.version == "HEAD" else self.version, folder)

    def _resolved(self, version: str, folder: Path) -> str:
        try:
            commit = self._git("rev-parse", "--verify", "--quiet", f"{version}^{{commit}}", folder=folder)
        except SourceError:
            raise SourceError(f"{self.text} has no branch, tag or commit {self.version!r}") from None
        return commit.decode().strip()

    def _git_entries(self) -> Iterator[Entry]:
        folder, commit = self._git_commit
        with tarfile.open(fileobj=io.BytesIO(self._git("archive", commit, folder=folder))) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                if self._excluded(member.name):
                    continue
                if member.issym():
                    yield Entry(member.name, False, member.linkname, b"")
                elif member.isfile():
                    stream = archive.extractfile(member)
                    assert stream is not None
                    yield Entry(member.name, bool(member.mode & 0o100), None, stream.read())

    # --- what is made of them

    def digest(self) -> str:
        """SHA-256 of the contents, in hex. Of a requirement: of its text."""
        whole = hashlib.sha256(f"{self.kind == 'requirement' and self.text}\n".encode())
        for entry in self.entries():
            head = [entry.name, entry.executable, entry.link, hashlib.sha256(entry.content).hexdigest()]
            whole.update(json.dumps(head).encode() + b"\n")
        return whole.hexdigest()

    def described(self) -> str:
        """Say the version in words: a commit, a requirement, or nothing for a directory."""
        return {"git": lambda: self._git_commit[1], "requirement": lambda: self.text}.get(self.kind, str)()

    def check(self, requirements: str, static: Iterable[str]) -> None:
        """Check what of the source the options name, and that its lock isn't ignored.

        Raises:
            SourceError: It isn't there, or wouldn't be read.
        """
        if self.kind == "requirement":
            return
        files = {entry.name: entry.content for entry in self.entries()}
        if requirements not in files:
            top = [name for name in files if "/" not in name]
            check_dependencies(top, requirements, lambda name: files[name].decode())
            if "pyproject.toml" not in top:
                raise SourceError(
                    f"the source has neither {requirements} nor pyproject.toml. Make one, if only an empty one"
                )
        else:
            self.check_requirements(requirements)
        for folder in static:
            if not any(name.startswith(f"{folder.rstrip('/')}/") for name in files):
                raise SourceError(f"the folder {folder}, which static names, isn't in the source")

    def left_out(self) -> list[str]:
        """List the files of Flask's folder instance that exclude leaves out: an app reads its configuration there."""
        if not self._excluded("instance"):
            return []
        if self.kind == "git":
            folder, commit = self._git_commit
            said = self._git("ls-tree", "-r", "-z", "--name-only", commit, "instance/", folder=folder)
            names = said.decode(errors="surrogateescape").rstrip("\0").split("\0") if said else []
        elif self.kind == "directory":
            root = Path(self.text)
            names = [path.relative_to(root).as_posix() for path in (root / "instance").rglob("*") if path.is_file()]
        else:
            names = []
        return sorted(name for name in names if not self._excluded(name.partition("/")[2]))

    def requires_python(self) -> str:
        """Read which interpreters the source's pyproject.toml asks for, as a specifier (PEP 440); empty for any."""
        text = next((entry.content for entry in self.entries() if entry.name == "pyproject.toml"), b"")
        try:
            project = tomllib.loads(text.decode()).get("project", {})
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SourceError(f"the source's pyproject.toml can't be read: {error}") from error
        return str(project.get("requires-python", ""))

    def text_of(self, name: str) -> str | None:
        """Text of one file, wherever links lead to it; None where there is none."""
        contents, links = dict[str, bytes](), dict[str, str]()
        for entry in self.entries():
            if entry.link is not None:
                links[entry.name] = entry.link
            elif entry.name == name:
                contents[name] = entry.content
        path = landing(name, links)
        if path not in (None, name):
            return self.text_of(str(path))
        return contents[name].decode(errors="replace") if name in contents else None

    def check_requirements(self, name: str) -> None:
        """Check that what a requirements file and those that it includes ask for is installed without building any.

        Raises:
            SourceError: some do; the text names each.
        """
        if found := problems(name, self.text_of):
            raise SourceError("its requirements can't be installed:\n" + "\n".join(map(str, found)))

    def write_archive(self, path: Path, time: int) -> None:
        """Write the contents as code.tar.gz, without owners; readable for all but what may be secret.

        All files bear the one time (Unix, seconds). NGINX makes a static file's ETag of its time and size: each release
        must have another one, and all hosts the same.
        """
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for entry in self.entries():
                member = tarfile.TarInfo(entry.name)
                member.mode, member.mtime = entry.mode, time
                if entry.link is not None:
                    member.type, member.linkname = tarfile.SYMTYPE, entry.link
                member.size = len(entry.content)
                archive.addfile(member, io.BytesIO(entry.content))


def time_of(release_id: str) -> int:
    """Tell when a release's id was made: Unix time in seconds."""
    made = datetime.strptime(release_id.partition("-")[0], "%Y%m%dT%H%M%SZ")
    return int(made.replace(tzinfo=UTC).timestamp())


def keyed_digest(app: str, values: dict[str, Any], key: str) -> str:
    """Hash of environment and secrets that tells a change, and nothing about a value; hex.

    Stretched by scrypt (RFC 7914), with the operator's key and the app's name as salt: a part of it shows in paths, and
    should not let a guess at a weak secret be checked cheaply.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    salt = f"flask-on-metal\0{app}\0{key}"
    return hashlib.scrypt(text.encode("utf-8", "surrogatepass"), salt=salt.encode(), dklen=32, **SCRYPT).hex()


def input_digest(source: str, options: dict[str, Any], values: str) -> str:
    """Hash all that the operator put in: the source's digest, the app's options, its values' hash; SHA-256 in hex."""
    return hashlib.sha256(json.dumps([source, options, values], sort_keys=True).encode()).hexdigest()
