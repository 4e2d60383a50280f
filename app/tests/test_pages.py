"""The pages, their JSON and their feed."""

import html
import json
import re
import time
from urllib.parse import parse_qs, urljoin, urlsplit
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa
from conftest import Send
from flask import Flask
from flask.testing import FlaskClient

from newsboard import board
from newsboard.models import Post


def titles(client: FlaskClient, path: str) -> list[str]:
    """The stories on a list, from its JSON."""
    separator = "&" if "?" in path else "?"
    return [story["post_title"] for story in client.get(f"{path}{separator}format=json").json["stories"]]


def test_an_empty_board_says_so(client: FlaskClient) -> None:
    for path in ("/", "/newest"):
        assert "No stories yet" in client.get(path).text
    assert ElementTree.fromstring(client.get("/rss").data).findall(".//item") == []


def test_people_lift_a_story_and_age_sinks_it(app: Flask, client: FlaskClient, send: Send) -> None:
    send(1, post_title="old")
    send(2, post_title="talked about")
    send(3, post_title="new")
    for hanesst_id, who in ((10, "bob"), (11, "cyd")):
        send(hanesst_id, post_parent=2, username=who)
    assert titles(client, "/") == ["talked about", "new", "old"]
    assert titles(client, "/newest") == ["new", "talked about", "old"]
    with app.extensions["newsboard"].write() as connection:
        connection.execute(sa.update(Post).where(Post.hanesst_id == 2).values(created_at=0))
    assert titles(client, "/") == ["new", "old", "talked about"]


def test_rank_follows_the_published_formula() -> None:
    assert board.rank(1, 0) == pytest.approx(2**-1.8)
    assert board.rank(32, 3 * 3600) == pytest.approx(16 / 5**1.8)
    assert board.rank(5, -60) == board.rank(5, 0)  # a clock set back


def score(client: FlaskClient) -> tuple[int, int]:
    """Points and replies of the only story."""
    (story,) = client.get("/?format=json").json["stories"]
    return story["score"], story["replies"]


def test_score_counts_people_and_replies_count_posts(client: FlaskClient, send: Send) -> None:
    send(1)
    assert score(client) == (1, 0)
    send(2, post_parent=1, username="bob")
    send(3, post_parent=2, username="bob")
    send(4, post_parent=3, username="ada")
    assert score(client) == (2, 3)
    send(4, post_parent=3, username="cyd")  # a repeat counts for nothing
    assert score(client) == (2, 3)


def test_replies_that_arrive_first_are_counted_and_shown_in_the_end(client: FlaskClient, send: Send) -> None:
    send(4, post_parent=3, username="cyd", post_text="innermost")
    send(5, post_parent=3, username="bob", post_text="second")
    assert "arrived yet" in client.get("/item/4").text
    send(2, post_parent=1, username="bob", post_text="outermost")
    send(1)
    assert score(client) == (2, 1)
    send(3, post_parent=2, username="ada", post_text="between")
    assert score(client) == (3, 4)
    page = client.get("/item/1").text
    assert [page.index(word) for word in ("outermost", "between", "innermost", "second")] == sorted(
        page.index(word) for word in ("outermost", "between", "innermost", "second")
    )
    assert "arrived yet" not in client.get("/item/4").text


def test_a_reply_to_a_reply_is_indented_below_it(client: FlaskClient, send: Send) -> None:
    send(1)
    for hanesst_id, parent in ((2, 1), (3, 1), (4, 2), (5, 4)):
        send(hanesst_id, post_parent=parent)
    found = re.findall(r'<li id="c(\d+)" class="depth-(\d)"', client.get("/item/1").text)
    assert found == [("2", "0"), ("4", "1"), ("5", "2"), ("3", "0")]
    assert re.findall(r'<li id="c(\d+)"', client.get("/item/2").text) == ["4", "5"]


def test_replies_in_a_loop_do_no_harm(client: FlaskClient, send: Send) -> None:
    send(1, post_parent=2)
    send(2, post_parent=1)
    send(3, post_parent=2)
    assert re.findall(r'<li id="c(\d+)"', client.get("/item/1").text) == ["2", "3"]
    assert client.get("/").status_code == 200


