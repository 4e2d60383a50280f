"""What a request costs each tier, from which docs/scaling.md works out how far how many hosts go."""

from __future__ import annotations

import re
import subprocess

from helpers import ROOT
from installation import FULL, NAME, Installation
from machines import cpu_seconds

SECONDS = 8 if FULL else 3
CONNECTIONS = 32

PATHS = {
    "a page of the database (/newest)": "/newest",
    "a number of the database (/latest)": "/latest",
    "a static file": "/static/newsboard.css",
}


def test_what_a_request_costs_each_tier(installation: Installation) -> None:
    lines = [
        "| CPU seconds for 10,000 | balancer | web | database | requests/s |\n",
        "| --- | --- | --- | --- | --- |\n",
    ]
    for what, path in PATHS.items():
        before = cpu_seconds(installation.hosts)
        done = subprocess.run(
            ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"-D{SECONDS}", f"--connect-to={installation.floating}:443",
             f"https://{NAME}{path}"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        after = cpu_seconds(installation.hosts)
        counts = re.search(r"(\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done)
        assert counts, done
        good, *bad = map(int, counts.groups())
        assert (good > 0, bad) == (True, [0, 0, 0]), done
        spent = {
            tier: sum(after[name] - before[name] for name in after if name.startswith(tier)) / good * 10_000
            for tier in ("balancer", "web", "db")
        }
        assert spent["balancer"] > 0
        assert spent["web"] > 0
        cells = [what, *(f"{seconds:.2f}" for seconds in spent.values()), f"{good / SECONDS:.0f}"]
        lines.append(f"| {' | '.join(cells)} |\n")
    (ROOT / "build" / "cost-by-tier.md").write_text("".join(lines))
    print("".join(lines))
