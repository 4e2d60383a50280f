"""An app that somebody has taken over: it shows what arrives, and tries what an app has no business with.

Everything is answered with what arrived, and remembered: a request that came in the wake of another is seen too. The
app's own paths begin with /-/ and are no secret: this app is for throw-away hosts alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import attempts
from flask import Flask, Response, jsonify, redirect, request

SHARED = Path("/srv/prober/shared")
RECEIVED = SHARED / "received.jsonl"
# How the echo behaves, in all processes: the status it answers with, and the seconds it takes.
BEHAVIOUR = SHARED / "behaviour.json"

# A server's answer that sets a header which its NGINX sets as well, to see whose it is.
ANSWER_HEADER = "X-Prober-Answer"


def received() -> dict[str, Any]:
    """Describe the request as it arrived, without the process's own environment."""
    body = request.get_data()
    return {
        "method": request.environ["REQUEST_METHOD"],
        "uri": request.environ.get("REQUEST_URI", ""),
        "path": request.environ["PATH_INFO"],
        "protocol": request.environ["SERVER_PROTOCOL"],
        "scheme": request.environ["wsgi.url_scheme"],
        "client": request.environ.get("REMOTE_ADDR", ""),
        "url": request.url,
        # Raw names, since what two names become one there is of interest.
        "environ": {name: value for name, value in sorted(request.environ.items()) if isinstance(value, str)},
        "length": len(body),
        "digest": hashlib.sha256(body).hexdigest(),
        "body": body[:2000].decode("latin-1"),
    }


def create_app() -> Flask:
    """Make the app."""
    app = Flask(__name__)

    @app.before_request
    def echo() -> Response | None:
        # Before the path is looked for among the app's own: what no route takes is of interest as well.
        if request.path.startswith("/-/"):
            return None
        arrived = received()
        with RECEIVED.open("a") as log:
            log.write(json.dumps(arrived) + "\n")
        behaviour = json.loads(BEHAVIOUR.read_text()) if BEHAVIOUR.exists() else {}
        time.sleep(behaviour.get("seconds", 0))
        answer = jsonify(arrived)
        answer.status_code = behaviour.get("status", 200)
        answer.headers[ANSWER_HEADER] = "1"
        for name, value in request.args.items(multi=True):
            if name.startswith("answer-"):
                answer.headers[name.removeprefix("answer-")] = value
        return answer

    @app.get("/-/health")
    def health() -> Response | str:
        # Whoever doesn't come by HTTPS is sent there, as many apps do: the probe has to ask as a visitor does.
        return "Alive" if request.is_secure else redirect(request.url.replace("http", "https", 1))

    @app.get("/-/received")
    def everything() -> Response:
        """Return all requests that hold a word, wherever it is in them."""
        word = request.args["word"]
        lines = RECEIVED.read_text().splitlines() if RECEIVED.exists() else []
        return jsonify([json.loads(line) for line in lines if word in line])

    @app.put("/-/behaviour")
    def behave() -> str:
        """Have the echo answer otherwise from now on."""
        BEHAVIOUR.write_text(json.dumps(request.get_json()))
        return "noted"

    @app.post("/-/attempts")
    def attempted() -> Response:
        """Try everything, at what the request names."""
        return jsonify(attempts.tried(attempts.ATTEMPTS, request.get_json()))

    @app.post("/-/needs")
    def needed() -> Response:
        """Try what an app does need."""
        return jsonify(attempts.tried(attempts.NEEDS, request.get_json()))

    @app.get("/-/account")
    def account() -> Response:
        return jsonify({"uid": os.getuid(), "groups": os.getgroups(), "pid": os.getpid()})

    return app
