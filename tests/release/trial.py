"""newsboard, with ways to see which release answers and to make a release fail. For tests alone.

It stands beside newsboard in a copy of the app that sources.py makes, and is called as trial:create_app().
TRIAL_FAULT, or else the file FAULT beside it, makes it fail:

import     the import of this module raises RuntimeError
unhealthy  /status answers 500
hanging    /status never answers
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from pathlib import Path
from typing import NoReturn

import newsboard
from flask import Blueprint, Flask, Response, abort, request
from flask.typing import ResponseReturnValue

HERE = Path(__file__).resolve().parent
LIBRARY = "iniconfig"
"""Nothing imports it: it is installed to be asked for its version."""

MAX_WAIT = 10.0
"""Seconds."""

# Read once: this is the code that runs, whatever is put in its place later.
VERSION = (HERE / "VERSION").read_text().strip()
STYLESHEET = next((HERE / "newsboard" / "static").glob("trial.*.css")).name

FAULT = os.environ.get("TRIAL_FAULT") or (HERE / "FAULT").read_text().strip()
if FAULT not in ("", "import", "unhealthy", "hanging"):
    raise ValueError(f"no such fault: {FAULT!r}")
if FAULT == "import":
    # With a secret in it, as a traceback may have.
    raise RuntimeError(f"canary traceback {os.environ.get('CANARY')}: this release can't be imported, on purpose")

blueprint = Blueprint("trial", __name__, url_prefix="/trial")

_leaked: list[bytes] = []


def create_app() -> Flask:
    """Make newsboard, with the routes and the header of a trial."""
    app = newsboard.create_app()
    app.register_blueprint(blueprint)
    app.before_request(_fail_on_purpose)
    app.after_request(_tell_versions)
    return app


def library_version() -> str:
    """Ask for the library's version anew, so that code shows when it sees another release's libraries."""
    try:
        return importlib.metadata.version(LIBRARY)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _tell_versions(response: Response) -> Response:
    response.headers["X-Trial"] = f"{VERSION} {library_version()} {os.getpid()}"
    return response


def _fail_on_purpose() -> ResponseReturnValue | None:
    if request.path != "/status" or not FAULT:
        return None
    if FAULT == "hanging":
        _hang()
    return Response("unhealthy on purpose", 500, mimetype="text/plain")


def _hang() -> NoReturn:
    while True:
        time.sleep(1)


def _plain(text: str) -> Response:
    return Response(text, mimetype="text/plain")


@blueprint.get("/wait")
def wait() -> ResponseReturnValue:
    """Answer after `seconds`, 10 at most."""
    seconds = request.args.get("seconds", type=float)
    if seconds is None or not 0 <= seconds <= MAX_WAIT:
        abort(400, f"seconds: a number from 0 to {MAX_WAIT:g}")
    time.sleep(seconds)
    return _plain(f"waited {seconds:g} s")


@blueprint.get("/hang")
def hang() -> ResponseReturnValue:
    """Answer never: what ends this is from outside."""
    _hang()


@blueprint.get("/leak")
def leak() -> ResponseReturnValue:
    """Keep `mb` MB (2**20 bytes) more in this process, until it ends."""
    mb = request.args.get("mb", type=int)
    if mb is None or mb < 0:
        abort(400, "mb: a whole number")
    for _ in range(mb):
        # Every page is written to, so that it is there and not only promised.
        _leaked.append(os.urandom(4096) * 256)
    return _plain(f"{os.getpid()} keeps {len(_leaked)} MB")


@blueprint.get("/pid")
def pid() -> ResponseReturnValue:
    """Tell the worker's pid."""
    return _plain(str(os.getpid()))


@blueprint.get("/environment")
def environment() -> ResponseReturnValue:
    """Tell the value of the variable `name`, if it is one of a trial's: there are secrets among the others."""
    name = request.args.get("name", "")
    if not name.startswith("TRIAL_") or name not in os.environ:
        abort(404, "There is no such variable that starts with TRIAL_.")
    return _plain(os.environ[name])


@blueprint.get("/page")
def page() -> ResponseReturnValue:
    """Show a page that needs this release's stylesheet, whose name no other release has."""
    return (
        f'<!doctype html><html lang="en"><title>Trial {VERSION}</title>'
        f'<link rel="stylesheet" href="/static/{STYLESHEET}"><h1>Trial {VERSION}</h1></html>\n'
    )
