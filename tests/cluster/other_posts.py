"""POSTs that may not be sent twice, at a steady rate, and what became of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from helpers_http import NoAnswerError, ask
from steady import LIMIT

OTHER_NAME = "prober.example.org"
"""An app that takes any POST, and declares none idempotent."""

RATE = 10
"""POSTs a second, each over a connection of its own."""


@dataclass
class OtherPosts:
    """What became of them."""

    sent: int = 0
    took: list[float] = field(default_factory=list)
    """Seconds that those took which were answered 200."""
    refused: list[str] = field(default_factory=list)
    """What others were told instead."""

    @property
    def unanswered(self) -> int:
        """Count those that were told nothing in time."""
        return self.sent - len(self.took) - len(self.refused)

    def send(self, address: str) -> None:
        """Post once."""
        try:
            answer = ask(address, OTHER_NAME, "/", method="POST", body=b"once", timeout=LIMIT)
        except TimeoutError:
            return
        except (NoAnswerError, OSError) as error:
            self.refused.append(str(error))
        else:
            if answer.status == 200 and answer.seconds <= LIMIT:
                self.took.append(answer.seconds)
            elif answer.status != 200:
                self.refused.append(f"{answer.status} after {answer.seconds:.1f} s")


@contextmanager
def other_posts(address: str) -> Iterator[OtherPosts]:
    """Post meanwhile; at the end all have had their answer, or the time for it."""
    posts, over = OtherPosts(), threading.Event()

    def keep_posting(pool: ThreadPoolExecutor) -> None:
        due = time.monotonic()
        while not over.wait(max(due - time.monotonic(), 0)):
            pool.submit(posts.send, address)
            posts.sent += 1
            due += 1 / RATE

    # As many at once as are due within the longest wait: none has to wait for another.
    with ThreadPoolExecutor(int(RATE * LIMIT * 2)) as pool:
        paced = threading.Thread(target=keep_posting, args=[pool])
        paced.start()
        try:
            yield posts
        finally:
            over.set()
            paced.join()
