"""POST /post: what is taken, what is refused and why, and what is kept."""

import json
import sqlite3
import time
from itertools import product

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Send, draft
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import DBAPIError

from newsboard import create_app
from newsboard.database import LEADERLESS_SECONDS, leaderless

MAX_ID = 2**63 - 1


def test_a_post_is_listed_as_it_was_sent(client: FlaskClient, send: Send) -> None:
    sent = draft(7, username="ådä/..", post_title="T <&> 😀", post_text="a\tb\nc\x01 ", post_url="not a url")
    send(**sent)
    (listed,) = client.get("/api/posts").json["posts"]
    assert listed.pop("created_at").endswith("Z")
    assert listed == {key: value for key, value in sent.items() if key != "pwd_hash"}


@pytest.mark.parametrize("post_type", ["story", "comment", "poll", "pollopt"])
def test_every_type_is_taken(client: FlaskClient, send: Send, post_type: str) -> None:
    send(1, post_type=post_type)
    assert client.get("/api/posts").json["posts"][0]["post_type"] == post_type


def test_ids_go_from_0_to_the_largest(client: FlaskClient, send: Send) -> None:
    send(0)
    send(MAX_ID)
    send(1, post_parent=MAX_ID)
    assert [post["hanesst_id"] for post in client.get("/api/posts").json["posts"]] == [0, 1, MAX_ID]
    assert client.get(f"/item/{MAX_ID}").status_code == 200


def test_the_same_id_is_stored_once_and_the_first_wins(client: FlaskClient, send: Send) -> None:
    assert send(1, post_title="first") == {"hanesst_id": 1, "stored": True}
    assert send(1, post_title="second", username="bob") == {"hanesst_id": 1, "stored": False}
    assert [post["post_title"] for post in client.get("/api/posts").json["posts"]] == ["first"]
    assert client.get("/user?name=bob").status_code == 404


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *product(draft(1), (None, [], {}, 1.0, True)),
        *[(name, 1) for name in draft(1) if name not in ("hanesst_id", "post_parent")],
        *product(("hanesst_id", "post_parent"), ("1", -2, MAX_ID + 1, 10**30)),
        *product(("username", "pwd_hash", "post_title", "post_url", "post_text"), ("a\0b", "a\ud800b")),
        ("username", ""),
        ("username", "x" * 101),
        ("pwd_hash", "x" * 501),
        ("post_title", "x" * 1_001),
        ("post_url", "x" * 4_001),
        ("post_text", "x" * 100_001),
        ("post_type", "advert"),
        ("post_type", "x" * 1_000),
        ("hanesst_id", -1),
        ("post_parent", 3),  # a story has no parent
    ],
    ids=lambda value: repr(value)[:12],
)
def test_a_malformed_field_is_refused_by_name(client: FlaskClient, field: str, value: object) -> None:
    response = client.post("/post", data=json.dumps(draft(1) | {field: value}))
    assert response.status_code == 400
    assert response.json["field"] == field
    assert response.json["error"].startswith(f"{field}: ")
    assert client.get("/latest").text == "-1"


@pytest.mark.parametrize("field", draft(1))
def test_a_missing_field_is_refused_by_name(client: FlaskClient, field: str) -> None:
    sent = draft(1)
    del sent[field]
    response = client.post("/post", json=sent)
    assert (response.status_code, response.json["error"]) == (400, f"{field}: is missing")


def test_a_reply_to_itself_is_refused(client: FlaskClient) -> None:
    response = client.post("/post", json=draft(4, post_parent=4))
    assert (response.status_code, response.json["field"]) == (400, "post_parent")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 200_000, b'{"hanesst_id": ' + b"9" * 5_000 + b"}"],
    ids=["nothing", "half", "list", "null", "string", "not utf-8", "deep", "long number"],
)
def test_a_body_that_is_not_a_json_object_is_refused(client: FlaskClient, body: bytes) -> None:
    response = client.post("/post", data=body)
    assert response.status_code == 400
    assert response.json["error"].startswith("the body is not")


def test_a_body_of_megabytes_is_refused_unread(client: FlaskClient) -> None:
    response = client.post("/post", data=b" " * 3_000_000)
    assert response.status_code == 413
    assert response.json["error"]


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense"]
)
def test_the_content_type_does_not_matter(client: FlaskClient, content_type: str | None) -> None:
    response = client.post("/post", data=json.dumps(draft(1)), content_type=content_type)
    assert response.status_code == 200
    assert client.get("/latest").text == "1"


@pytest.mark.parametrize(
    "header", ["", "Basic", "Basic %%%", "Basic =", "Digest x", "\xff\xfe", 'a="b', "Basic 4pyT"]
)
def test_a_malformed_authorization_header_does_not_matter(client: FlaskClient, header: str) -> None:
    response = client.post("/post", json=draft(1), headers={"Authorization": header})
    assert response.status_code == 200


def test_more_fields_than_asked_for_do_no_harm(client: FlaskClient) -> None:
    assert client.post("/post", json=draft(1) | {"score": 99}).status_code == 200


def test_pwd_hash_is_kept_hashed_and_never_shown(app: Flask, client: FlaskClient, send: Send) -> None:
    send(1, pwd_hash="visible?")
    send(2, pwd_hash="another", post_parent=1)
    with app.extensions["newsboard"].read() as session:
        (secret,) = session.execute(sa.text("SELECT secret FROM users")).scalars()
    assert len(secret) == 64
    for path in ("/", "/newest", "/item/1", "/user?name=ada", "/rss", "/api/posts", "/?format=json"):
        answer = client.get(path).text
        assert not any(word in answer for word in ("visible?", "another", "pwd_hash", secret))


def test_only_post_posts(client: FlaskClient) -> None:
    response = client.get("/post")
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]


def test_a_database_that_nobody_leads_is_asked_again_and_not_for_long(environ: dict[str, str]) -> None:
    # Nobody listens on port 1.
    client = create_app(environ | {"DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/x"}).test_client()

    def seconds() -> float:
        begin = time.monotonic()
        assert client.post("/post", json=draft(1)).status_code == 503
        return time.monotonic() - begin

    assert LEADERLESS_SECONDS < seconds() < 2 * LEADERLESS_SECONDS
    # By then it is an outage, and nobody waits for its end.
    assert seconds() < LEADERLESS_SECONDS / 2


def test_a_database_that_is_busy_or_broken_is_not_asked_again() -> None:
    def failed(cause: BaseException) -> bool:
        return leaderless(DBAPIError("INSERT", {}, cause))

    assert not failed(sqlite3.OperationalError("database is locked"))
    assert not failed(psycopg.errors.LockNotAvailable())
    assert not failed(psycopg.errors.UniqueViolation())
    assert failed(psycopg.errors.ReadOnlySqlTransaction())
    assert failed(psycopg.errors.CannotConnectNow())
