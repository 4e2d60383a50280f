"""The tables. Migrations make them (migrations/versions/); a test proves that the two agree."""

from sqlalchemy import BigInteger, Boolean, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite gives its fast row id, and 64 bits, only to a column called exactly INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """The tables' common registry."""


class User(Base):
    """Someone who has posted. Their first post makes the account."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    secret: Mapped[str] = mapped_column(String(64))
    """SHA-256 of name and `pwd_hash`: see `store.secret_of`."""
    created_at: Mapped[int] = mapped_column(BigInteger)


class Post(Base):
    """A story, comment, poll or poll option, as it was posted, and its place on the board."""

    __tablename__ = "posts"
    __table_args__ = (
        Index("ix_posts_threads", "opens_thread", "created_at", "hanesst_id"),  # front page, newest
        Index("ix_posts_parent", "post_parent"),  # the tree of comments
        Index("ix_posts_thread_members", "thread_id", "username"),  # is this person new to the thread?
        Index("ix_posts_user", "username", "created_at", "hanesst_id"),  # a user's page
    )

    hanesst_id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    username: Mapped[str] = mapped_column(Text, ForeignKey("users.name"))
    post_type: Mapped[str] = mapped_column(String(7))
    post_title: Mapped[str] = mapped_column(Text)
    post_url: Mapped[str] = mapped_column(Text)
    post_text: Mapped[str] = mapped_column(Text)
    post_parent: Mapped[int] = mapped_column(BigInteger)
    """What it replies to, or -1. Not a foreign key: a reply may arrive before its parent."""
    created_at: Mapped[int] = mapped_column(BigInteger)
    """When it was stored, in milliseconds since 1970: alike on every database, no time zone to lose."""

    opens_thread: Mapped[bool] = mapped_column(Boolean)
    thread_id: Mapped[int | None] = mapped_column(BigInteger)
    """The story or poll above it (itself, if it opens the thread); null while a post between is missing."""
    replies: Mapped[int] = mapped_column(Integer, default=0)
    """Of the post that opens a thread: how many posts are below it."""
    score: Mapped[int] = mapped_column(Integer, default=0)
    """Of the post that opens a thread: how many different people have posted in it, its author included."""
