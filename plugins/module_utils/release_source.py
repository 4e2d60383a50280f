"""The source of a release on the control node: its digest, and the archive that is sent to hosts.

A digest depends on names, contents and execute bits alone: two clones of the same commit have the same one.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
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


class SourceError(Exception):
    """The source can't be had; the text says what to do."""


@dataclass(frozen=True)
class Entry:
    """One file or link of a source."""

    name: str  # below the source, with slashes
    executable: bool
    link: str | None  # target of a symbolic link
    content: bytes


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
        layout = Layout()
        for entry in found() if found else ():
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
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Beside first: half a clone is not taken for a whole one.
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as beside:
                self._git("clone", "--quiet", "--mirror", "--", self.text, f"{beside}/clone")
                Path(beside, "clone").rename(folder)
        else:
            self._git("fetch", "--quiet", "--prune", folder=folder)
        try:
            commit = self._git("rev-parse", "--verify", "--quiet", f"{self.version}^{{commit}}", folder=folder)
        except SourceError:
            raise SourceError(f"{self.text} has no branch, tag or commit {self.version!r}") from None
        return folder, commit.decode().strip()

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
        """Check that no line of a requirements file, or of one that it includes, has code run while it is installed.

        Raises:
            SourceError: some do; the text names each.
        """
        if found := problems(name, self.text_of):
            raise SourceError("its requirements can't be installed:\n" + "\n".join(map(str, found)))

    def write_archive(self, path: Path, time: int) -> None:
        """Write the contents as code.tar.gz, without owners; readable for all, as code of a release is.

        All files bear the one time (Unix, seconds). NGINX makes a static file's ETag of its time and size: each release
        must have another one, and all hosts the same.
        """
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for entry in self.entries():
                member = tarfile.TarInfo(entry.name)
                member.mode, member.mtime = 0o755 if entry.executable else 0o644, time
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