def fill(app: Flask, count: int, *, parent: int | None) -> None:
    """Store posts 1, 2, … at once: stories, or a comment on each one before, down from `parent`."""
    story = parent is None
    now = time.time_ns() // 1_000_000
    rows = [
        {
            "hanesst_id": number,
            "username": "ada",
            "post_type": "story" if story else "comment",
            "post_title": f"Story {number}",
            "post_url": "",
            "post_text": "text",
            "post_parent": -1 if story else number - 1,
            "created_at": now + number,
            "opens_thread": story,
            "thread_id": number if story else parent,
            "replies": 0,
            "score": 1,
        }
        for number in range(1, count + 1)
    ]
    with app.extensions["newsboard"].write() as connection:
        connection.execute(sa.insert(Post), rows)


def test_a_thread_two_thousand_replies_deep_can_be_read(app: Flask, client: FlaskClient, send: Send) -> None:
    send(0)
    fill(app, 2_000, parent=0)
    pages = [client.get(f"/item/0?page={page}") for page in range(1, 9)]
    assert [page.status_code for page in pages] == [200] * 7 + [404]
    found = re.findall(r'<li id="c(\d+)"', "".join(page.text for page in pages))
    assert [int(number) for number in found] == list(range(1, 2_001))


def test_a_thread_costs_the_same_queries_whatever_its_size(
    app: Flask, client: FlaskClient, send: Send
) -> None:
    statements: list[str] = []
    send(0)
    send(1, post_parent=0)

    def count() -> int:
        statements.clear()
        assert client.get("/item/0").status_code == 200
        return sum(statement.lstrip().upper().startswith(("SELECT", "WITH")) for statement in statements)

    sa.event.listen(
        app.extensions["newsboard"].engine, "before_cursor_execute", lambda *args: statements.append(args[2])
    )
    small = count()
    for hanesst_id in range(2, 40):
        send(hanesst_id, post_parent=hanesst_id // 2, username=f"user{hanesst_id}")
    assert count() == small <= 3


def test_the_lists_stay_fast_with_100_000_stories(app: Flask, client: FlaskClient, send: Send) -> None:
    send(0)
    fill(app, 100_000, parent=None)
    for path in ("/", "/newest", "/?page=30", "/rss", "/latest", "/status"):
        client.get(path)
        start = time.perf_counter()
        assert client.get(path).status_code == 200
        # About 10 ms. The limit only has to tell an index from a scan with a sort, which takes over 1 s.
        assert time.perf_counter() - start < 0.5, path


def test_lists_have_pages(client: FlaskClient, send: Send) -> None:
    for hanesst_id in range(12):
        send(hanesst_id)
    expected = [f"Story {number}" for number in reversed(range(12))]
    for path in ("/", "/newest"):
        assert [title for page in "123" for title in titles(client, f"{path}?page={page}")] == expected
        assert 'rel="next"' in client.get(f"{path}?page=2").text
        assert 'rel="next"' not in client.get(f"{path}?page=3").text
        assert client.get(f"{path}?page=3&format=json").json["next"] is None
    assert client.get("/user?name=ada&page=3").status_code == 200
    assert 'href="?name=ada&amp;page=2"' in client.get("/user?name=ada").text


@pytest.mark.parametrize(
    "query",
    ["endpoint=x", "_method=DELETE", "_scheme=javascript", "_external=1", "_anchor=x", "hanesst_id=7"],
)
@pytest.mark.parametrize("path", ["/?", "/newest?", "/user?name=a%26b%2B%C3%B8&", "/item/0?"])
def test_any_query_goes_along_to_the_next_page_as_it_is(
    app: Flask, client: FlaskClient, send: Send, path: str, query: str
) -> None:
    send(0)
    for hanesst_id in range(1001, 1007):
        send(hanesst_id, username="a&b+ø")
    fill(app, 400, parent=0)
    shown = client.get(path + query)
    assert shown.status_code == 200
    (target,) = re.findall('rel="next" href="(.*?)"', shown.text)
    address = urljoin(f"http://localhost{path}{query}", html.unescape(target))
    assert parse_qs(urlsplit(address).query) == parse_qs(urlsplit(path + query).query) | {"page": ["2"]}
    assert 'rel="prev"' in client.get(address).text


@pytest.mark.parametrize(
    "path", ["/?page=0", "/?page=2", "/newest?page=x", "/newest?page=-1", "/rss/x", "/item/5"]
)
def test_what_is_not_there_is_a_404_page(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert "To the front page" in response.text


@pytest.mark.parametrize(
    "path", ["/item/9223372036854775808", "/item/x", "/user", "/user?name=%00", "/nothing"]
)
def test_odd_addresses_are_a_404(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


NASTY = '<script>alert("1")</script> & \'\x01\x0b\ufffe\x7f]]> 😀'


def test_text_from_outside_is_escaped_everywhere(client: FlaskClient, send: Send) -> None:
    send(1, username=NASTY, post_title=NASTY, post_text=NASTY, post_url='https://e.org/"><script>')
    send(2, username=NASTY, post_title=NASTY, post_text=NASTY, post_parent=1)
    for path in ("/", "/newest", "/item/1", "/item/2", "/user?name=" + "%3Cscript"):
        assert "<script" not in client.get(path).text
    page = client.get("/user", query_string={"name": NASTY})
    assert page.status_code == 200
    assert "<script" not in page.text


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "ftp://e.org", "//e.org", "https:///x", "http://[", ""]
)
def test_only_web_addresses_become_links(client: FlaskClient, send: Send, url: str) -> None:
    send(1, post_url=url)
    assert 'class="title" href="/item/1"' in client.get("/").text
    assert "nofollow" not in client.get("/item/1").text


def test_links_to_elsewhere_pass_nothing_on(client: FlaskClient, send: Send) -> None:
    send(1, post_url="HTTPS://www.Example.org/?a=1&b=2")
    page = client.get("/").text
    assert 'href="HTTPS://www.Example.org/?a=1&amp;b=2" rel="nofollow noopener"' in page
    assert ">example.org<" in page


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "a//b", "?&#%2F", " ", "😀", "\n"])
def test_a_user_of_any_name_has_a_page(client: FlaskClient, send: Send, name: str) -> None:
    send(1, username=name)
    (href,) = re.findall(r'class="person" href="([^"]+)"', client.get("/").text)
    assert "Story 1" in client.get(href.replace("&amp;", "&")).text


