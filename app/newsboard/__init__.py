"""newsboard: a small news board. Start with `create_app`."""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from newsboard import api, pages, text
from newsboard.config import Settings
from newsboard.database import Database

# The longest post allowed is 100,000 characters, and JSON may spend 12 bytes on one (a pair of \uXXXX).
MAX_BODY_BYTES = 2 * 1024 * 1024

# Nothing on these pages comes from elsewhere, and nothing needs a script.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(environ: Mapping[str, str] | None = None) -> Flask:
    """Make the WSGI application.

    Nothing is asked of the database yet: it may be down, or not be migrated, and `/status` will say so.

    Args:
        environ: where to read the configuration; the process's environment unless given.

    Raises:
        ConfigError: a setting can't be used. The message names it and says what would be right.
    """
    app = Flask(__name__)
    settings = Settings.from_environ(os.environ if environ is None else environ, Path(app.instance_path))
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    # Static addresses carry a digest of the content (below), so a cached copy is never out of date.
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 365 * 24 * 3600
    app.extensions["newsboard"] = Database(settings.database_url)
    app.config["NEWSBOARD"] = settings
    app.logger.setLevel(logging.INFO)

    app.register_blueprint(api.blueprint)
    app.register_blueprint(pages.blueprint)
    app.jinja_env.filters.update(age=text.age, host=text.host, link=text.link, isotime=text.isotime)
    app.jinja_env.globals["site_title"] = settings.title
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    _fingerprint_static(app)

    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(SQLAlchemyError, _on_database_error)
    app.after_request(_secure)
    return app


def _fingerprint_static(app: Flask) -> None:
    """Add `?v=<digest>` to the address of every static file, so that it changes when the file does."""
    folder = Path(app.static_folder or "")
    digests = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in folder.rglob("*")
        if path.is_file()
    }

    @app.url_defaults
    def add_digest(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static" and values.get("filename") in digests:
            values["v"] = digests[values["filename"]]


def _secure(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    return response


def _wants_json() -> bool:
    return request.path == "/post" or request.path.startswith("/api/") or request.args.get("format") == "json"


def _on_http_error(error: HTTPException) -> ResponseReturnValue:
    """Answer an error in the form that the caller reads: JSON for a program, a page for a person."""
    if error.code is None or error.code < 400 or error.response is not None:
        return error
    # Not error.get_headers(): those describe Werkzeug's own page. What matters is Allow and Retry-After.
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    if _wants_json():
        return jsonify(error=error.description or error.name), error.code, headers
    return render_template("error.html", error=error), error.code, headers


def _on_database_error(error: SQLAlchemyError) -> ResponseReturnValue:
    """A database that is away, busy or not migrated is a 503: worth trying again, not the caller's fault."""
    logging.getLogger(__name__).error("%s %s: the database failed: %s", request.method, request.path, error)
    return _on_http_error(ServiceUnavailable("The database can't be reached just now.", retry_after=5))
