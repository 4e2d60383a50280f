"""What searches for secrets gives no account a look at another one's."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

SEARCH = Path(__file__).resolve().parents[1] / "search_on_host.py"


@pytest.fixture
def search() -> dict[str, Any]:
    """Read the program without running it."""
    if os.geteuid():
        pytest.skip("only root has others' rights")
    program: dict[str, Any] = {}
    exec(SEARCH.read_text().removesuffix("main()\n"), program)
    return program


def test_account_sees_what_it_may_read_and_no_more(search: dict[str, Any], tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    for name, mode in (("open", 0o644), ("closed", 0o600)):
        (tmp_path / name).write_text("a secret\n")
        (tmp_path / name).chmod(mode)
    assert search["files"](["a secret"], [str(tmp_path)], "nobody") == [str(tmp_path / "open")]
    assert len(search["files"](["a secret"], [str(tmp_path)])) == 2


def test_account_cannot_look_into_what_searches_with_its_rights(search: dict[str, Any]) -> None:
    # No shell: it would take its real user's rights.
    script = "import sys, time; print(sys.stdin.readline() + open('/proc/self/status').read()); time.sleep(2)"
    look = """
      for process in /proc/[0-9]*; do
        grep -q 'time[.]slee[p]' "$process/cmdline" 2>/dev/null || continue
        cat "$process/environ" "$process/mem" /dev/null && echo read
        ls "$process/fd" && echo listed
      done
    """
    with ThreadPoolExecutor() as pool:
        searching = pool.submit(
            search["output"], "/usr/bin/python3", "-c", script, account="nobody", given=b"another's\n"
        )
        time.sleep(0.5)
        looked = subprocess.run(
            ["runuser", "-u", "nobody", "--", "sh", "-c", look], capture_output=True, text=True, check=False
        )
        said = searching.result(timeout=20).decode()
    assert "Uid:\t0\t65534\t65534\t65534" in said and "CapEff:\t0000000000000000" in said
    assert "Permission denied" in looked.stderr and looked.stdout == ""
