"""What a client sends to `POST /post`, and everything that can be wrong with it."""

import json
from dataclasses import dataclass
from typing import Any, Self

MAX_ID = 2**63 - 1  # the databases' largest integer
POST_TYPES = ("story", "comment", "poll", "pollopt")

# In characters. Far above what people write; low enough that one post can't weigh down a page.
MAX_LENGTH = {
    "username": 100,
    "pwd_hash": 500,
    "post_title": 1_000,
    "post_url": 4_000,
    "post_text": 100_000,
}


class BadPost(ValueError):
    """The post can't be taken.

    Attributes:
        field: the field at fault, or None when it is the body as a whole.
        reason: what is wrong with it, for the client's author.
    """

    def __init__(self, field: str | None, reason: str) -> None:
        """Name the field and the reason."""
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class Draft:
    """A post that is well-formed, and not stored yet."""

    hanesst_id: int
    username: str
    pwd_hash: str
    post_type: str
    post_title: str
    post_url: str
    post_text: str
    post_parent: int

    @property
    def opens_thread(self) -> bool:
        """Whether it stands by itself on the board, rather than below another post."""
        return self.post_parent == -1 and self.post_type in ("story", "poll")

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Read a request's body, whatever its Content-Type says.

        Raises:
            BadPost: naming the first field that is malformed.
        """
        try:
            data = json.loads(body.decode())
        except UnicodeDecodeError:
            raise BadPost(None, "the body is not UTF-8") from None
        except (ValueError, RecursionError):
            raise BadPost(None, "the body is not JSON") from None
        if not isinstance(data, dict):
            raise BadPost(None, "the body is not a JSON object")

        draft = cls(
            hanesst_id=_integer(data, "hanesst_id", minimum=0),
            username=_string(data, "username"),
            pwd_hash=_string(data, "pwd_hash"),
            post_type=_string(data, "post_type", limit=20),
            post_title=_string(data, "post_title"),
            post_url=_string(data, "post_url"),
            post_text=_string(data, "post_text"),
            post_parent=_integer(data, "post_parent", minimum=-1),
        )
        if not draft.username:
            raise BadPost("username", "is empty")
        if draft.post_type not in POST_TYPES:
            raise BadPost("post_type", f"must be one of {', '.join(POST_TYPES)}")
        if draft.post_type == "story" and draft.post_parent != -1:
            raise BadPost("post_parent", "must be -1 for a story")
        if draft.post_parent == draft.hanesst_id:
            raise BadPost("post_parent", "is the post itself")
        return draft


def _get(data: dict[str, Any], field: str) -> Any:  # noqa: ANN401  anything may come from outside
    if field not in data:
        raise BadPost(field, "is missing")
    return data[field]


def _integer(data: dict[str, Any], field: str, *, minimum: int) -> int:
    value = _get(data, field)
    # Python takes True for 1; the contract doesn't.
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadPost(field, "must be a whole number")
    if not minimum <= value <= MAX_ID:
        raise BadPost(field, f"must be from {minimum} to {MAX_ID}")
    return value


def _string(data: dict[str, Any], field: str, *, limit: int | None = None) -> str:
    value = _get(data, field)
    limit = limit or MAX_LENGTH[field]
    if not isinstance(value, str):
        raise BadPost(field, "must be a string")
    if len(value) > limit:
        raise BadPost(field, f"is longer than {limit} characters")
    if "\0" in value:
        raise BadPost(field, "contains a NUL character, which PostgreSQL can't store")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadPost(field, "contains half of a surrogate pair, which is not a character") from None
    return value
