"""Many processes and threads on one board, as under a preforking server."""

import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

from conftest import APP, draft
from flask import Flask
from flask.testing import FlaskClient

PROCESSES, THREADS, POSTS = 4, 4, 200


def post_share(app: Flask, share: int) -> None:
    """Post every fourth of 1 … 199 as comments on 0, from several threads."""

    def post(number: int) -> None:
        answer = app.test_client().post(
            "/post", json=draft(number, post_parent=0, username=f"u{number % 50}")
        )
        assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(post, range(1 + share, POSTS, PROCESSES)))


def test_forked_processes_share_the_board_and_no_connection(app: Flask, client: FlaskClient) -> None:
    assert client.post("/post", json=draft(0)).status_code == 200  # so that there is a connection to inherit
    children = []
    for share in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                post_share(app, share)
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * PROCESSES
    listed = client.get("/api/posts?limit=1000").json["posts"]
    assert [post["hanesst_id"] for post in listed] == list(range(POSTS))
    (story,) = client.get("/?format=json").json["stories"]
    assert (story["replies"], story["score"]) == (POSTS - 1, 51)


def test_a_fork_gets_an_engine_of_its_own(app: Flask) -> None:
    database = app.extensions["newsboard"]
    engine = database.engine
    pid = os.fork()
    if pid == 0:
        os._exit(0 if database.engine is not engine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert database.engine is engine


def test_the_commands_of_a_deploy_work_in_the_folder_of_the_app(environ: dict[str, str]) -> None:
    def run(*command: str) -> str:
        return subprocess.run(
            [sys.executable, *command],
            cwd=APP,
            env=os.environ | environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    run("-m", "alembic", "upgrade", "head")
    probe = "import newsboard; print(newsboard.create_app().test_client().get('/status').text)"
    assert run("-c", probe) == "Alive\n"
