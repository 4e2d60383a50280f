"""A build finds its packages where the app's requirements file says: by the real uv, from indexes that are asked."""

from __future__ import annotations

import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils import release as release_utils
from ansible.module_utils.release import App, Release


class Index(SimpleHTTPRequestHandler):
    """Lists folders of wheels, as a simple package index does."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def wheel(folder: Path, name: str) -> None:
    """Write a package without contents."""
    folder.mkdir(parents=True)
    about = f"{name}-1.0.dist-info"
    files = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": f"{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """Serve three places with a package each."""
    for name in ("one", "two", "three"):
        wheel(tmp_path / "index" / name / f"from-{name}", f"from_{name}")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=str(tmp_path / "index"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_was_resolved_by_an_index_of_the_apps_is_installed_from_it(
    tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch, plugin: Callable[[str, str], ModuleType],
    fake_module: Any,
) -> None:  # fmt: skip
    build = plugin("modules", "release_build")
    monkeypatch.setattr(release_utils, "SERVED", tmp_path)
    monkeypatch.setattr(build, "UV", Path(sys.executable).with_name("uv"))
    monkeypatch.setattr(build, "write_atomically", lambda path, text, mode: path.write_text(text))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SECRET_OF_THE_INDEX", "hunter2")
    release = Release(App("news"), "20260101T000000Z-0123abcd")
    (release.folder / "code").mkdir(parents=True)
    with_secret = index.replace("//", "//me:${SECRET_OF_THE_INDEX}@")
    (release.folder / "code" / "requirements.txt").write_text(
        f"--index-url {with_secret}/one\n--extra-index-url {index}/two\n--find-links {index}/three/from-three/\n"
        "from-one\nfrom-two\nfrom-three\n"
    )
    module = fake_module(requirements="requirements.txt", requirement="", resolve=False)
    builder = build.Build(module, release)
    lock = builder.locked()
    assert "hunter2" not in lock.read_text()
    builder.make(lock)
    installed = {path.name for path in (release.folder / "venv" / "lib").glob("*/site-packages/from_*")}
    assert installed == {f"from_{name}-1.0.dist-info" for name in ("one", "two", "three")}
