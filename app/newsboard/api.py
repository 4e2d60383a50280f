"""For programs: the calls that the examiner's simulator makes, and a listing to check it with."""

import re

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from newsboard import board, database, store
from newsboard.database import Status
from newsboard.drafts import MAX_ID, BadPost, Draft
from newsboard.models import Post
from newsboard.text import isotime

MAX_LISTING = 1_000

blueprint = Blueprint("api", __name__)


@blueprint.post("/post")
def post() -> ResponseReturnValue:
    """Store a post. 200 means that it is on disk, or that its id was stored before.

    The Authorization header isn't read, so it can't be wrong.
    """
    try:
        draft = Draft.from_body(request.get_data())
    except BadPost as error:
        return jsonify(error=str(error), field=error.field), 400
    stored = store.save(database.current(), draft)
    return jsonify(hanesst_id=draft.hanesst_id, stored=stored)


@blueprint.get("/latest")
def latest() -> ResponseReturnValue:
    """The highest id stored, bare; -1 when there is none."""
    with database.current().read() as session:
        return Response(str(board.latest(session)), mimetype="text/plain")


@blueprint.get("/status")
def status() -> ResponseReturnValue:
    """Alive, Update or Down; anything but Alive is a 503, so that a balancer understands it too."""
    found = database.current().status()
    return Response(found.value, 200 if found is Status.ALIVE else 503, mimetype="text/plain")


@blueprint.get("/api/posts")
def posts() -> ResponseReturnValue:
    """List everything that is stored, page by page, by id."""
    start = _integer("after", default=-1, minimum=-1, maximum=MAX_ID)
    limit = _integer("limit", default=100, minimum=1, maximum=MAX_LISTING)
    with database.current().read() as session:
        found, following = board.after(session, start, limit)
        return jsonify(posts=[as_dict(post) for post in found], next=following)


@blueprint.after_request
def never_cached(response: Response) -> Response:
    """A check that is answered from a cache checks nothing."""
    response.headers["Cache-Control"] = "no-store"
    return response


def as_dict(post: Post) -> dict[str, object]:
    """A post as it was sent, less `pwd_hash`, and when it was stored."""
    return {
        "hanesst_id": post.hanesst_id,
        "username": post.username,
        "post_type": post.post_type,
        "post_title": post.post_title,
        "post_url": post.post_url,
        "post_text": post.post_text,
        "post_parent": post.post_parent,
        "created_at": isotime(post.created_at),
    }


def _integer(name: str, *, default: int, minimum: int, maximum: int) -> int:
    value = request.args.get(name, str(default))
    # int() alone would take "1_000", " 7 " and digits of other scripts.
    if not re.fullmatch(r"-?[0-9]{1,19}", value) or not minimum <= int(value) <= maximum:
        raise BadRequest(f"{name}: must be a whole number from {minimum} to {maximum}")
    return int(value)
