"""For people: the board in HTML, with the lists as JSON and RSS too."""

import re
from email.utils import format_datetime
from xml.etree import ElementTree

from flask import Blueprint, Response, abort, current_app, jsonify, render_template, request, url_for
from flask.typing import ResponseReturnValue

from newsboard import board, database
from newsboard.api import as_dict
from newsboard.board import Listing
from newsboard.config import Settings
from newsboard.models import Post
from newsboard.text import link, moment, xml_safe

_CREATOR = "http://purl.org/dc/elements/1.1/"
_ATOM = "http://www.w3.org/2005/Atom"
ElementTree.register_namespace("dc", _CREATOR)
ElementTree.register_namespace("atom", _ATOM)

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def front_page() -> ResponseReturnValue:
    """What people talk about now."""
    page = _page()
    with database.current().read() as session:
        return _stories("Front page", board.front_page(session, page, _settings().page_size), page)


@blueprint.get("/newest")
def newest() -> ResponseReturnValue:
    """What came last."""
    page = _page()
    with database.current().read() as session:
        return _stories("Newest", board.newest(session, page, _settings().page_size), page)


@blueprint.get("/item/<int(max=9223372036854775807):hanesst_id>")
def item(hanesst_id: int) -> ResponseReturnValue:
    """A post and what was said below it."""
    page = _page()
    with database.current().read() as session:
        thread = board.thread(session, hanesst_id, page)
        if thread is None or (page > 1 and not thread.comments):
            abort(404, "There is no such post. It may not have arrived yet.")
        return render_template("item.html", thread=thread, page=page, title=headline(thread.post))


@blueprint.get("/user")
def user() -> ResponseReturnValue:
    """What someone posted. Names hold any character, so they travel in the query: proxies tidy up paths."""
    page = _page()
    with database.current().read() as session:
        found = board.by_user(session, request.args.get("name", ""), page, _settings().page_size)
        if found is None or (page > 1 and not found[1].posts):
            abort(404, "Nobody by this name has posted.")
        return render_template("user.html", user=found[0], listing=found[1], page=page)


@blueprint.get("/rss")
def rss() -> ResponseReturnValue:
    """The newest stories as a feed. Not the front page: a reader keeps its own order, and would miss some."""
    feed = ElementTree.Element("rss", version="2.0")
    channel = ElementTree.SubElement(feed, "channel")
    title = _settings().title
    _add(channel, "title", title)
    _add(channel, "link", url_for("pages.front_page", _external=True))
    _add(channel, "description", f"The newest stories on {title}")
    here = url_for("pages.rss", _external=True)
    ElementTree.SubElement(channel, f"{{{_ATOM}}}link", href=here, rel="self", type="application/rss+xml")
    with database.current().read() as session:
        for post in board.newest(session, 1, _settings().page_size).posts:
            discussion = url_for("pages.item", hanesst_id=post.hanesst_id, _external=True)
            entry = ElementTree.SubElement(channel, "item")
            _add(entry, "title", headline(post))
            _add(entry, "link", link(post.post_url) or discussion)
            _add(entry, "guid", discussion)
            _add(entry, "comments", discussion)
            _add(entry, "pubDate", format_datetime(moment(post.created_at), usegmt=True))
            _add(entry, f"{{{_CREATOR}}}creator", post.username)
            _add(entry, "description", post.post_text)
    body = ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True)
    return Response(body, content_type="application/rss+xml; charset=utf-8")


@blueprint.app_template_filter("headline")
def headline(post: Post) -> str:
    """A line that stands for a post: its title, or how its text begins. Comments have no title."""
    line = " ".join((post.post_title.strip() or post.post_text).split())
    return (line if post.post_title.strip() or len(line) <= 80 else line[:79] + "…") or "(untitled)"


def _stories(heading: str, listing: Listing, page: int) -> ResponseReturnValue:
    if page > 1 and not listing.posts:
        abort(404, "The list ends before this page.")
    if request.args.get("format") != "json":
        return render_template("stories.html", heading=heading, listing=listing, page=page)
    stories = [as_dict(post) | {"score": post.score, "replies": post.replies} for post in listing.posts]
    return jsonify(stories=stories, page=page, next=page + 1 if listing.more else None)


def _page() -> int:
    value = request.args.get("page", "1")
    # At most six digits: no board has more pages, and no database has to count further.
    if not re.fullmatch("[1-9][0-9]{0,5}", value):
        abort(404, "Pages are numbered from 1.")
    return int(value)


def _settings() -> Settings:
    settings: Settings = current_app.config["NEWSBOARD"]
    return settings


def _add(parent: ElementTree.Element, tag: str, content: str) -> None:
    ElementTree.SubElement(parent, tag).text = xml_safe(content)
