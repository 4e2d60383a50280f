"""The read-back: everything the board said it stored, fetched and compared field by field.

When it cannot be finished, nothing is known about lost posts, and that is what it says: unknown, never 0.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from flask_on_metal.simulate.content import COMPARED, Content
from flask_on_metal.simulate.load import Outcome, kind_of

PAGE = 1000
"""Posts per page, the most the listing gives."""

ATTEMPTS = 3
"""Tries per page. The no-retries rule is about posts; asking again what is stored changes nothing."""

PAUSE = 0.3
"""Seconds before another try."""

EXAMPLES = 20
"""How many lost or altered posts are named."""

PAGE_TIMEOUT = 30.0
"""Seconds for one page or one /latest."""


class ReadError(Exception):
    """The board did not give what was asked of it. The text says what it did instead."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        """`again` says that another try may go better."""
        super().__init__(message)
        self.again = again


@dataclass(slots=True)
class ReadBack:
    """What the board turned out to hold. The counts mean something only if `complete`."""

    complete: bool = False
    reason: str = ""
    """Why it is not complete."""
    lost: int = 0
    """Answered 200, and not there."""
    altered: int = 0
    """Answered 200 and there, with other content."""
    duplicates: int = 0
    """Ids of this run listed more than once."""
    stored_unacknowledged: int = 0
    """Refused or failed, and there all the same: no broken promise, but good to know."""
    foreign: int = 0
    """Ids in this run's range which this run never sent: somebody else posts here too."""
    latest: int | None = None
    """What /latest said."""
    highest: int | None = None
    """The highest id that the listing showed; None if it showed none of this run."""
    latest_agrees: bool = False
    lost_examples: list[int] = field(default_factory=list)
    altered_examples: list[dict[str, Any]] = field(default_factory=list)


def parse_latest(url: URL, body: bytes) -> int:
    """Return the number that /latest answered with."""
    text = body.decode(errors="replace").strip()
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ReadError(f"{url} should answer with a bare integer, but said {text[:60]!r}")
    return int(text)


class Reader:
    """The two read calls of the board's interface."""

    def __init__(self, session: aiohttp.ClientSession, board: URL) -> None:
        """Read from the board at this address."""
        self._session = session
        self._board = board

    async def latest(self) -> int:
        """Return the highest hanesst_id stored, as the board says."""
        url = self._board / "latest"
        return parse_latest(url, await self._get(url))

    async def page(self, after: int) -> tuple[list[dict[str, Any]], int | None]:
        """Return the posts that follow id `after`, and where the next page starts."""
        url = (self._board / "api/posts").with_query(after=after, limit=PAGE)
        try:
            answer = json.loads(await self._get(url))
            posts, following = answer["posts"], answer["next"]
            ids = [post["hanesst_id"] for post in posts]
        except (ValueError, LookupError, TypeError) as error:
            raise ReadError(f"{url} did not answer with a page of posts") from error
        if not all(type(number) is int for number in ids) or ids != sorted(ids) or (ids and ids[0] <= after):
            raise ReadError(f"{url} did not list ascending ids after {after}")
        # A cursor that stands still would have us read for ever.
        if following is not None and (type(following) is not int or following <= after):
            raise ReadError(f"{url} names {following!r} as the next page")
        return posts, following

    async def _get(self, url: URL) -> bytes:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._get_once(url)
            except ReadError as error:
                if attempt == ATTEMPTS or not error.again:
                    raise
                await asyncio.sleep(PAUSE * attempt)
        raise AssertionError("unreachable")

    async def _get_once(self, url: URL) -> bytes:
        try:
            async with self._session.get(url, allow_redirects=False) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            raise ReadError(f"{url} gave no answer ({kind_of(error)}: {error})", again=True) from error
        if answer.status != 200:
            raise ReadError(f"{url} answered {answer.status}", again=answer.status >= 500 or answer.status == 429)
        return body


