"""JSON over mutual TLS, for questions to etcd and Patroni."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int  # 0: there was no answer
    value: Any  # what the JSON said, or a text that says why there is none

    @property
    def good(self) -> bool:
        """Whether it did what was asked for."""
        return self.status in (200, 202)


class Client:
    """Asks hosts of the cluster, as one of them: with this host's own certificate."""

    def __init__(self, folder: Path, login: tuple[str, str] | None = None) -> None:
        """Note where key.pem, certificate.pem and authority.pem are, and a name and password if any."""
        self.folder, self.login = folder, login
        self._opener: urllib.request.OpenerDirector | None = None

    def opener(self) -> urllib.request.OpenerDirector:
        """Make the connections' context once. A proxy of the environment has no part in it."""
        if self._opener is None:
            context = ssl.create_default_context(cafile=str(self.folder / "authority.pem"))
            context.load_cert_chain(self.folder / "certificate.pem", self.folder / "key.pem")
            self._opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            )
        return self._opener

    def ask(self, method: str, url: str, body: object = None, *, seconds: float = 3) -> Answer:
        """Send one request and read the whole answer."""
        request = urllib.request.Request(url, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self.login:
            request.add_header("Authorization", "Basic " + base64.b64encode(":".join(self.login).encode()).decode())
        try:
            with self.opener().open(request, timeout=seconds) as response:
                return Answer(response.status, parsed(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, parsed(error.read()))
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            return Answer(0, str(error) or type(error).__name__)


def parsed(text: bytes) -> object:
    """Return what a JSON text says, or the text where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace").strip()
