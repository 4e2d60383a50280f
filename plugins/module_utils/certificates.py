#!/usr/bin/python3
"""Certificates of the apps on this host: self-signed at once, then the operator's own or an authority's by ACME.

certificates status          how each name is served, until when, and what is waited for
certificates renew           renews what is due, tries names that waited, and has NGINX serve what changed
certificates renew --force   asks the authority for all names now, due or not

A timer runs `renew`; Ansible runs the same code as its module `certificates`. Nothing but Python's own library, openssl
and certbot is used.

<directory>/<app>/pairs/<kind>-<id>/    key.pem, fullchain.pem, trust.conf; never changed once made
<directory>/<app>/served/<domain>       a link to one of them: what NGINX reads
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import ipaddress
import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

HOUR = 3600
BACK_OFF = (HOUR, 6 * HOUR, 24 * HOUR)
"""Seconds until the next try, after the first failure, the second, and each further one."""
SLACK = 120
"""Seconds by which a try may be early: the timer that comes an hour after a failure must not be a moment too soon."""
RENEW_SECONDS = 30 * 24 * HOUR
"""What must be left of a certificate; of one that lives less than 90 days, a third of its life."""
PROOF_SECONDS = 15.0
"""Time for NGINX's new workers to show the new certificate. They answer within a second."""
CHALLENGES = ".well-known/acme-challenge"
OWN, AUTHORITY, SELF_SIGNED = "own", "authority", "self-signed"


class CertificateError(Exception):
    """Something that somebody has to look at; the text says what, where, and what to do."""


# --- what is wanted


@dataclass(frozen=True)
class App:
    """An app, by what its certificates depend on."""

    name: str
    domains: list[str]
    own: str = ""
    """Name of the operator's own pair in pairs/, if there is one."""

    @property
    def names(self) -> list[str]:
        """Domains that an authority can be asked for: it certifies no addresses."""
        return [domain for domain in self.domains if not is_address(domain)]


@dataclass(frozen=True)
class Acme:
    """The authority that is asked, and what it wants to know."""

    directory: str = ""
    email: str = ""
    ca_file: str = ""
    eab_kid: str = ""
    eab_hmac_key: str = field(default="", repr=False)

    @property
    def digest(self) -> str:
        """Tell one description of an authority from another: what failed with the one says nothing of the other."""
        whole = json.dumps([asdict(self), read(Path(self.ca_file)) if self.ca_file else ""])
        return hashlib.sha256(whole.encode()).hexdigest()


@dataclass(frozen=True)
class Config:
    """What /etc/flask-on-metal/certificates.json says."""

    directory: str
    days: int
    apps: list[App]
    acme: Acme

    def text(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, text: str) -> Config:
        """Read what `text` wrote."""
        found = json.loads(text)
        apps = [App(**app) for app in found["apps"]]
        return cls(found["directory"], found["days"], apps, Acme(**found["acme"]))


def is_address(domain: str) -> bool:
    """Tell whether a domain is an address."""
    try:
        ipaddress.ip_address(domain)
    except ValueError:
        return False
    return True


def same(domain: str) -> str:
    """Return a domain in the one form in which it is compared."""
    try:
        return ipaddress.ip_address(domain).compressed
    except ValueError:
        return domain.lower()


# --- what is remembered between runs


@dataclass
class Wait:
    """How often something failed in a row, why, and when it is tried again."""

    failures: int = 0
    next: float = 0
    why: str = ""

    def fail(self, now: float, why: str) -> None:
        """Note one more failure."""
        self.failures += 1
        self.next = now + BACK_OFF[min(self.failures, len(BACK_OFF)) - 1]
        self.why = why

    def over(self, now: float) -> bool:
        """Tell whether it may be tried again."""
        return now >= self.next - SLACK


@dataclass
class AppState:
    """What is remembered of an app: who issued its certificate, and what failed."""

    directory: str = ""
    """The authority that issued its certificate."""
    asked: str = ""
    """Digest of the one that `authority` is about."""
    authority: Wait = field(default_factory=Wait)
    names: dict[str, Wait] = field(default_factory=dict)