def test_the_feed_is_well_formed_whatever_is_in_it(client: FlaskClient, send: Send) -> None:
    send(1, username=NASTY, post_title=NASTY, post_text=NASTY + "\r\n", post_url="javascript:x")
    send(2, post_title="", post_text="word " * 50)
    response = client.get("/rss")
    assert response.content_type == "application/rss+xml; charset=utf-8"
    newer, older = ElementTree.fromstring(response.data).findall("channel/item")
    assert older.findtext("title") == '<script>alert("1")</script> & \' \x7f]]> 😀'
    assert older.findtext("link") == older.findtext("guid") == "http://localhost/item/1"
    assert newer.findtext("link") == "https://www.example.org/a"
    assert newer.findtext("title") == "word " * 15 + "word…"


def test_json_has_what_the_list_shows(client: FlaskClient, send: Send) -> None:
    send(1)
    answer = client.get("/?format=json")
    assert answer.json["page"] == 1
    assert answer.json["next"] is None
    assert set(answer.json["stories"][0]) >= {"hanesst_id", "post_title", "score", "replies", "created_at"}
    assert json.loads(client.get("/?format=json&page=9").text)["error"]


def test_static_addresses_change_with_the_content(client: FlaskClient) -> None:
    page = client.get("/").text
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(links) >= 2
    for link in links:
        assert re.search(r"\?v=[0-9a-f]{12}$", link)
        response = client.get(link)
        assert response.status_code == 200
        assert "max-age=31536000" in response.headers["Cache-Control"]
        response.close()


def test_pages_allow_nothing_but_their_own_style(client: FlaskClient) -> None:
    response = client.get("/")
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
    assert "style=" not in response.text
    assert "<script" not in response.text
