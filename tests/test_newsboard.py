"""The sample app's contract, through the front door."""

import json
import time

import pytest
from helpers import App, Promised
from helpers_http import Answer, ask

pytestmark = pytest.mark.disturbs  # it stores posts


class Board:
    """The board of one host."""

    def __init__(self, address: str, app: App) -> None:
        """Remember who is asked."""
        self.address, self.app = address, app

    def get(self, path: str) -> Answer:
        """Ask for a path."""
        return ask(self.address, self.app.canonical, path)

    def send(self, post: object, headers: dict[str, str] | None = None) -> Answer:
        """Send a post, or what is none."""
        body = post if isinstance(post, bytes) else json.dumps(post).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        return ask(self.address, self.app.canonical, "/post", method="POST", headers=headers, body=body)

    def latest(self) -> int:
        """Ask for the highest id."""
        return int(self.get("/latest").text)

    def read_back(self, number: int) -> dict:
        """Read a stored post."""
        (post,) = json.loads(self.get(f"/api/posts?after={number - 1}&limit=1").text)["posts"]
        return post


def story(number: int, **changes: object) -> dict:
    return {
        "hanesst_id": number,
        "username": "promise-keeper",
        "pwd_hash": "Y89KIJ3frM",
        "post_type": "story",
        "post_title": f"Story {number} — „Grüße“ <b>&amp; 雪</b>",
        "post_url": "",
        "post_text": f"Sent at {time.time()}",
        "post_parent": -1,
        **changes,
    }


@pytest.fixture(scope="module")
def board(newsboard: App, promised: Promised) -> Board:
    return Board(promised.addresses[0], newsboard)


@pytest.fixture
def number(board: Board) -> int:
    """Find an id that nobody used."""
    return board.latest() + 10


def test_status_says_alive(board):
    answer = board.get("/status")
    assert (answer.status, answer.text) == (200, "Alive")


def test_story_and_comment_are_stored_as_they_were_sent(board, number):
    posts = [
        story(number),
        story(number + 1, post_type="comment", post_title="", post_text="A reply", post_parent=number),
    ]
    for post in posts:
        assert board.send(post).status == 200
        stored = board.read_back(post["hanesst_id"])
        assert {name: stored[name] for name in post if name != "pwd_hash"} == {
            name: value for name, value in post.items() if name != "pwd_hash"
        }
        assert "pwd_hash" not in stored
    assert board.latest() == number + 1


def test_latest_is_a_bare_number(board, number):
    assert board.send(story(number)).status == 200
    answer = board.get("/latest")
    assert answer.text == str(number)
    assert answer.headers["content-type"].startswith("text/plain")


def test_same_id_twice_is_stored_once_and_the_first_one_wins(board, number):
    first = story(number)
    assert board.send(first).status == 200
    assert board.send({**first, "post_title": "another one"}).status == 200
    assert board.read_back(number)["post_title"] == first["post_title"]
    listed = json.loads(board.get(f"/api/posts?after={number - 1}").text)["posts"]
    assert [post["hanesst_id"] for post in listed] == [number]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"username": ""}, "username"),
        ({"username": None}, "username"),
        ({"post_type": "essay"}, "post_type"),
        ({"post_parent": 7}, "post_parent"),
        ({"hanesst_id": "12"}, "hanesst_id"),
        ({"hanesst_id": -5}, "hanesst_id"),
    ],
    ids=str,
)
def test_malformed_post_is_refused_with_its_field(board, number, change, field):
    answer = board.send(story(number, **change))
    assert answer.status == 400
    assert json.loads(answer.text)["field"] == field
    assert board.latest() < number


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[]", b"\xff\xfe", b'{"hanesst_id": 1}'], ids=repr)
def test_malformed_body_is_refused(board, body):
    assert board.send(body).status == 400


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !!!not-base64", "Digest username=", "\xff\xfe", ": :", "x" * 3000],
    ids=["no value", "no base64", "half a field", "no ASCII", "no scheme", "3000 characters"],
)
def test_malformed_authorization_does_not_matter(board, number, header):
    assert board.send(story(number), {"Authorization": header}).status == 200
    assert board.read_back(number)["hanesst_id"] == number