def read_state(text: str) -> dict[str, AppState]:
    """Read the apps' state, from nothing as well."""
    found = {}
    for name, value in json.loads(text or "{}").items():
        names = {domain: Wait(**wait) for domain, wait in value["names"].items()}
        found[name] = AppState(value["directory"], value["asked"], Wait(**value["authority"]), names)
    return found


# --- the host


@dataclass(frozen=True)
class Places:
    """Where things are on the host."""

    config: Path = Path("/etc/flask-on-metal/certificates.json")
    ca_file: Path = Path("/etc/flask-on-metal/acme-ca.pem")
    state: Path = Path("/var/lib/flask-on-metal/certificates.json")
    lock: Path = Path("/var/lib/flask-on-metal/certificates.lock")
    webroot: Path = Path("/var/lib/flask-on-metal/acme")
    certbot: Path = Path("/var/lib/flask-on-metal/certbot")
    error_log: Path = Path("/var/log/nginx/error.log")
    nginx: Path = Path("/etc/nginx")


class Host:
    """What the program asks of the host around it."""

    def run(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command; returns its status and all that it said."""
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", timeout=300, check=False,
                env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124, f"{words[0]} was not done within 300 s"
        except OSError as error:
            return 127, f"{words[0]}: {error.strerror}"
        return done.returncode, done.stdout

    def fetch(self, url: str) -> str:
        """Fetch a short text as an authority does: through no proxy, whoever certified a server that it is led to."""
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
        )
        with opener.open(url, timeout=5) as answer:
            text: str = answer.read(4096).decode(errors="replace")
            return text

    def shown(self, address: str, name: str | None) -> bytes | None:
        """Fetch the certificate that the server at an address shows for a name, or None where it refuses."""
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection((address, 443), timeout=5) as sock,
                trusting.wrap_socket(sock, server_hostname=name) as secure,
            ):
                return secure.getpeercert(binary_form=True)
        except OSError:
            return None


def read(path: Path) -> str:
    """Return a file's text, or none where there is no file."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def write(path: Path, text: str, mode: int) -> None:
    """Replace a file at once; with its mode before its content, which may be secret."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, mode)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def make_folder(path: Path) -> None:
    """Make a folder that everybody may look into, whatever the umask is."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir()
        path.chmod(0o755)


def link(path: Path, target: str) -> None:
    """Make or move a link by one rename."""
    beside = path.with_name(".new")  # a domain's own name may be as long as a file's name can be
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(path)


# --- pairs


@dataclass(frozen=True)
class Pair:
    """A key and its certificate that fit together, in a folder that is never changed."""

    folder: Path
    names: frozenset[str]
    begins: float
    ends: float

    @property
    def kind(self) -> str:
        """Whose it is: own, authority or self-signed."""
        return self.folder.name.rpartition("-")[0]

    @property
    def leaf(self) -> bytes:
        """The certificate itself, without those above it."""
        return ssl.PEM_cert_to_DER_cert(first_certificate(read(self.folder / "fullchain.pem")))

    def due(self, now: float) -> bool:
        """Tell whether it is to be renewed."""
        return self.ends - now < min(RENEW_SECONDS, (self.ends - self.begins) / 3)


def first_certificate(text: str) -> str:
    """Cut the first certificate out of a PEM file."""
    return text.partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"


def pair_id(kind: str, chain: str) -> str:
    """Name the folder of a pair."""
    return f"{kind}-{hashlib.sha256(chain.strip().encode()).hexdigest()[:12]}"


def day(moment: float) -> str:
    """Write a day as people and tickets have it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def minute(moment: float) -> str:
    """Write a moment."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


@dataclass(frozen=True)
class Entry:
    """How one domain is served."""

    app: str
    domain: str
    served: str
    until: str
    why: str = ""
    next: str = ""
    look: bool = False
    """Whether somebody should look at it."""

    def __str__(self) -> str:
        """Write it as one line."""
        text = f"{self.domain}: {self.served}" + (f" until {self.until}" if self.until else "")
        text += f": {self.why}" if self.why else ""
        return text + (f"; next try at {self.next}" if self.next else "")


class Certificates:
    """All certificates of a host, and what is to be done about them."""

    def __init__(self, config: Config, host: Host, places: Places, *, check: bool = False) -> None:
        """Note what is wanted and what is remembered. With `check`, changes are noted and not made."""
        self.config, self.host, self.places, self.check = config, host, places, check
        self.state: dict[str, AppState] = {}
        self.recall()
        self.digest = config.acme.digest
        self.changes: list[str] = []
        self.warnings: list[str] = []
        self._read: dict[Path, Pair | None] = {}

    def recall(self) -> None:
        """Read what is remembered, which another run may have written meanwhile."""
        self.state = read_state(read(self.places.state))

    # --- what is there

    def folder(self, app: App) -> Path:
        """Return an app's folder."""
        return Path(self.config.directory, app.name)

    def openssl(self, *words: str) -> str:
        """Run openssl, which has to succeed."""
        status, said = self.host.run(["openssl", *words])
        if status:
            raise CertificateError(f"openssl {words[0]} failed: {said.strip()}")
        return said

    def pair(self, folder: Path) -> Pair | None:
        """Read a pair, or None where one of its parts is missing or doesn't fit."""
        if folder not in self._read:
            self._read[folder] = self._pair(folder)
        return self._read[folder]

    def _pair(self, folder: Path) -> Pair | None:
        if not all((folder / name).is_file() for name in ("key.pem", "fullchain.pem", "trust.conf")):
            return None
        try:
            shown = self.openssl(
                "x509", "-in", f"{folder}/fullchain.pem", "-noout", "-dates", "-ext", "subjectAltName", "-pubkey"
            )
            public = self.openssl("pkey", "-in", f"{folder}/key.pem", "-pubout")
        except CertificateError:
            return None
        dates = dict(re.findall(r"^(notBefore|notAfter)=(.+)$", shown, re.MULTILINE))
        names = re.findall(r"(?:DNS|IP Address):([^,\s]+)", shown)
        if public.strip() not in shown or len(dates) != 2:
            return None
        begins, ends = (float(ssl.cert_time_to_seconds(dates[name])) for name in ("notBefore", "notAfter"))
        return Pair(folder, frozenset(map(same, names)), begins, ends)

    def pairs(self, app: App, kind: str) -> list[Pair]:
        """List an app's pairs of one kind, the newest first."""
        folders = sorted(self.folder(app).glob(f"pairs/{kind}-*"))
        found = [pair for folder in folders if (pair := self.pair(folder)) and pair.kind == kind]
        return sorted(found, key=lambda pair: (pair.begins, pair.folder.stat().st_mtime_ns), reverse=True)

    def served(self, app: App, domain: str) -> Pair | None:
        """Return the pair that a domain's link leads to."""
        at = self.folder(app) / "served" / domain
        return self.pair(self.folder(app) / "pairs" / at.readlink().name) if at.is_symlink() else None

    def named(self) -> set[tuple[str, str]]:
        """List the apps and domains whose pairs NGINX's configuration names: without them it doesn't start."""
        pattern = re.compile(rf"{re.escape(self.config.directory)}/([^/\s]+)/served/([^/\s]+)/")
        found: set[tuple[str, str]] = set()
        for path in self.places.nginx.rglob("*"):
            # A run that writes there has a file come and go.
            with contextlib.suppress(FileNotFoundError):
                found.update(pattern.findall(path.read_text(errors="replace")) if path.is_file() else [])
        return found

    def lost(self) -> list[App]:
        """List what NGINX's configuration names, no app has any more, and has no pair; each domain by itself."""
        wanted = {(app.name, domain) for app in self.config.apps for domain in app.domains}
        left = (App(name, [domain]) for name, domain in sorted(self.named() - wanted))
        return [app for app in left if not self.served(app, app.domains[0])]

    # --- making pairs

    def save(self, app: App, kind: str, key: str, chain: str) -> Pair:
        """Put a pair into a folder of its own, which appears whole."""
        folder = self.folder(app) / "pairs" / pair_id(kind, chain)
        for above in (self.folder(app), folder.parent, self.folder(app) / "served"):
            make_folder(above)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as name:
            beside = Path(name, "pair")
            make_folder(beside)
            write(beside / "key.pem", key.strip() + "\n", 0o600)
            write(beside / "fullchain.pem", chain.strip() + "\n", 0o644)
            trusted = int(kind != SELF_SIGNED)
            write(beside / "trust.conf", f"set $certificate_trusted {trusted};\n", 0o644)
            if not self._pair(beside):
                raise CertificateError(
                    f"{app.name}: key and certificate of the {kind} pair don't fit together. Nothing was changed."
                )
            if folder.exists():
                # One whose parts no longer fit.
                folder.rename(Path(name, "spoilt"))
            beside.rename(folder)
        self._read.pop(folder, None)
        made = self.pair(folder)
        assert made
        return made

    def self_signed(self, app: App) -> Pair:
        """Make a self-signed pair for all domains of an app."""
        names = ",".join(f"{'IP' if is_address(one) else 'DNS'}:{same(one)}" for one in app.domains)
        with tempfile.TemporaryDirectory(prefix="certificates-") as name:
            key, certificate = Path(name, "key.pem"), Path(name, "certificate.pem")
            self.openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key))
            # A common name has at most 64 characters; clients look at subjectAltName alone.
            self.openssl(
                "req", "-x509", "-new", "-key", str(key), "-out", str(certificate), "-sha256",
                "-days", str(self.config.days), "-subj", f"/CN={app.domains[0][:64]}",
                "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE",
                "-addext", "extendedKeyUsage=serverAuth",
            )  # fmt: skip
            return self.save(app, SELF_SIGNED, read(key), read(certificate))

    def own(self, app: App, key: str, chain: str) -> None:
        """Have the operator's own pair, once it is known to be whole."""
        if self.pair(self.folder(app) / "pairs" / app.own):
            return
        self.verify(app, chain)
        self.changes.append(f"{app.name}: the operator's own pair")
        if not self.check:
            self.save(app, OWN, key, chain)

    def verify(self, app: App, chain: str) -> None:
        """Have openssl follow an own certificate up to the last one that came with it."""
        blocks = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", chain, re.DOTALL)
        with tempfile.TemporaryDirectory(prefix="certificates-") as name:
            leaf, middle, top = (Path(name, part) for part in ("leaf.pem", "middle.pem", "top.pem"))
            for path, parts in ((leaf, blocks[:1]), (middle, blocks[1:]), (top, blocks[-1:])):
                path.write_text("".join(parts))
            middle_words = ["-untrusted", str(middle)] if blocks[1:] else []
            try:
                self.openssl(
                    "verify", "-no-CApath", "-no-CAstore", "-CAfile", str(top), "-partial_chain", *middle_words,
                    str(leaf),
                )  # fmt: skip
            except CertificateError as error:
                raise CertificateError(
                    f"{app.name}: the chain of its own certificate is broken. Nothing was changed. {error}"
                ) from None

    # --- what each domain is served

    def best(self, app: App, domain: str, now: float) -> Pair | None:
        """Return the best pair that there is for a domain, or None where a self-signed one has to be made."""
        if app.own:
            return self.pair(self.folder(app) / "pairs" / app.own)
        for pair in self.pairs(app, AUTHORITY):
            if same(domain) in pair.names and pair.ends > now:
                return pair
        wanted = {same(one) for one in app.domains}
        for pair in self.pairs(app, SELF_SIGNED):
            if pair.names == wanted and pair.ends - now > RENEW_SECONDS:
                return pair
        return None

    def prepare(self) -> None:
        """Have each domain's link lead to the best pair that there is, without asking anybody.

        Domains that only NGINX's configuration has are served until that is replaced, which a release that fails or a
        run of one role may put off.
        """
        now = time.time()
        for app in [*self.config.apps, *self.lost()]:
            self.mend(app)
            chosen = {domain: self.best(app, domain, now) for domain in app.domains}
            if not all(chosen.values()) and not (app.own and self.check):
                self.changes.append(f"{app.name}: a self-signed pair")
                made = None if self.check else self.self_signed(app)
                chosen = {domain: pair or made for domain, pair in chosen.items()}
            for domain, pair in chosen.items():
                self.lead(app, domain, pair)

    def lead(self, app: App, domain: str, pair: Pair | None) -> None:
        """Have a domain's link lead to a pair. None is one that a check could not make."""
        at = self.folder(app) / "served" / domain
        target = f"../pairs/{pair.folder.name}" if pair else ""
        if target and at.is_symlink() and str(at.readlink()) == target:
            return
        self.changes.append(f"{domain}: {pair.kind if pair else OWN if app.own else SELF_SIGNED}")
        if pair and not self.check:
            link(at, target)

    def mend(self, app: App) -> None:
        """Close keys that somebody opened."""
        for key in self.folder(app).glob("pairs/*/key.pem"):
            found = key.stat()
            if found.st_mode & 0o777 != 0o600 or found.st_uid != os.geteuid():
                self.changes.append(f"{key}: for root alone")
                if not self.check:
                    os.chown(key, os.geteuid(), os.getegid())
                    key.chmod(0o600)

    def prune(self) -> None:
        """Take away links of domains that neither an app nor NGINX has any more, and pairs that nothing leads to.

        Of those pairs the one before stays.
        """
        named = self.named()
        for app in self.config.apps:
            kept = {*app.domains, *(domain for name, domain in named if name == app.name)}
            for at in self.folder(app).glob("served/*"):
                if at.name not in kept:
                    self.changes.append(f"{at}: gone")
                    if not self.check:
                        at.unlink()
            used = {at.readlink().name for at in self.folder(app).glob("served/*") if at.name in kept}
            unused = [folder for folder in self.folder(app).glob("pairs/*") if folder.name not in used]
            # What an interrupted run left unfinished is no pair to go back to.
            unused.sort(key=lambda one: (one.name.startswith("."), -one.stat().st_mtime_ns))
            before = unused[:1] if unused and not unused[0].name.startswith(".") else []
            for folder in unused[len(before) :]:
                self.changes.append(f"{folder}: gone")
                if not self.check:
                    shutil.rmtree(folder)

    # --- the authority

    def issued(self, app: App, now: float) -> Pair | None:
        """Return the newest pair that the authority of today issued, if it is still good."""
        if not self.config.acme.directory or self.of(app).directory != self.config.acme.directory:
            return None
        return next((pair for pair in self.pairs(app, AUTHORITY) if pair.ends > now), None)

    def of(self, app: App) -> AppState:
        """Return what is remembered of an app."""
        found = self.state.setdefault(app.name, AppState())
        if found.asked != self.digest:
            found.asked, found.authority = self.digest, Wait()
        return found

    def to_ask(self, app: App, now: float, *, force: bool) -> list[str]:
        """List the names that the authority is to be asked for now; none where nothing is due, or all wait."""
        if app.own or not self.config.acme.directory or not app.names:
            return []
        remembered, issued = self.of(app), self.issued(app, now)
        if not force and not remembered.authority.over(now):
            return []
        asked = [name for name in app.names if force or remembered.names.get(name, Wait()).over(now)]
        certified = issued.names if issued else frozenset()
        due = force or issued is None or issued.due(now) or not certified <= {same(name) for name in app.names}
        return asked if due or any(same(name) not in certified for name in asked) else []

    def ask(self, app: App, *, force: bool) -> None:
        """Get a certificate for the names of an app that lead here, if one is due."""
        now = time.time()
        asked = self.to_ask(app, now, force=force)
        if not asked:
            return
        if self.check:
            self.changes.append(f"{app.name}: the authority would be asked for {', '.join(asked)}")
            return
        remembered, issued = self.of(app), self.issued(app, now)
        astray = self.astray(asked)
        here = [name for name in asked if name not in astray]
        for name, why in astray.items():
            remembered.names.setdefault(name, Wait()).fail(now, why)
        certified = issued.names if issued else frozenset()
        due = force or issued is None or issued.due(now) or not certified <= {same(name) for name in app.names}
        if here and (due or any(same(name) not in certified for name in here)):
            self.issue(app, here, now)
        self.remember()

    def astray(self, names: list[str]) -> dict[str, str]:
        """Find the names whose HTTP doesn't lead here, and why: a text of our own is fetched through each."""
        token, content = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        file = self.places.webroot / CHALLENGES / token
        write(file, content, 0o644)
        try:
            with ThreadPoolExecutor(max_workers=16) as pool:
                whys = list(pool.map(lambda name: self.why_astray(name, token, content), names))
        finally:
            file.unlink(missing_ok=True)
        return {name: why for name, why in zip(names, whys, strict=True) if why}

    def why_astray(self, name: str, token: str, content: str) -> str:
        """Say why a name's HTTP doesn't lead here, or nothing."""
        try:
            found = self.host.fetch(f"http://{name}/{CHALLENGES}/{token}")
            why = "" if found == content else "another server answers"
        except urllib.error.HTTPError as error:
            why = f"another server answers, with {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, socket.gaierror):
                why = "no address is known for it"
            elif isinstance(cause, TimeoutError):
                why = "nobody answers within 5 s"
            else:
                why = str(getattr(cause, "strerror", None) or cause or type(cause).__name__).lower()
        return f"http://{name}/ does not lead here ({why})" if why else ""

    def issue(self, app: App, names: list[str], now: float) -> None:
        """Have certbot get one certificate for names; what the authority says against it is remembered."""
        acme, remembered, home = self.config.acme, self.of(app), self.places.certbot
        home.mkdir(mode=0o700, exist_ok=True)
        words = [
            "certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email",
            "--server", acme.directory, "--cert-name", app.name,
            "--webroot", "--webroot-path", str(self.places.webroot), "--preferred-challenges", "http",
            "--key-type", "ecdsa", "--elliptic-curve", "secp256r1",
            # When it is time is decided here, and a name that the authority can't reach keeps no other waiting.
            "--force-renewal", "--renew-with-new-domains", "--allow-subset-of-names",
            "--config-dir", f"{home}/config", "--work-dir", f"{home}/work", "--logs-dir", f"{home}/logs",
            "--max-log-backups", "20",
        ]  # fmt: skip
        words += ["--email", acme.email] if acme.email else ["--register-unsafely-without-email"]
        words += [word for name in names for word in ("--domain", name)]
        # A key among the words of a command could be read by everybody.
        binding = home / "binding.ini"
        if acme.eab_kid:
            write(binding, f"eab-kid = {acme.eab_kid}\neab-hmac-key = {acme.eab_hmac_key}\n", 0o600)
            words += ["--config", str(binding)]
        environment = {"REQUESTS_CA_BUNDLE": acme.ca_file} if acme.ca_file else None
        try:
            status, said = self.host.run(words, environment)
            if status and "error:accountDoesNotExist" in self.certbot_log():
                # An authority that was set up anew has forgotten us: we introduce ourselves again.
                url = urllib.parse.urlsplit(acme.directory)
                shutil.rmtree(home / "config" / "accounts" / f"{url.netloc}{url.path}", ignore_errors=True)
                status, said = self.host.run(words, environment)
        finally:
            binding.unlink(missing_ok=True)
        refused = refused_names(said)
        for name in names:
            wait = remembered.names.pop(name, Wait())
            if same(name) in refused:
                wait.fail(now, f"the authority can't reach it ({refused[same(name)]})")
                remembered.names[name] = wait
        if status:
            if not set(map(same, names)) <= set(refused):
                # Debian 12's certbot stumbles over an authority's error, and only its log has it.
                errors = re.findall(r"^acme\.messages\.Error: (.+)$", self.certbot_log(), re.MULTILINE)
                why = errors[-1][:1000] if errors else what_certbot_said(said)
                remembered.authority.fail(now, why)
                self.warnings.append(
                    f"{app.name}: {acme.directory} issued no certificate, and nothing was changed. It is asked "
                    f"again at {minute(remembered.authority.next)}, or with -e force_certificates=true. certbot says: "
                    f"{why}"
                )
            return
        live = home / "config" / "live" / app.name
        self.save(app, AUTHORITY, read(live / "privkey.pem"), read(live / "fullchain.pem"))
        remembered.directory, remembered.authority = acme.directory, Wait()
        self.changes.append(f"{app.name}: a certificate of {acme.directory}")

    def certbot_log(self) -> str:
        """Return the log of certbot's last run."""
        return read(self.places.certbot / "logs" / "letsencrypt.log")

    def remember(self) -> None:
        """Write the state down, without what is no more."""
        kept = {}
        for app in self.config.apps:
            remembered = self.of(app)
            remembered.names = {name: wait for name, wait in remembered.names.items() if name in app.domains}
            kept[app.name] = asdict(remembered)
        write(self.places.state, json.dumps(kept, indent=2) + "\n", 0o600)

    # --- NGINX

    def stale(self) -> list[str]:
        """List the domains for which NGINX shows another certificate than their link leads to."""
        found = []
        for app in self.config.apps:
            for domain in app.domains:
                pair = self.served(app, domain)
                address, name = (domain, None) if is_address(domain) else ("127.0.0.1", domain)
                if pair and self.host.shown(address, name) != pair.leaf:
                    found.append(domain)
        return found

    def serve(self) -> None:
        """Have NGINX serve what the links say: a reload where it differs, and a proof by handshake."""
        if self.host.run(["systemctl", "is-active", "--quiet", "nginx.service"])[0]:
            return
        stale = self.stale()
        if not stale:
            return
        self.changes.append(f"NGINX is reloaded for {', '.join(stale)}")
        if self.check:
            return
        log = self.places.error_log
        position = log.stat().st_size if log.exists() else 0
        status, said = self.host.run(["systemctl", "reload", "nginx.service"])
        end, row = time.monotonic() + PROOF_SECONDS, 0
        # Old workers may still accept for a moment.
        while not status and row < 5 and (not stale or time.monotonic() < end):
            stale = self.stale()
            row = 0 if stale else row + 1
            time.sleep(0.02)
        if row < 5:
            with contextlib.suppress(OSError), log.open("rb") as stream:
                stream.seek(position)
                said += stream.read()[-4000:].decode(errors="replace")
            raise CertificateError(
                f"NGINX does not serve the certificate that it should for {', '.join(stale)}, after a reload.\n"
                f"systemctl and the error log say:\n{said.strip() or '(nothing)'}\nNext: nginx -t, on the host"
            )

    # --- all of it

    def renew(self, *, force: bool = False) -> None:
        """Do what is due, and have it served.

        Raises:
            CertificateError: What should be served isn't, or a first certificate that was forced wasn't issued.
        """
        for app in self.config.apps:
            self.ask(app, force=force)
        if not self.check:
            self.prepare()
        self.serve()
        self.prune()
        if force and not self.check:
            now = time.time()
            without = [app.name for app in self.config.apps if app.names and not app.own and not self.issued(app, now)]
            if self.config.acme.directory and without:
                raise CertificateError(
                    f"No certificate was issued for {', '.join(without)}; self-signed ones are served.\n"
                    + "\n".join([*self.warnings, *map(str, self.account())])
                )

    def account(self) -> list[Entry]:
        """Tell of each domain how it is served."""
        now = time.time()
        return [self.entry(app, domain, now) for app in self.config.apps for domain in app.domains]

    def entry(self, app: App, domain: str, now: float) -> Entry:
        """Tell how a domain is served."""
        pair = self.served(app, domain)
        if pair is None:
            return Entry(app.name, domain, "not served", "", "playbooks/site.yml makes its certificate", look=True)
        told = (app.name, domain, pair.kind, day(pair.ends))
        if pair.kind == OWN:
            soon = pair.ends - now < RENEW_SECONDS
            return Entry(*told, "replace the files that the option certificate names" if soon else "", look=soon)
        if app.own:
            return Entry(*told, "your own pair is spoilt or gone; playbooks/site.yml brings it back", look=True)
        remembered = self.of(app)
        waits = [wait for wait in (remembered.names.get(domain), remembered.authority) if wait and wait.failures]
        if not self.config.acme.directory:
            why = "" if pair.kind == SELF_SIGNED else "it is not renewed, since certificate_acme_directory is empty"
            return Entry(*told, why, look=bool(why))
        if is_address(domain):
            return Entry(*told, "it is an address")
        issued = self.issued(app, now)
        if pair.kind == AUTHORITY and pair == issued and not (pair.due(now) and waits):
            return Entry(*told)
        if not waits:
            return Entry(*told, "the authority was not asked yet", look=True)
        return Entry(*told, waits[0].why, minute(waits[0].next), look=True)


