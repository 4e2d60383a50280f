"""The posts of a run. Post number n depends on the seed and on n alone.

So nothing that was sent has to be remembered: the read-back makes each post again and compares.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from dataclasses import dataclass, fields

READERS = 500
"""Different usernames, reader1 to reader500."""

SETTLED = 200
"""A comment answers a story at least this many posts older, where there is one: at the usual 100 posts a
second that story was sent two seconds ago, so the comment doesn't race it."""

RECENT = 200
"""A comment answers one of this many latest settled stories."""

# What boards get wrong: HTML and SQL metacharacters, quotes, percent and backslash, text outside the basic
# plane, right-to-left text, a combining accent that a normalising store would change, and line breaks.
SUBJECTS = (
    "SQLite", "a 40-year-old mainframe", "Rust & C++", "“smart quotes”", "the <blink> tag", "naïve Bayes",
    "Москва's metro", "東京の地下鉄", "العربية", "O'Reilly-style covers", "100% uptime", "C:\\new\\table",
    "cafe\u0301 wifi", "emoji 👩\u200d🚀 in filenames", "Robert'); DROP TABLE posts;--", "{{ templates }}",
    "&amp; entities", "Gothic 𐍈",
)  # fmt: skip
STORIES = (
    "Show: {0} in 200 lines", "Ask: who still uses {0}?", "Why {0} beats {1}", "{0} considered harmful",
    "What I learned from {0} and {1}", '{0}, explained with "{1}"', "The hidden cost of {0}",
    "{0} → {1}: a migration",
)  # fmt: skip
REMARKS = (
    "I tried this with {0}; it's 2 < 3 times faster.", "Isn't that just {0}?", "+1 for {0} 🎉",
    '<b>No.</b> See "{0}" & friends.', "At work we moved from {0} to {1}.\n\nNobody noticed.",
    "Source? The author says '{0}'.", '<script>alert("{0}")</script> should show as text.',
    "Der Größenvergleich mit {0} hinkt.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Post:
    """One post, with the field names that go over the wire."""

    hanesst_id: int
    username: str
    post_type: str
    pwd_hash: str
    post_title: str
    post_url: str
    post_text: str
    post_parent: int

    def body(self) -> bytes:
        """Return the JSON body of POST /post, in UTF-8."""
        # Not dataclasses.asdict(): its deep copies would be a large part of the client's work per post.
        return json.dumps({name: getattr(self, name) for name in FIELDS}, ensure_ascii=False).encode()


FIELDS = tuple(one.name for one in fields(Post))

COMPARED = ("username", "post_type", "post_title", "post_url", "post_text", "post_parent")
"""The fields that the listing gives back. It rightly keeps pwd_hash to itself."""


class Content:
    """Makes the posts of one run: stories, and comments on this run's earlier stories."""

    def __init__(self, seed: int, first_id: int, comments_ratio: float) -> None:
        """Prepare for posts first_id, first_id + 1, ...; comments_ratio is a share from 0 to 1."""
        self.first_id = first_id
        self._seed = seed
        self._rng = random.Random()
        # Stories per thousand, a whole number: which posts are stories then follows from their number alone.
        self._per_mille = round((1 - comments_ratio) * 1000)

    def is_story(self, number: int) -> bool:
        """Whether post `number` (from 0) is a story. The first always is, for comments need a parent."""
        return number == 0 or number * self._per_mille // 1000 > (number - 1) * self._per_mille // 1000

    def _parent(self, number: int) -> int:
        """Choose the story that comment `number` answers, and return its number."""
        if self._per_mille == 0:
            return 0
        newest = max(0, number - SETTLED) * self._per_mille // 1000
        story = self._rng.randint(max(0, newest - RECENT + 1), newest)
        return -(-story * 1000 // self._per_mille)

    def post(self, number: int) -> Post:
        """Post `number` of the run, counted from 0."""
        rng = self._rng
        rng.seed((self._seed << 32) + number)
        username = f"reader{rng.randint(1, READERS)}"
        first, second = rng.choice(SUBJECTS), rng.choice(SUBJECTS)
        if not self.is_story(number):
            text = "\n\n".join(rng.choice(REMARKS).format(first, second) for _ in range(rng.randint(1, 3)))
            parent = self.first_id + self._parent(number)
            return Post(self.first_id + number, username, "comment", _pwd_hash(username), "", "", text, parent)
        title = rng.choice(STORIES).format(first, second)
        # Most stories are links; the others are questions with a text of their own.
        is_link = rng.random() < 0.8
        url = f"https://example.org/{rng.randint(2005, 2025)}/{number}?q=a%20b&lang=d%C3%A6#top" if is_link else ""
        text = "" if is_link else rng.choice(REMARKS).format(second, first)
        return Post(self.first_id + number, username, "story", _pwd_hash(username), title, url, text, -1)


@functools.lru_cache(maxsize=READERS)
def _pwd_hash(username: str) -> str:
    """Return the same for every post of one user, as with a real account."""
    return hashlib.sha256(f"password of {username}".encode()).hexdigest()
