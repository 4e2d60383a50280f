"""One page with all of a benchmark, that can be sent by mail: no other file, no script, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flask_on_metal.bench.plan import CASES, OURS

Result = Mapping[str, Any]

TEMPLATE = Path(__file__).parent / "report.html.j2"

RATIOS = {
    "uncached_vs_granian": "uncached page, against granian behind NGINX",
    "uncached_vs_gunicorn": "uncached page, against the better gunicorn",
    "uncached_vs_flask": "uncached page, against Flask's own server, threaded",
    "post_vs_granian": "post, against granian behind NGINX",
    "cached_vs_static": "micro-cached page, against the same bytes as a static file",
    "https_vs_http": "uncached page over HTTPS with keep-alive, against HTTP",
}
"""What each ratio is, in words."""


def page(result: Result, pictures: Mapping[str, Path]) -> str:
    """Return the report as HTML.

    Args:
        result: As results.json holds it.
        pictures: Files of the pictures by name.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    template = environment.get_template(TEMPLATE.name)
    return template.render(
        result,
        ours=OURS,
        ratio_words=RATIOS,
        cases=[case for case in CASES if any(one["case"] == case.name for one in result["figures"])],
        labels={one["name"]: one["label"] for one in result["stacks"]},
        keys=keys(result),
        pictures={name: base64.b64encode(path.read_bytes()).decode() for name, path in pictures.items()},
    )


def number(value: float, digits: int = 0) -> str:
    """Write a number as people do."""
    return f"{value:,.{digits}f}"


def keys(result: Result) -> list[tuple[str, str]]:
    """Return the few figures that say it all, each with what it is."""
    found = []
    mine = [one for one in result["figures"] if one["stack"] == OURS]
    rates = [one["rate"]["median"] for one in mine if one["case"] == "page"]
    if rates:
        found.append(
            (f"{min(rates):,.0f}/s", "requests that Flask on Metal answers for a 1 KB page, where it is slowest")
        )
    for name, other in (
        ("uncached_vs_flask", "what Flask's own server does"),
        ("uncached_vs_gunicorn", "the better gunicorn"),
        ("uncached_vs_granian", "granian behind NGINX"),
    ):
        if ratios := result["ratios"].get(name):
            found.append((f"{min(ratios.values()):.2f} ×", f"{other}, at least"))
    for one in result["steady"]:
        if (one["case"], one["stack"]) == ("slow", OURS):
            words = f"for 99 % of fast requests while {one['slow']} slow ones are in flight"
            found.append((f"{one['p99_ms']['median']:,.0f} ms", words))
    if mine:
        requests = sum(one["requests"] for one in mine)
        found.append((f"{sum(one['failed'] for one in mine):,}", f"of its {requests:,} requests failed"))
    return found