async def read_back(
    reader: Reader, content: Content, outcomes: bytearray, latest_before: int, abort: asyncio.Event
) -> ReadBack:
    """Compare what the board lists with what it accepted; `abort` makes it give up, as unknown."""
    check = asyncio.ensure_future(_Check(reader, content, outcomes, latest_before).run())
    aborted = asyncio.ensure_future(abort.wait())
    try:
        await asyncio.wait([check, aborted], return_when=asyncio.FIRST_COMPLETED)
        if not check.done():
            return ReadBack(reason="interrupted")
        return check.result()
    except ReadError as error:
        return ReadBack(reason=str(error))
    finally:
        check.cancel()
        aborted.cancel()
        await asyncio.gather(check, aborted, return_exceptions=True)


class _Check:
    """One read-back under way."""

    def __init__(self, reader: Reader, content: Content, outcomes: bytearray, latest_before: int) -> None:
        self._reader = reader
        self._content = content
        self._outcomes = outcomes
        self._latest_before = latest_before
        self._listed = bytearray(len(outcomes))
        self._cursor = content.first_id - 1
        self._result = ReadBack()

    async def run(self) -> ReadBack:
        result = self._result
        for attempt in range(1, ATTEMPTS + 1):
            await self._read_listing()
            result.latest = await self._reader.latest()
            result.latest_agrees = await self._agrees(result.latest)
            if result.latest_agrees:
                break
            # A post that we gave up may have been stored between the two questions: look once more.
            if attempt < ATTEMPTS:
                await asyncio.sleep(PAUSE)
        for number, outcome in enumerate(self._outcomes):
            if outcome == Outcome.ACCEPTED and not self._listed[number]:
                result.lost += 1
                if len(result.lost_examples) < EXAMPLES:
                    result.lost_examples.append(self._content.first_id + number)
        result.complete = True
        return result

    async def _read_listing(self) -> None:
        last = self._content.first_id + len(self._outcomes) - 1
        following: int | None = self._cursor
        while following is not None and following < last:
            posts, following = await self._reader.page(following)
            for post in posts:
                if post["hanesst_id"] > last:
                    return
                self._take(post)

    def _take(self, post: dict[str, Any]) -> None:
        result, hanesst_id = self._result, post["hanesst_id"]
        number = hanesst_id - self._content.first_id
        result.highest = self._cursor = hanesst_id
        if self._listed[number]:
            result.duplicates += 1
            return
        self._listed[number] = True
        outcome = self._outcomes[number]
        if outcome in (Outcome.REFUSED, Outcome.FAILED):
            result.stored_unacknowledged += 1
        elif outcome != Outcome.ACCEPTED:
            result.foreign += 1
        else:
            self._compare(number, post)

    def _compare(self, number: int, post: dict[str, Any]) -> None:
        sent = self._content.post(number)
        different = [
            name
            for name in COMPARED
            # The type too: to Python, True == 1 and 1.0 == 1.
            if name not in post
            or type(post[name]) is not type(getattr(sent, name))
            or post[name] != getattr(sent, name)
        ]
        if not different:
            return
        self._result.altered += 1
        if len(self._result.altered_examples) < EXAMPLES:
            name = different[0]
            self._result.altered_examples.append(
                {
                    "hanesst_id": sent.hanesst_id,
                    "fields": different,
                    "sent": str(getattr(sent, name))[:200],
                    "stored": str(post[name])[:200] if name in post else None,
                }
            )

    async def _agrees(self, latest: int) -> bool:
        if self._result.highest is None and latest == self._latest_before:
            return True
        if latest == self._result.highest:
            return True
        if latest < self._content.first_id + len(self._outcomes):
            return False
        # Beyond this run: true if somebody else has posted since, and the listing can tell.
        posts, _ = await self._reader.page(latest - 1)
        return bool(posts) and posts[0]["hanesst_id"] == latest
