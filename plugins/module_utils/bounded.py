"""Commands that an app has a hand in: they end in time, and no more is kept of what they say than can be shown."""

from __future__ import annotations

import os
import selectors
import subprocess
import time

KEPT = 64 * 1024
"""Bytes of a command's output that are kept, the last ones."""


def run_bounded(words: list[str], seconds: float) -> tuple[int | None, str]:
    """Run a command; returns its status, or None where its time was over, and the end of what it said.

    It is killed when its time is over. What it started and who else holds its pipe is not waited for.
    """
    end, said = time.monotonic() + seconds, b""
    with (
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        selector.register(pipe, selectors.EVENT_READ)
        # A process that has ended may have left a full pipe, which is read, and others that go on to fill it.
        last = False
        while not last:
            last = process.poll() is not None or time.monotonic() > end
            if not selector.get_map():
                time.sleep(0.01)  # it has closed its output, and goes on
            elif selector.select(0 if last else 0.05):
                if chunk := os.read(pipe, 2**20):
                    said = (said + chunk)[-KEPT:]
                else:
                    selector.unregister(pipe)
        status = process.poll()
        if status is None:
            process.kill()
    return status, said.decode(errors="replace").strip()
