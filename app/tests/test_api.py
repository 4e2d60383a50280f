"""GET /latest, /status and /api/posts."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from conftest import APP, Send
from flask import Flask
from flask.testing import FlaskClient

from newsboard import create_app
from newsboard.database import REVISIONS
from newsboard.models import Base


def test_latest_is_the_highest_id_not_the_last_to_come(client: FlaskClient, send: Send) -> None:
    response = client.get("/latest")
    assert (response.text, response.mimetype) == ("-1", "text/plain")
    for hanesst_id in (5, 900, 3):
        send(hanesst_id)
    assert client.get("/latest").text == "900"


def test_status_is_alive_when_the_database_answers(client: FlaskClient) -> None:
    response = client.get("/status")
    assert (response.status_code, response.text, response.mimetype) == (200, "Alive", "text/plain")


def test_status_is_update_until_the_database_is_migrated(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    client = create_app({"DATABASE_URL": f"sqlite:///{tmp_path}/empty.db"}).test_client()
    response = client.get("/status")
    assert (response.status_code, response.text) == (503, "Update")
    assert client.get("/").status_code == 503
    assert client.get("/latest").status_code == 503


def test_status_is_update_when_a_migration_is_missing(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("newsboard.database.REVISIONS", (*REVISIONS, "next"))
    response = client.get("/status")
    assert (response.status_code, response.text) == (503, "Update")


def test_status_stays_alive_on_a_newer_schema(app: Flask, client: FlaskClient) -> None:
    """The release before, while the next one has migrated: it must not be taken out of service."""
    engine = app.extensions["newsboard"].engine
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'future'"))
    try:
        assert client.get("/status").text == "Alive"
    finally:
        with engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE alembic_version SET version_num = :head"), {"head": REVISIONS[-1]}
            )


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/news.db", "postgresql://u:hidden@127.0.0.1:1/x"], ids=["sqlite", "postgresql"]
)
def test_status_is_down_when_no_database_answers(url: str) -> None:
    client = create_app({"DATABASE_URL": url}).test_client()
    response = client.get("/status")
    assert (response.status_code, response.text) == (503, "Down")
    page = client.get("/")
    assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
    assert "hidden" not in page.text
    assert client.get("/api/posts").json["error"]


def test_status_is_down_when_the_file_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "news.db").write_text("something else entirely, and long enough to be looked at\n" * 99)
    client = create_app({"DATABASE_URL": f"sqlite:///{tmp_path}/news.db"}).test_client()
    assert client.get("/status").text == "Down"


def test_asking_never_creates_a_database(tmp_path: Path) -> None:
    create_app({"DATABASE_URL": f"sqlite:///{tmp_path}/news.db"}).test_client().get("/status")
    assert list(tmp_path.iterdir()) == []


def test_the_code_knows_every_migration_in_order() -> None:
    script = ScriptDirectory.from_config(Config(str(APP / "alembic.ini")))
    assert tuple(step.revision for step in script.walk_revisions())[::-1] == REVISIONS


def test_the_migrations_make_the_tables_of_the_models(app: Flask) -> None:
    with app.extensions["newsboard"].engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_listing_goes_through_every_post_once(client: FlaskClient, send: Send) -> None:
    for hanesst_id in (8, 2, 6, 4):
        send(hanesst_id)
    seen, after = [], -1
    while after is not None:
        page = client.get(f"/api/posts?after={after}&limit=3").json
        seen += [post["hanesst_id"] for post in page["posts"]]
        after = page["next"]
    assert seen == [2, 4, 6, 8]
    assert client.get("/api/posts?after=4&limit=2").json["next"] is None
    assert client.get("/api/posts?after=8").json == {"posts": [], "next": None}


@pytest.mark.parametrize(
    "query", ["after=x", "after=-2", "after=9223372036854775808", "limit=0", "limit=1001"]
)
def test_the_listing_refuses_what_it_cannot_read(client: FlaskClient, query: str) -> None:
    response = client.get(f"/api/posts?{query}")
    assert response.status_code == 400
    assert response.json["error"].startswith(query.split("=")[0])


def test_answers_for_programs_are_never_cached(client: FlaskClient) -> None:
    for path in ("/latest", "/status", "/api/posts"):
        assert client.get(path).headers["Cache-Control"] == "no-store"
