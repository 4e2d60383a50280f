"""What people see of the sample app, in a real browser."""

import os
import shutil
from collections.abc import Iterator

import pytest
from helpers import App, Promised
from helpers_http import ask, in_host_header
from test_newsboard import Board, story

pytestmark = pytest.mark.disturbs  # it stores posts

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Start Debian's Chromium; its absence is no reason to fail, except where the tests are there to run all."""
    missing = None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright is not installed"
    if not os.access(CHROMIUM, os.X_OK):
        missing = "chromium is not installed"
    if missing:
        message = f"{missing}: run bin/setup --tests"
        if os.environ.get("FLASK_ON_METAL_REQUIRE_BROWSER") == "1":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def board(newsboard: App, promised: Promised) -> Board:
    """Reach the host's board at an address that it lists: a browser asks for names in the DNS."""
    address = next((one for one in promised.addresses if one in newsboard.addresses), None)
    if address is None:
        pytest.skip("the app lists no address, and a browser can't be told where its name is")
    return Board(address, newsboard)


@pytest.fixture(scope="module")
def posted(board: Board) -> dict:
    """Post a story with one comment."""
    number = board.latest() + 10
    post = story(number, post_title=f"Read me in a browser {number}", post_text="What it is about\nin two lines")
    reply = story(number + 1, post_type="comment", post_title="", post_text="I have read it", post_parent=number)
    assert [board.send(one).status for one in (post, reply)] == [200, 200]
    return post


@pytest.fixture(params=["light", "dark"])
def colours(request) -> str:
    """Choose what the visitor prefers."""
    return request.param


@pytest.fixture
def page(browser, board: Board, colours: str) -> Iterator:
    """Open a page on a phone; what went wrong in it is told at the end."""
    visitor = browser.new_context(
        base_url=f"https://{in_host_header(board.address)}",
        ignore_https_errors=True,
        color_scheme=colours,
        viewport={"width": 390, "height": 844},
    )
    opened = visitor.new_page()
    wrong: list[str] = []
    opened.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    opened.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    opened.on(
        "response", lambda answer: wrong.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None
    )
    yield opened
    visitor.close()
    assert wrong == []


def fits(page) -> bool:
    """Tell whether the page can't be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_story_is_on_the_list_and_leads_to_its_comments(page, posted):
    page.goto("/newest")
    link = page.get_by_role("link", name=posted["post_title"], exact=True)
    assert link.is_visible()
    assert fits(page)
    link.click()
    page.wait_for_url(f"**/item/{posted['hanesst_id']}")
    assert page.get_by_role("heading", level=1).inner_text() == posted["post_title"]
    assert page.get_by_text("I have read it").is_visible()
    assert fits(page)


def test_front_page_is_styled_and_in_the_visitors_colours(page, posted, colours):
    page.goto("/")
    assert page.get_by_role("link", name=posted["post_title"], exact=True).is_visible()
    assert fits(page)
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    if "rgba(0, 0, 0, 0)" in background:
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [float(part) for part in background.partition("(")[2].rstrip(")").split(",")[:3]]
    assert (sum(channels) / 3 < 128) == (colours == "dark"), background


def test_static_files_are_served_by_nginx_and_not_by_the_app(board, newsboard):
    if "/static/" not in newsboard.static:
        pytest.skip("the inventory has NGINX serve no static files")
    served = ask(board.address, newsboard.canonical, "/static/newsboard.css")
    # The app sets this header on all it answers.
    assert served.status == 200
    assert "content-security-policy" not in served.headers
    assert served.headers["content-type"].startswith("text/css")