def refused_names(said: str) -> dict[str, str]:
    """Read the names that an authority could not validate from certbot's output, with its reasons."""
    found = re.findall(r"^ *Domain: (\S+)\n *Type: +(\S+)\n *Detail: (.+)$", said, re.MULTILINE)
    return {same(name): f"{kind}: {detail}"[:300] for name, kind, detail in found}


def what_certbot_said(said: str) -> str:
    """Return what matters of certbot's output, on one line."""
    noise = ("Saving debug log", "Requesting a", "Renewing an", "Account registered", "Ask for help", "Hint:", "- - -")
    lines = (line.strip() for line in said.splitlines())
    return " ".join(line for line in lines if line and not line.startswith(noise))[:1000] or "(nothing)"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one run after the other do something."""
    with path.open("w") as stream:
        for _ in range(600):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(1)
        else:
            raise CertificateError(f"{path} has been held by another run for 10 minutes: systemctl list-jobs, ps")
        yield


def lines(entries: Iterable[Entry]) -> str:
    """Write an account, a line for each domain below its app."""
    text, of = [], ""
    for entry in entries:
        if entry.app != of:
            text.append(entry.app)
            of = entry.app
        text.append(f"  {entry}")
    return "\n".join(text)


def main(arguments: list[str] | None = None, host: Host | None = None, places: Places | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="certificates", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="how each name is served")
    status.add_argument("--json", action="store_true", help="for programs")
    renew = commands.add_parser("renew", help="renew what is due, and have it served")
    renew.add_argument("--force", action="store_true", help="ask the authority for all names now, due or not")
    given = parser.parse_args(arguments)
    places = places or Places()
    try:
        text = read(places.config)
        if not text:
            raise CertificateError(f"There is no {places.config}: playbooks/site.yml writes it.")
        found = Certificates(Config.read(text), host or Host(), places)
        if given.command == "status":
            account = found.account()
            print(json.dumps([asdict(one) for one in account], indent=2) if given.json else lines(account))
            return 0
        with locked(places.lock):
            found.recall()
            try:
                found.renew(force=given.force)
            finally:
                for line in [*found.changes, *found.warnings]:
                    print(line)
    except OSError as error:
        print(f"certificates: {error.filename}: {error.strerror}; it has to run as root", file=sys.stderr)
        return 1
    except CertificateError as error:
        print(f"certificates: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
