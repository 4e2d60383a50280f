"""Static files: compressed beforehand where they are, and found unchanged."""

from __future__ import annotations

import gzip

import pytest
from helpers import ROOT
from helpers_http import ask

FILES = ROOT / "tests" / "security" / "prober" / "files"


@pytest.mark.parametrize(
    ("accepted", "encoding", "form"),
    [
        ("", "", ""),
        ("identity", "", ""),
        ("gzip", "gzip", ".gz"),
        ("br", "br", ".br"),
        ("gzip, deflate, br", "br", ".br"),
        ("br;q=0, gzip", "gzip", ".gz"),
        ("zstd", "", ""),
    ],
)
def test_file_is_sent_in_the_form_that_was_compressed_beforehand(promised, prober, accepted, encoding, form):
    headers = {"Accept-Encoding": accepted} if accepted else {}
    answer = ask(promised.addresses[0], prober.canonical, "/files/page.css", headers=headers)
    assert answer.status == 200
    assert answer.headers.get("content-encoding", "") == encoding
    assert answer.body == (FILES / f"page.css{form}").read_bytes()
    assert answer.headers["content-type"] == "text/css"
    assert answer.headers["vary"] == "Accept-Encoding"
    again = ask(
        promised.addresses[0],
        prober.canonical,
        "/files/page.css",
        headers={**headers, "If-None-Match": answer.headers["etag"]},
    )
    assert (again.status, again.body) == (304, b"")


def test_compressed_forms_are_of_the_same_file():
    # brotli's is compared by size alone: Python has no brotli of its own.
    plain = (FILES / "page.css").read_bytes()
    assert gzip.decompress((FILES / "page.css.gz").read_bytes()) == plain
    assert len((FILES / "page.css.br").read_bytes()) < len(plain) / 2
