"""A migrated board for each test: on SQLite, and on PostgreSQL too when the environment names one."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from flask import Flask
from flask.testing import FlaskClient

APP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(APP))  # the app runs from its folder, here as on a server

from newsboard import create_app  # noqa: E402  needs the path above

POSTGRESQL = os.environ.get("NEWSBOARD_TEST_DATABASE_URL")

Send = Callable[..., Any]


def alembic(environ: dict[str, str], revision: str = "head") -> None:
    """Migrate as `alembic upgrade` does, up or down."""
    saved = dict(os.environ)
    os.environ.update(environ)
    try:
        config = Config(str(APP / "alembic.ini"))
        (command.downgrade if revision == "base" else command.upgrade)(config, revision)
    finally:
        os.environ.clear()
        os.environ.update(saved)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite board, made once and copied for each test."""
    path = tmp_path_factory.mktemp("migrated") / "news.db"
    alembic({"DATABASE_URL": f"sqlite:///{path}"})
    return path


@pytest.fixture(scope="session")
def migrated_server() -> str:
    """The PostgreSQL database that the tests may wipe, migrated down and up again."""
    assert POSTGRESQL is not None
    alembic({"DATABASE_URL": POSTGRESQL}, "base")
    alembic({"DATABASE_URL": POSTGRESQL})
    return POSTGRESQL


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRESQL else ["sqlite"])
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of an app whose board is migrated and empty."""
    if request.param == "sqlite":
        path = shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "news.db")
        return {"DATABASE_URL": f"sqlite:///{path}", "NEWSBOARD_PAGE_SIZE": "5"}
    url = request.getfixturevalue("migrated_server")
    return {"DATABASE_URL": url, "NEWSBOARD_PAGE_SIZE": "5"}


@pytest.fixture
def app(environ: dict[str, str]) -> Iterator[Flask]:
    """The app on an empty board."""
    app = create_app(environ)
    engine = app.extensions["newsboard"].engine
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(sa.text("TRUNCATE posts, users"))
    yield app
    app.extensions["newsboard"].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Someone who calls it."""
    return app.test_client()


def draft(hanesst_id: int, **fields: object) -> dict[str, object]:
    """A well-formed story, or what the fields make of it."""
    return {
        "username": "ada",
        "post_type": "comment" if fields.get("post_parent", -1) != -1 else "story",
        "pwd_hash": "s3cret-hash",
        "post_title": f"Story {hanesst_id}",
        "post_url": "https://www.example.org/a",
        "post_text": "",
        "post_parent": -1,
        "hanesst_id": hanesst_id,
    } | fields


@pytest.fixture
def send(client: FlaskClient) -> Send:
    """Send one post, and insist that it is taken."""

    def send(hanesst_id: int, **fields: object) -> Any:  # noqa: ANN401
        response = client.post("/post", json=draft(hanesst_id, **fields))
        assert response.status_code == 200, response.text
        return response.json

    return send
