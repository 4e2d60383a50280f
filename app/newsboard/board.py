"""Reading: what is on the board, and in which order."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import CTE, BindParameter, func, select
from sqlalchemy.orm import Session

from newsboard.models import Post, User

# The front page ranks this many of the newest threads. Older ones would come last anyway, and so the page
# costs the same with a million stories as with a thousand.
FRONT_PAGE_CANDIDATES = 1_000

COMMENTS_PER_PAGE = 300


@dataclass(frozen=True)
class Listing:
    """One page of a list of posts."""

    posts: Sequence[Post]
    first: int
    """The place of the first one in the whole list, from 1."""
    more: bool
    """Whether there is a next page."""


@dataclass(frozen=True)
class Comment:
    """A post in its place in a thread."""

    post: Post
    depth: int


@dataclass(frozen=True)
class Thread:
    """A post and one page of what is below it, in reading order."""

    post: Post
    story: Post | None
    """What opened the thread, if it is another post than this one, and is stored."""
    comments: Sequence[Comment]
    total: int
    more: bool


def rank(score: int, age_seconds: float) -> float:
    """How high a story stands: Hacker News' formula, from the `news.arc` that was published with Arc 3.1.

    points ^ 0.8 / (hours + 2) ^ 1.8: people lift a story, each one a little less than the one before; age
    sinks it, and faster than people can lift it. The original takes the author's own point off first. Here
    it counts, or a story that nobody has answered yet would stand below every old one that somebody has.
    """
    return float(score**0.8 / (max(age_seconds, 0) / 3600 + 2) ** 1.8)


def front_page(session: Session, page: int, size: int) -> Listing:
    """The threads that people talk about now, best first."""
    now = time.time()
    candidates = session.execute(
        select(Post.hanesst_id, Post.score, Post.created_at)
        .where(Post.opens_thread.is_(True))
        .order_by(Post.created_at.desc(), Post.hanesst_id.desc())
        .limit(FRONT_PAGE_CANDIDATES)
    ).all()
    # The sort is stable: of equals, the newest stays first.
    ranked = sorted(candidates, key=lambda row: -rank(row.score, now - row.created_at / 1000))
    start = (page - 1) * size
    ids = [row.hanesst_id for row in ranked[start : start + size]]
    posts = _by_id(session, ids)
    return Listing([posts[id_] for id_ in ids], start + 1, len(ranked) > start + size)


def newest(session: Session, page: int, size: int) -> Listing:
    """All threads, the last to arrive first."""
    start = (page - 1) * size
    posts = session.scalars(
        select(Post)
        .where(Post.opens_thread.is_(True))
        .order_by(Post.created_at.desc(), Post.hanesst_id.desc())
        .offset(start)
        .limit(size + 1)
    ).all()
    return Listing(posts[:size], start + 1, len(posts) > size)


def by_user(session: Session, name: str, page: int, size: int) -> tuple[User, Listing] | None:
    """A user and what they posted, newest first; None when nobody has this name."""
    # PostgreSQL refuses even to look for a NUL.
    user = session.get(User, name) if "\0" not in name else None
    if user is None:
        return None
    start = (page - 1) * size
    posts = session.scalars(
        select(Post)
        .where(Post.username == name)
        .order_by(Post.created_at.desc(), Post.hanesst_id.desc())
        .offset(start)
        .limit(size + 1)
    ).all()
    return user, Listing(posts[:size], start + 1, len(posts) > size)


def thread(session: Session, hanesst_id: int, page: int) -> Thread | None:
    """A post with its comments; None when it isn't stored.

    Three queries whatever the size of the thread: the post and its story, the shape of the tree (two numbers
    for each post), and the text of the comments on this page.
    """
    post = session.get(Post, hanesst_id)
    if post is None:
        return None
    story = session.get(Post, post.thread_id) if post.thread_id not in (None, hanesst_id) else None
    tree = session.execute(select(below(hanesst_id)))
    order = reading_order(hanesst_id, [(row.hanesst_id, row.post_parent) for row in tree])
    start = (page - 1) * COMMENTS_PER_PAGE
    shown = order[start : start + COMMENTS_PER_PAGE]
    posts = _by_id(session, [id_ for id_, _ in shown])
    comments = [Comment(posts[id_], depth) for id_, depth in shown]
    return Thread(post, story, comments, len(order), len(order) > start + COMMENTS_PER_PAGE)


def reading_order(top: int, links: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort a tree as it is read: each reply below its parent, siblings oldest first.

    Args:
        top: the post that the tree hangs on.
        links: (post, its parent) for each post below.

    Returns:
        (post, depth) for each. No recursion, so no depth is too deep.
    """
    children = defaultdict(list)
    for child, parent in links:
        # Replies can name each other as parents; such a loop must not come back to the top.
        if child != top:
            children[parent].append(child)
    for siblings in children.values():
        siblings.sort(reverse=True)
    order = []
    stack = [(child, 0) for child in children[top]]
    while stack:
        current, depth = stack.pop()
        order.append((current, depth))
        stack.extend((child, depth + 1) for child in children.get(current, ()))
    return order


def below(hanesst_id: int | BindParameter[int]) -> CTE:
    """The posts under a post, at any depth: a table of `hanesst_id` and `post_parent`."""
    tree = (
        select(Post.hanesst_id, Post.post_parent)
        .where(Post.post_parent == hanesst_id)
        .cte("tree", recursive=True)
    )
    # UNION, not UNION ALL: it ends even where replies form a loop.
    return tree.union(
        select(Post.hanesst_id, Post.post_parent).join(tree, Post.post_parent == tree.c.hanesst_id)
    )


def after(session: Session, hanesst_id: int, limit: int) -> tuple[Sequence[Post], int | None]:
    """Posts of any kind in the order of their ids, and where to go on, or None at the end."""
    posts = session.scalars(
        select(Post).where(Post.hanesst_id > hanesst_id).order_by(Post.hanesst_id).limit(limit + 1)
    ).all()
    return posts[:limit], posts[limit - 1].hanesst_id if len(posts) > limit else None


def latest(session: Session) -> int:
    """The highest id stored, or -1 when nothing is (0 is an id)."""
    found = session.scalar(select(func.max(Post.hanesst_id)))
    return -1 if found is None else found


def _by_id(session: Session, ids: Sequence[int]) -> dict[int, Post]:
    return {post.hanesst_id: post for post in session.scalars(select(Post).where(Post.hanesst_id.in_(ids)))}
