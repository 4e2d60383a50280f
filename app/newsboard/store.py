"""Writing: one post, exactly once, with its thread kept right.

The statements are built once, and few: building them anew for each post costs several times what running them
does, and all of it while the next writer waits.
"""

import hashlib
import time
from dataclasses import asdict

from sqlalchemy import BindParameter, Connection, bindparam, exists, func, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import aliased

from newsboard.board import below
from newsboard.database import Database
from newsboard.drafts import Draft
from newsboard.models import Post, User

_thread: BindParameter[int] = bindparam("thread")
_parent = aliased(Post)
_parents_thread = (
    select(_parent.thread_id).where(_parent.hanesst_id == bindparam("post_parent")).scalar_subquery()
)

# All that must be known before a post is stored, in one look.
_LOOK = select(
    exists().where(Post.hanesst_id == bindparam("hanesst_id")).label("known_post"),
    exists().where(User.name == bindparam("username")).label("known_user"),
    _parents_thread.label("parents_thread"),
    exists()
    .where(Post.thread_id == _parents_thread, Post.username == bindparam("username"))
    .label("in_thread"),
    exists().where(Post.post_parent == bindparam("hanesst_id")).label("awaited"),
)

_ADD_USER = insert(User)
_ADD_POST = insert(Post)

_COUNT = (
    update(Post)
    .where(Post.hanesst_id == _thread)
    .values(replies=Post.replies + 1, score=Post.score + bindparam("people"))
)

_ADOPT = (
    update(Post)
    .where(Post.hanesst_id.in_(select(below(bindparam("top")).c.hanesst_id)))
    .values(thread_id=_thread)
)

_member = aliased(Post)
_COUNT_AGAIN = (
    update(Post)
    .where(Post.hanesst_id == _thread)
    .values(
        replies=select(func.count() - 1).where(_member.thread_id == _thread).scalar_subquery(),
        score=select(func.count(_member.username.distinct()))
        .where(_member.thread_id == _thread)
        .scalar_subquery(),
    )
)


def save(database: Database, draft: Draft) -> bool:
    """Store a post durably, also while the database changes its leader: what is stored twice is stored once.

    Returns:
        False when a post with this id was stored before: the first one stays as it is.
    """
    while True:
        try:
            return _save(database, draft)
        except DBAPIError as error:
            if not database.may_pass(error):
                raise
        time.sleep(0.1)


def _save(database: Database, draft: Draft) -> bool:
    now = time.time_ns() // 1_000_000
    fields = asdict(draft)
    secret = secret_of(draft.username, fields.pop("pwd_hash"))
    with database.write() as connection:
        look = connection.execute(_LOOK, fields).one()
        if look.known_post:
            return False
        # The first post makes the account. Later ones leave it alone, even with another pwd_hash.
        if not look.known_user:
            connection.execute(_ADD_USER, {"name": draft.username, "secret": secret, "created_at": now})

        thread = draft.hanesst_id if draft.opens_thread else look.parents_thread
        place = {
            "created_at": now,
            "opens_thread": draft.opens_thread,
            "thread_id": thread,
            "replies": 0,
            "score": int(draft.opens_thread),
        }
        connection.execute(_ADD_POST, fields | place)
        if thread is None:
            return True  # what it replies to hasn't arrived, and will adopt it
        if look.awaited:
            _adopt(connection, draft.hanesst_id, thread)
        elif not draft.opens_thread:
            connection.execute(_COUNT, {"thread": thread, "people": int(not look.in_thread)})
    return True


def secret_of(username: str, pwd_hash: str) -> str:
    """What is kept of a `pwd_hash`.

    To a client, `pwd_hash` *is* the password: whoever reads it from a stolen database could log in with it.
    One more hash ends that. A fast one, since the slow one is the client's; with the name, so that two users
    with one password don't show it.
    """
    return hashlib.sha256(f"{username}\0{pwd_hash}".encode()).hexdigest()


def _adopt(connection: Connection, hanesst_id: int, thread: int) -> None:
    """Bring the replies that came before this post into its thread, with all that hangs on them."""
    connection.execute(_ADOPT, {"top": hanesst_id, "thread": thread})
    connection.execute(_COUNT_AGAIN, {"thread": thread})
