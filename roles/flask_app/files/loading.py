"""Loads the app in a worker. The first one that has it ends the start; a later failure harms no other worker."""

import fcntl
import os
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType


class Loading:
    """The time in which a worker loads the app.

    The workers wait for the first one, so that what an app does at its import unless it is done already, such as
    making its tables, is done once. Then they load it side by side.

    If the first one fails, the instance ends: the release is refused with the traceback. After that a worker that is to
    replace another may fail for a passing reason, such as a database that is away. It ends, its successor tries again,
    and the others serve meanwhile.
    """

    no_app = 22
    """Exit status with which uWSGI's workers say that the instance has to end (need-app)."""

    pause = 1.0
    """Seconds before a worker that failed later ends."""

    def __init__(self, folder: Path) -> None:
        """Note the folder that the workers of this instance share, and no other instance."""
        self.lock, self.loaded = folder / "loading", folder / "loaded"

    def __enter__(self) -> None:
        """Wait until the first worker has the app, or be the first one."""
        self.turn = self.lock.open("a")
        try:
            fcntl.lockf(self.turn, fcntl.LOCK_EX)  # of this process alone: what the app forks at its import has it not
            if self.loaded.exists():
                self.turn.close()
            elif os.fstat(self.turn.fileno()).st_size:
                time.sleep(2 * self.pause)  # uWSGI ends all workers meanwhile, unless it knows of no reason yet
                self.end("the first worker died while it loaded the app", self.no_app)
            else:
                self.turn.write("begun\n")
                self.turn.flush()
        except KeyboardInterrupt:  # uWSGI ends all workers; more of them say no more than one
            os._exit(0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the others have their turn."""
        if error:
            told = "".join(traceback.format_exception(error)) + "the app could not be loaded"
            if self.loaded.exists():
                time.sleep(self.pause)
                self.end(f"{told}. The next worker tries again", 1)
            self.end(told, self.no_app)
        self.loaded.touch()  # which the unit waits for: ExecStartPost= in the release's drop-in
        self.turn.close()

    def end(self, reason: str, status: int) -> None:
        """End this worker at once, with the reason in the journal."""
        sys.stderr.write(f"{reason} (process {os.getpid()}).\n")  # at once, whatever others write
        sys.stderr.flush()
        os._exit(status)
