"""Tests of the search for secrets: in which writings they are recognised."""

from __future__ import annotations

import base64
import json
import shlex
import urllib.parse

import pytest
import yaml
from secret_forms import forms, found_in

SECRET = "a \"quoted\" value/with+all='kinds' of $signs & `marks` \\"


@pytest.mark.parametrize(
    "text",
    [
        f"A={SECRET}",
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        base64.urlsafe_b64encode(f"me:{SECRET}:you".encode()).decode(),
        urllib.parse.quote(SECRET),
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.urlencode({"value": SECRET}),
        json.dumps({"value": SECRET}),
        json.dumps([SECRET, SECRET]),
        yaml.dump({"value": SECRET}, width=1000),
        shlex.join(["echo", SECRET]),
        'Environment="A=a \\"quoted\\" value/with+all=\'kinds\' of \\$signs & \\`marks\\` \\\\"',
    ],
)
def test_secret_is_recognised_however_it_is_written(text: str) -> None:
    assert found_in(f"before {text} behind", forms(SECRET))


def test_of_a_secret_with_several_lines_the_longest_is_searched_for() -> None:
    key = "-----BEGIN-----\nc2VjcmV0IG1hdGVyaWFsIG9mIGEga2V5\n-----END-----\n"
    assert found_in("x c2VjcmV0IG1hdGVyaWFsIG9mIGEga2V5", forms(key))
    assert not found_in("-----BEGIN-----", forms(key))


@pytest.mark.parametrize("secret", ["", "short", "\n\n"])
def test_secret_that_would_be_found_by_chance_is_not_searched_for(secret: str) -> None:
    assert forms(secret) == set()
