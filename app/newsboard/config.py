"""The configuration, read from the environment once and checked in full."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

MAX_PAGE_SIZE = 200


class ConfigError(ValueError):
    """A setting can't be used; the message names it and says what would be right."""


@dataclass(frozen=True)
class Settings:
    """What an operator may choose."""

    database_url: URL
    page_size: int = 30
    title: str = "newsboard"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], instance_folder: Path) -> Self:
        """Read `DATABASE_URL`, `NEWSBOARD_PAGE_SIZE` and `NEWSBOARD_TITLE`.

        A variable that is set but empty is an error rather than the default: a lost secret must not quietly
        start an empty board on SQLite.
        """
        for name in ("DATABASE_URL", "NEWSBOARD_PAGE_SIZE", "NEWSBOARD_TITLE"):
            if not environ.get(name, "unset").strip():
                raise ConfigError(f"{name} is set but empty: give it a value, or unset it for the default")
        return cls(
            database_url=_database_url(environ.get("DATABASE_URL"), instance_folder),
            page_size=_page_size(environ.get("NEWSBOARD_PAGE_SIZE", str(cls.page_size))),
            title=environ.get("NEWSBOARD_TITLE", cls.title),
        )


def _page_size(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= MAX_PAGE_SIZE):
        raise ConfigError(
            f"NEWSBOARD_PAGE_SIZE must be a whole number from 1 to {MAX_PAGE_SIZE}, not {value!r}"
        )
    return int(value)


def _database_url(value: str | None, instance_folder: Path) -> URL:
    """The address with the driver that we ship. Errors never repeat it, since it may hold a password."""
    if value is None:
        return URL.create("sqlite", database=str(instance_folder / "newsboard.db"))
    try:
        # Some hosting services still write the scheme that SQLAlchemy dropped.
        url = make_url(value.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):
        raise ConfigError(
            "DATABASE_URL isn't a database address: write sqlite:////srv/news.db or "
            "postgresql://user:password@host/name"
        ) from None
    match url.drivername:
        case "postgresql" | "postgresql+psycopg":
            return url.set(drivername="postgresql+psycopg")
        case "sqlite" | "sqlite+pysqlite" if url.database and url.database != ":memory:" and not url.query:
            return url
        case "sqlite" | "sqlite+pysqlite":
            raise ConfigError(
                "DATABASE_URL must name a plain file, such as sqlite:////srv/news.db: what is in memory is "
                "lost, and each process would have its own"
            )
        case other:
            raise ConfigError(f"DATABASE_URL must be sqlite:/// or postgresql://, not {other}://")
