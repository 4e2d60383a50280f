"""Pages that NGINX keeps: who gets them, who never does, and how they end."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers import Ansible, App, Promised, as_root
from helpers_http import Answer, ask
from testinfra.host import Host

SECONDS = 2
"""What the inventory has listed paths kept for."""
OLD = SECONDS + 1.2
"""NGINX counts in whole seconds, and a page is old when one more has begun."""
DECLARED = "answer-Cache-Control=public,%20max-age=60"

Get = Callable[..., Answer]


@pytest.fixture
def get(promised: Promised, prober: App) -> Get:
    """Ask the app that answers with what arrived, over a new connection."""

    def asked(path: str, **more: Any) -> Answer:
        return ask(promised.addresses[0], prober.canonical, path, **more)

    return asked


@pytest.fixture
def behave(get: Get) -> Iterator[Callable[..., None]]:
    """Have the app answer otherwise until the test is over."""

    def told(**behaviour: Any) -> None:
        body = json.dumps(behaviour).encode()
        assert get("/-/behaviour", method="PUT", body=body, headers={"Content-Type": "application/json"}).status == 200

    yield told
    told()


def new(folder: str = "/kept", query: str = "") -> str:
    """Name a page that nobody has asked for yet."""
    return f"{folder}/{uuid.uuid4().hex}" + (f"?{query}" if query else "")


def made_for(answer: Answer) -> str:
    """Tell which request a page was made for."""
    assert answer.status == 200, answer.text
    return str(json.loads(answer.body)["environ"]["HTTP_X_REQUEST_ID"])


def how(*answers: Answer) -> list[str]:
    """Tell how answers came about."""
    return [answer.headers.get("x-cache", "") for answer in answers]


def asked_for(get: Get, path: str) -> int:
    """Count how often the app was asked for a page."""
    return len(json.loads(get(f"/-/received?word={path.partition('?')[0]}").body))


# --- what is kept


@pytest.mark.parametrize("declared", ["public, max-age=60", "s-maxage=60", "max-age=60, Public"])
def test_page_that_the_app_declares_public_is_kept(get, declared):
    page = new("/declared", f"answer-Cache-Control={declared.replace(' ', '%20')}")
    first, second = get(page), get(page)
    assert how(first, second) == ["MISS", "HIT"]
    assert made_for(first) == made_for(second)
    assert second.headers["x-request-id"] != first.headers["x-request-id"], "each answer has its own"
    assert asked_for(get, page) == 1


def test_page_of_a_listed_path_is_kept_for_its_time_and_then_made_anew_behind_the_visitor(get):
    page = new()
    first, second = get(page), get(page)
    assert how(first, second) == ["MISS", "HIT"]
    time.sleep(OLD)
    third = get(page)
    assert how(third) == ["STALE"], "nobody waits for the next one"
    assert made_for(third) == made_for(first)
    for _ in range(20):
        if how(fourth := get(page)) == ["HIT"]:
            break
        time.sleep(0.1)
    assert how(fourth) == ["HIT"]
    assert made_for(fourth) == third.headers["x-request-id"], "made while the third was answered"


def test_query_and_method_are_part_of_what_is_asked_for(get):
    page = new()
    head = get(page, method="HEAD")
    full, other = get(page), get(f"{page}?other")
    assert how(head, full, other) == ["MISS"] * 3
    assert not head.body
    assert full.body
    assert other.body != full.body


def test_visitors_with_a_cookie_that_says_nothing_share_a_page(get):
    page = new()
    answers = [
        get(page, headers={"Cookie": cookie} if cookie else {}) for cookie in ("theme=dark", "", "theme=a; theme=b;")
    ]
    assert how(*answers) == ["MISS", "HIT", "HIT"]


# --- what never is


@pytest.mark.parametrize(
    "answered",
    [
        "",
        "answer-Cache-Control=max-age=60",
        "answer-Cache-Control=private,%20max-age=60",
        "answer-Cache-Control=no-store",
        "answer-Cache-Control=public,%20max-age=60,%20must-revalidate",
        "answer-Cache-Control=public,%20no-cache",
        "answer-Cache-Control=public,max-age=0",
        "answer-Cache-Control=publicity,%20max-age=60",
        "answer-Expires=Thu,%2031%20Dec%202037%2023:55:55%20GMT",
        "answer-X-Accel-Expires=60",
        f"{DECLARED}&answer-Set-Cookie=session=1",
        f"{DECLARED}&answer-Vary=*",
    ],
)
def test_page_that_the_app_does_not_declare_public_is_not_kept(get, answered):
    page = new("/declared", answered)
    first, second = get(page), get(page)
    assert how(first, second) == ["MISS", "MISS"]
    assert made_for(first) != made_for(second)


@pytest.mark.parametrize(
    "answered", ["Cache-Control=private", "Cache-Control=no-store", "Cache-Control=no-cache", "Set-Cookie=session=1"]
)
def test_page_of_a_listed_path_is_not_kept_where_the_app_forbids_it(get, answered):
    page = new("/kept", f"answer-{answered}")
    assert how(get(page), get(page)) == ["MISS", "MISS"]


@pytest.mark.parametrize("folder", ["/kept", "/declared"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"Cookie": "session=ada"}, {"Cookie": "session=bob"}),
        ({"Cookie": "theme=dark; session=ada"}, {"Cookie": "session=bob; theme=dark"}),
        ({"Cookie": "themes=ada"}, {"Cookie": "atheme=bob"}),
        ({"Cookie": "ada"}, {"Cookie": "=bob"}),
        ({"Authorization": "Bearer ada"}, {"Authorization": "Bearer bob"}),
        # NGINX takes a lone 0 for an empty value.
        ({"Authorization": "0"}, {"Cookie": "0"}),
    ],
)
def test_what_one_user_sees_no_other_does(get, folder, one, other):
    page = new(folder, DECLARED)
    mine = get(page, headers=one)
    theirs = get(page, headers=other)
    anonymous = get(page)
    again = get(page, headers=one)
    assert how(mine, theirs, anonymous, again) == ["BYPASS", "BYPASS", "MISS", "BYPASS"]
    assert len({made_for(answer) for answer in (mine, theirs, anonymous, again)}) == 4
    assert how(get(page)) == ["HIT"]
    assert made_for(get(page)) == made_for(anonymous), "what an anonymous visitor saw is what anonymous visitors see"


def test_body_that_is_no_part_of_the_key_poisons_nothing(get):
    page = new()
    poisoned = get(page, body=b"poison", headers={"Content-Length": "6"})
    chunked = get(page, headers={"Transfer-Encoding": "chunked"}, body=b"6\r\npoison\r\n0\r\n\r\n")
    clean = get(page)
    assert how(poisoned, chunked, clean) == ["BYPASS", "BYPASS", "MISS"]
    assert json.loads(poisoned.body)["length"] == json.loads(chunked.body)["length"] == 6
    assert json.loads(clean.body)["length"] == 0


def test_post_is_never_answered_from_what_is_kept(get):
    page = new("/kept", DECLARED)
    get(page)
    before = asked_for(get, page)
    assert {get(page, method="POST", body=b"x").status for _ in range(2)} == {200}
    assert asked_for(get, page) == before + 2


# --- when many ask, and when the app fails


def test_crowd_that_finds_no_page_asks_the_app_once(get, behave):
    page = new()
    behave(seconds=0.02)
    with ThreadPoolExecutor(40) as crowd:
        answers = list(crowd.map(get, [page] * 200))
    assert {answer.status for answer in answers} == {200}
    # A second one where a connection came when the first answer was more than `wait` away.
    assert asked_for(get, page) <= 2
    assert max(answer.seconds for answer in answers) < 5


@pytest.mark.one_host
def test_crowd_costs_the_app_two_requests_a_second_at_most(get):
    page = new()
    end = time.monotonic() + 3 * SECONDS

    def visit(_: int) -> list[int]:
        statuses = []
        while time.monotonic() < end:
            statuses.append(get(page).status)
        return statuses

    with ThreadPoolExecutor(8) as crowd:
        statuses = [status for found in crowd.map(visit, range(8)) for status in found]
    assert set(statuses) == {200}
    assert len(statuses) > 100
    assert asked_for(get, page) <= 2 * 3 * SECONDS


def test_old_page_is_answered_while_the_app_fails(get, behave):
    page = new()
    first = get(page)
    behave(status=500)
    time.sleep(OLD)
    for _ in range(3):
        old = get(page)
        assert how(old) == ["STALE"]
        assert made_for(old) == made_for(first)
    assert get(new()).status == 500, "a page that nobody has seen has no old one"


# --- how kept pages end


@pytest.mark.one_host
def test_purge_forgets_the_named_pages_or_all_of_them(get, host: Host, ansible: Ansible, promised: Promised):
    one, other = new("/declared/one", DECLARED), new("/declared/other", DECLARED)
    assert how(get(one), get(other), get(one), get(other)) == ["MISS", "MISS", "HIT", "HIT"]
    variables = {"app": "prober", "pages": ["/declared/one/*"]}
    task = f"{promised.host}: flask_app : Purge | kept pages are forgotten"

    run = ansible.on(host).playbook("playbooks/purge.yml", variables=variables, check=True)
    assert run.status == 0, run.output
    assert task in run.changed
    assert how(get(one)) == ["HIT"], "check mode forgets nothing"

    run = ansible.on(host).playbook("playbooks/purge.yml", variables=variables)
    assert run.status == 0, run.output
    assert task in run.changed
    assert how(get(one), get(other)) == ["MISS", "HIT"]

    run = ansible.on(host).playbook("playbooks/purge.yml", variables={"app": "prober"})
    assert run.status == 0, run.output
    assert how(get(one), get(other)) == ["MISS", "MISS"]

    run = ansible.on(host).playbook("playbooks/purge.yml", variables={"app": "prober", "pages": ["declared"]})
    assert run.status != 0
    assert "begins with a slash" in run.output


# As a worker of NGINX that was taken over: a link in place of a folder and of a page, and a FIFO where a page is read.
TRAPS = """
mkdir -p /srv/victim/99; printf '\\nKEY: GET https://x/declared/\\n' >/srv/victim/99/page; chmod 644 /srv/victim/99/page
setpriv --reuid=www-data --regid=www-data --clear-groups bash -c '
  cd /var/lib/nginx/pages-prober
  ln -s /srv/victim trap; mkdir -p t/tr; ln -s /srv/victim/99/page t/tr/link; mkfifo t/tr/fifo'
"""


@pytest.mark.one_host
def test_purge_follows_no_link_of_nginx_and_waits_for_no_fifo(host: Host, ansible: Ansible):
    as_root(host, TRAPS)
    try:
        for pages in (["/declared/*"], []):
            run = ansible.on(host).playbook(
                "playbooks/purge.yml", variables={"app": "prober", "pages": pages}, timeout=60
            )
            assert run.status == 0, run.output
        assert "declared" in as_root(host, "cat /srv/victim/99/page"), "root deleted what NGINX's workers can't"
    finally:
        as_root(host, "rm -rf /srv/victim /var/lib/nginx/pages-prober/{trap,t}")


@pytest.mark.one_host
def test_release_forgets_the_pages_of_the_one_before(get, host: Host, ansible: Ansible):
    page = new("/declared", DECLARED)
    first = get(page)
    assert how(get(page)) == ["HIT"]
    run = ansible.on(host).playbook("playbooks/deploy.yml", variables={"app": "prober", "force": True})
    assert run.status == 0, run.output
    after = get(page)
    assert how(after) == ["MISS"]
    assert made_for(after) != made_for(first)
