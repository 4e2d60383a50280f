"""What is wrong with the options of a host, all of it at once, in words that say how to put it right.

The options, their types and their meaning come from the roles' own meta/argument_specs.yml; what a type can't say (a
domain that is none, a module that isn't there, a time limit longer than the one around it) is in the tables and small
functions here. Nothing here knows Ansible's internals: how a template is evaluated is handed in, so all of it runs in a
unit test.

No text shows a value that may be secret. A message therefore has a fixed part, and a detail that is left out where the
value it speaks about is hidden.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import fnmatch
import ipaddress
import json
import keyword
import os
import re
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from ansible.module_utils import own_certificate, release_source
from ansible.module_utils import requirements as requirement_files
from ansible.module_utils.addresses import is_address
from packaging.version import InvalidVersion, Version

Spec = Mapping[str, object]
"""The description of one option, as argument_specs.yml has it."""


SECRET = re.compile(
    r"flask_app_release_key\b|certificate_acme_eab_hmac_key\b|flask_apps\[\d+\]\.secrets\b"
    r"|postgresql_\w+_password\b|postgresql_databases\[\d+\]\.password\b"
)
"""Paths of options that are never shown."""


class BadValue(ValueError):
    """A value that can't be used.

    Args:
        text: What is wrong and what to do; doesn't repeat the value.
        detail: More of it, which may repeat the value: left out where the value is hidden.
    """

    def __init__(self, text: str, detail: str = "") -> None:
        """Keep the two parts apart."""
        super().__init__(f"{text} {detail}".strip())
        self.text = text
        self.detail = detail


class Unusable:
    """Stands for a value that is checked no further: its problem is told, or it isn't known yet."""


UNUSABLE = Unusable()
NOT_SHOWN = object()


# --- what is told


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the place, and the rest of the sentence."""

    where: str
    text: str

    def __str__(self) -> str:
        """Join the place and the sentence."""
        return f"{self.where}: {self.text}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem before it is put in words: what of it may be shown is known when all is read."""

    where: str
    text: str
    detail: str
    value: object


@dataclass(slots=True)
class Report:
    """The problems of one host, in the order in which they were found."""

    hidden: set[str] = field(default_factory=set)
    """Paths whose values, and those below them, are never shown."""
    labels: dict[str, str] = field(default_factory=dict)
    """Names of apps by their paths, since people know an app by its name and not by its number."""
    changed: dict[str, BadValue] = field(default_factory=dict)
    """What to say of numbers that may not be what was written, by their paths: wrong where a text is asked for."""
    findings: list[Finding] = field(default_factory=list)

    def add(self, where: str, text: str, detail: str = "", value: object = NOT_SHOWN) -> None:
        """Add a problem.

        Args:
            where: Path of the value.
            text: What is wrong and what to do, without anything that comes from the value.
            detail: More of it, left out where the value is hidden.
            value: The value, if it is to be shown.
        """
        self.findings.append(Finding(where, text, detail, value))

    def add_changed(self, where: str, value: object) -> bool:
        """Add the problem of a number that may not be what was written, and tell whether there is one."""
        if error := self.changed.get(where):
            self.add(where, error.text, error.detail, value)
        return error is not None

    def is_hidden(self, where: str) -> bool:
        """Tell whether the value at a path may not be shown."""
        own = SECRET.match(where)
        return own is not None or any(is_below(where, path) for path in self.hidden)

    @property
    def problems(self) -> list[Problem]:
        """The problems in words, each once."""
        problems = []
        for finding in self.findings:
            secret = self.is_hidden(finding.where)
            label = next((name for path, name in self.labels.items() if is_below(finding.where, path)), "")
            place = finding.where + (f" ({label})" if label else "")
            if finding.value is not NOT_SHOWN and not secret:
                place += f" = {shown(finding.value)}"
            text = finding.text if secret else f"{finding.text} {finding.detail}"
            problems.append(Problem(place, redacted(text.strip())))
        return list(dict.fromkeys(problems))


def is_below(where: str, path: str) -> bool:
    """Tell whether a path is another one or below it."""
    return where == path or where.startswith((f"{path}.", f"{path}["))


def shown(value: object) -> str:
    """Return a value as a message shows it: short, on one line, and of a collection only that it is one."""
    if isinstance(value, str):
        text = redacted(str(value))
        return json.dumps(text if len(text) <= 80 else f"{text[:77]}…", ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return str(value)


def redacted(text: str) -> str:
    """Return the text without the passwords and tokens of the URLs in it; git@ is no secret."""
    return re.sub(r"://(?!git@)([^\s\"/@]+:[^\s\"]*|[^\s\"/@]+)@", "://…@", text)


def report_text(problems: Mapping[str, Sequence[Problem]], inventory: Iterable[str] = ()) -> str:
    """Return one message for the problems of all hosts; what several hosts share is one line that lists them.

    Args:
        problems: The problems of each host that was looked at, those without any included.
        inventory: Where the options come from, to say so.
    """
    hosts_of: dict[Problem, list[str]] = {}
    for host, found in problems.items():
        for problem in found:
            hosts_of.setdefault(problem, []).append(host)
    lines = [f"{count(len(hosts_of), 'problem')} in the options. No host was touched.", ""]
    for problem, hosts in hosts_of.items():
        lines.append(f"- {problem}" + (f" [{', '.join(hosts)}]" if len(problems) > 1 else ""))
    sources = ", ".join(inventory)
    lines += ["", f"They are set in the inventory ({sources}) or with -e." if sources else ""]
    lines[-1] = f"{lines[-1]} Every option: docs/options.md".strip()
    return "\n".join(lines)


def count(number: int, noun: str) -> str:
    """Join a number and its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a question that names the nearest known name, or nothing."""
    near = nearest(name, known, cutoff)
    return f"Did you mean {near}?" if near else ""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Find the known name that is most like the given one, or that it abbreviates, as env for environment."""
    choices = list(known)
    if found := difflib.get_close_matches(name, choices, n=1, cutoff=cutoff):
        return found[0]
    longer = [choice for choice in choices if len(name) >= 3 and choice.startswith(name)]
    return longer[0] if len(longer) == 1 else None


# --- the options there are


@dataclass(frozen=True, slots=True)
class Role:
    """The options of a role, over all its entry points."""

    name: str
    options: Mapping[str, Spec]
    required: frozenset[str]
    """Options that the operator must set: those of main. What other entry points require, the playbooks fill."""
    mentioned: frozenset[str]
    """Variables that are no options of the role's own hosts, and yet in order: those that its description tells of, as
    C(test_host_release), and those that it writes into an inventory."""


def load_roles(folder: Path, names: Iterable[str] = ()) -> dict[str, Role]:
    """Read the options of roles from their argument_specs.yml.

    Args:
        folder: The folder that holds the roles.
        names: The roles to take; none means all that describe their options.

    Raises:
        FileNotFoundError: A named role has no such file.
    """
    wanted = list(names) or sorted(path.parts[-3] for path in folder.glob("*/meta/argument_specs.yml"))
    roles = {}
    for name in wanted:
        text = (folder / name / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, which takes a sixth of the time
        entries: Mapping[str, Mapping[str, object]] = yaml.load(text, Loader=loader)["argument_specs"]
        options: dict[str, Spec] = {}
        for entry in entries.values():
            options.update(mapping(entry.get("options")))
        main = mapping(mapping(entries.get("main")).get("options"))
        required = frozenset(key for key, spec in main.items() if mapping(spec).get("required"))
        mentioned = set(re.findall(rf"C\(({name}_\w+)\)", text))
        for template in folder.glob(f"{name}/templates/*.yml.j2"):
            mentioned.update(re.findall(rf"^ *({name}_\w+):", template.read_text(encoding="utf-8"), re.MULTILINE))
        roles[name] = Role(name, options, required, frozenset(mentioned))
    return roles


def mapping(value: object) -> Mapping[str, Spec]:
    """Return the value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def first_sentence(spec: Spec) -> str:
    """Return the first sentence of an option's description."""
    description = spec.get("description", "")
    text = str(description[0] if isinstance(description, list) else description)
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text, maxsplit=1)[0]


# --- evaluating what the operator wrote


class CannotEvaluate(Exception):
    """A template that can't be evaluated, with the reason in words."""


@dataclass(frozen=True, slots=True)
class Written:
    """How a number stands in the file that it comes from."""

    place: str  # the file, and the line
    text: str

    @classmethod
    def at(cls, path: str, content: str, line: int, column: int) -> Written:
        """Read what stands in a file at a line and a column, which both begin at 1."""
        lines = content.split("\n")
        rest = lines[line - 1][column - 1 :] if line <= len(lines) else ""
        return cls(f"{path}, line {line}", re.match(r"[^\s,\]}]*", rest)[0])  # type: ignore[index]


QUOTES = 'put it in quotes, as in "0123".'


def check_number(number: object, written: Written | None) -> None:
    """Check that the text of a number is the one that was written.

    YAML 1.1 reads 0123 as 83, 22:30 as 1350 and 1.10 as 1.1, and the number doesn't tell: only its place does.
    """
    if written is None or "{{" in written.text or written.text[:1] in ("'", '"', "|", ">"):
        raise BadValue(
            "it must be text, and is a number that may have been written otherwise: "
            f"{QUOTES} A template that computes it ends with | string."
        )
    if written.text != str(number):
        raise BadValue(
            f"YAML may change a number: {QUOTES} It stands in {written.place}.",
            f"{written.text} is read as {number}.",
        )


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Turns raw variables into values, leaf by leaf, so that one bad template doesn't hide the other values.

    Args:
        variables: The raw variables of the host.
        evaluate: Evaluates one leaf. Raises CannotEvaluate.
        is_encrypted: Whether a leaf is encrypted in itself.
        read: Reads a file on this machine, decrypted. Raises CannotEvaluate.
        written: Finds how a number stands in the file that it comes from, if that is known.
    """

    variables: Mapping[str, object]
    evaluate: Callable[[object], object]
    is_encrypted: Callable[[object], bool] = lambda value: False
    read: Callable[[str], str] = lambda path: Path(path).read_text(encoding="utf-8", errors="replace")
    written: Callable[[object], Written | None] = lambda value: None

    def resolve(self, where: str, raw: object, report: Report, through: tuple[str, ...] = ()) -> object:
        """Evaluate a raw variable, with UNUSABLE for what can't be; the report learns what may not be shown.

        Args:
            where: Path of the value.
            raw: The value as it was written.
            report: Takes the problems.
            through: Variables that led here.
        """
        if isinstance(raw, Mapping):
            return {key: self.resolve(join(where, key), value, report, through) for key, value in raw.items()}
        if isinstance(raw, list | tuple):
            return [self.resolve(f"{where}[{index}]", value, report, through) for index, value in enumerate(raw)]
        if raw is None or isinstance(raw, bool | int | float):
            self._look_at_numbers(where, raw, report)
            return raw
        # {{ name }} alone is followed by hand: what is secret below it then hides only itself.
        if isinstance(raw, str) and (alone := re.fullmatch(r"\s*\{\{\s*([A-Za-z_]\w*)\s*\}\}\s*", raw)):
            name = alone[1]
            target = self.variables.get(name)
            if isinstance(target, Mapping | list | tuple) and name not in through:
                if is_vault_name(name):
                    report.hidden.add(where)
                return self.resolve(where, target, report, (*through, name))
        names, encrypted = self.references(raw)
        if encrypted or any(map(is_vault_name, names)):
            report.hidden.add(where)
        try:
            value = plain(self.evaluate(raw))
        except CannotEvaluate as error:
            # Facts aren't known before a host is reached, and names with _ belong to the roles, which check again.
            if "ansible_facts" not in names and not any(name.startswith("_") for name in names):
                self._explain(where, str(error), encrypted, report)
            return UNUSABLE
        self._look_at_numbers(where, value, report)
        if isinstance(value, str):
            # "{{ zip }} Copenhagen" is text, and wrong all the same.
            for number in self._named_numbers(raw):
                self._look_at_numbers(where, number, report)
        return value

    def _look_at_numbers(self, where: str, value: object, report: Report) -> None:
        """Note the numbers whose text may not be the one that was written."""
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._look_at_numbers(join(where, key), item, report)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._look_at_numbers(f"{where}[{index}]", item, report)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            try:
                check_number(value, self.written(value))
            except BadValue as error:
                report.changed[where] = error

    def _named_numbers(self, raw: object, through: frozenset[str] = frozenset()) -> Iterator[object]:
        """Yield the numbers that a template names, through other templates too: {{ zip }} and {{ shop.zip }}."""
        if not isinstance(raw, str) or ("{{" not in raw and "{%" not in raw):
            return
        dotted = re.sub(r"\[\s*['\"](\w+)['\"]\s*\]", r".\1", raw)
        for name in set(re.findall(r"(?<![\w.])[A-Za-z_]\w*(?:\.\w+)*", dotted)) - through:
            value: object = self.variables
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield value
            yield from self._named_numbers(value, through | {name})

    def _explain(self, where: str, error: str, encrypted: bool, report: Report) -> None:
        if undefined := re.search(r"'([A-Za-z_]\w*)' is undefined", error):
            known = (name for name in self.variables if not name.startswith("ansible_"))
            hint = did_you_mean(undefined[1], known, 0.8)
            text = f"it uses the variable {undefined[1]}, which is not defined for this host. {hint}"
            report.add(where, text.strip())
        elif encrypted:
            report.add(where, "it can't be decrypted. Give the vault's password, as with --ask-vault-pass.")
        else:
            report.add(where, "its template can't be evaluated.", error)

    def references(self, raw: object) -> tuple[set[str], bool]:
        """Find the names that a raw value mentions, through other variables too, and whether one is encrypted."""
        names: set[str] = set()
        encrypted = False
        todo = [raw]
        while todo:
            value = todo.pop()
            if self.is_encrypted(value):
                encrypted = True
            elif isinstance(value, Mapping):
                todo.extend(value.values())
            elif isinstance(value, list | tuple):
                todo.extend(value)
            elif isinstance(value, str) and ("{{" in value or "{%" in value):
                for name in set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", value)) - names:
                    names.add(name)
                    # Magic variables (groups, hostvars) hold everything there is.
                    if name not in {"groups", "hostvars", "vars"} and name in self.variables:
                        todo.append(self.variables[name])
        return names, encrypted


def is_vault_name(name: str) -> bool:
    """Tell whether a variable is secret by its name: of a file that is encrypted as a whole nothing else tells."""
    return name.startswith("vault")


def plain(value: object) -> object:
    """Copy a value into Python's own collections."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def join(where: str, key: object) -> str:
    """Return the path of an entry of a mapping."""
    return (
        f"{where}.{key}"
        if re.fullmatch(r"[\w-]+", str(key))
        else f"{where}[{json.dumps(str(key), ensure_ascii=False)}]"
    )


# --- types


TRUE = frozenset({"y", "yes", "on", "1", "true", "t"})
FALSE = frozenset({"n", "no", "off", "0", "false", "f"})
KINDS = {
    "str": "text",
    "path": "a path",
    "int": "a whole number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
}


def converted(value: object, kind: str) -> object:
    """Return the value as the type that an option has.

    Stricter than Ansible, which takes yes for the text "True" and "a, b" for a list, but hands on what was written.

    Raises:
        BadValue: It isn't of that type.
    """
    if value is None:
        raise BadValue("it has no value. Give one, or leave the line out to get the default.")
    if kind in ("str", "path"):
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
        if isinstance(value, bool):
            raise BadValue(
                'it must be text. YAML reads yes, no, on and off as true and false: put it in quotes, as in "yes".'
            )
        if not isinstance(value, Mapping | list):
            raise BadValue(
                "it must be text. YAML reads it as a number or a date, and may change it: put it in quotes, "
                'as in "1.10".'
            )
    elif kind == "int":
        if isinstance(value, int) and not isinstance(value, bool):
            return int(value)
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
            return int(value)
    elif kind == "bool":
        if str(value).lower() in TRUE | FALSE:
            return str(value).lower() in TRUE
    elif kind not in KINDS or isinstance(value, (list, tuple) if kind == "list" else Mapping):
        return value
    raise BadValue(f"it must be {KINDS[kind]}.")


# --- what a type can't say


NAME = re.compile(r"[a-z][a-z0-9-]{0,22}[a-z0-9]")
RESERVED = {
    "a Debian account or group": """
        adm audio avahi backup bin cdrom chrony crontab daemon dialout dip disk docker fax floppy games gnats input irc
        kmem kvm list lp mail man messagebus mysql netdev news nobody nogroup ntp ntpsec operator plugdev polkitd
        postfix postgres proxy redis render root sasl sgx shadow src staff sudo sync sys syslog tape tcpdump tss tty
        users utmp uucp uuidd video voice www-data""",
    "a unit of systemd or of a Debian package": """
        apparmor apt-daily autovt certbot console-getty container-getty cron dbus e2scrub etcd fail2ban fstrim getty
        ifup keepalived logrotate modprobe networking nftables nginx openvpn patroni postgresql rsyslog serial-getty
        ssh sshd unattended-upgrades user-runtime-dir uwsgi""",
    "an entry of /run": "blkid credentials initctl lock log mount needrestart network screen shm systemd udev user",
    "a name of this project's own": "flask-on-metal",
}


def check_name(name: str) -> None:
    """Check an app's name, which is also that of its account, units and folders."""
    if not NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:24].strip("-")
        raise BadValue(
            "it must be 2 to 24 lower-case letters, digits and hyphens, begin with a letter and not end with a hyphen.",
            f'Perhaps "{near}".' if NAME.fullmatch(near) else "",
        )
    owner = next((owner for owner, names in RESERVED.items() if name in names.split()), None)
    if name.startswith("systemd-"):
        owner = "a unit or account of systemd"
    if owner:
        raise BadValue(
            f"it is {owner}, and the app gets an account, units and a /run folder of its name.",
            f'Choose another, as in "{name[:20]}-app".',
        )


LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)


def check_domain(domain: str) -> None:
    """Check a host name or an address, as a certificate and a server_name have it."""
    rule = "it must be a host name or an address"
    bare = re.sub(r"^[a-z][a-z0-9+.-]*://", "", domain.strip(), flags=re.IGNORECASE)
    bare = re.sub(r":\d*$", "", bare.split("/")[0]) if bare.count(":") < 2 else bare.split("/")[0]
    hint = f'Write "{bare}".' if bare and bare != domain and valid_domain(bare) else ""
    if not domain.strip():
        raise BadValue(f"{rule}, and is empty.")
    if re.search(r"\s", domain):
        raise BadValue(f"{rule}, without blanks; one entry of the list for each.", hint)
    if "://" in domain:
        raise BadValue(f"{rule}, without a scheme.", hint)
    if "/" in domain:
        raise BadValue(f"{rule}, without a path.", hint)
    if "*" in domain:
        raise BadValue(f"{rule}. Wildcards can't be used: list each name.")
    if domain.startswith("["):
        raise BadValue(f"{rule}. An IPv6 address is written without brackets and port.")
    if is_address(domain):
        return
    if ":" in domain:
        raise BadValue(f"{rule}, without a port.", hint)
    if "_" in domain:
        raise BadValue(f"{rule}. Host names have no underscore.", did_you_mean_text(domain.replace("_", "-")))
    if not domain.isascii():
        raise BadValue(
            f"{rule}. Names with other letters than a to z are written in their ASCII form.",
            f'Write "{ascii_form(domain)}".' if ascii_form(domain) else "",
        )
    if domain.endswith("."):
        raise BadValue(f"{rule}, without the dot at its end.", did_you_mean_text(domain.rstrip(".")))
    if not valid_domain(domain):
        numeric = domain.rsplit(".", 1)[-1].isdigit()
        raise BadValue(f"{rule}." if not numeric else "it looks like an IPv4 address but isn't one.")


def did_you_mean_text(text: str) -> str:
    """Ask whether a text was meant, where it is a domain."""
    return f'Did you mean "{text}"?' if valid_domain(text) else ""


def valid_domain(name: str) -> bool:
    """Tell whether it is an address or a host name of letters, digits and hyphens whose last label isn't a number."""
    labels = name.split(".")
    return is_address(name) or (len(name) <= 253 and all(map(LABEL.fullmatch, labels)) and not labels[-1].isdigit())


def ascii_form(domain: str) -> str | None:
    """Return the xn-- form of a name, by today's rules where the library for them is there."""
    try:
        try:
            import idna
        except ImportError:
            return domain.encode("idna").decode()
        return idna.encode(domain.rstrip("."), uts46=True).decode()
    except UnicodeError:
        return None


def same_domain(domain: str) -> str:
    """Return a key that is the same for two spellings of one name or address."""
    try:
        return str(ipaddress.ip_address(domain))
    except ValueError:
        return (ascii_form(domain) or domain).rstrip(".").lower()


def check_wsgi(entry: str) -> None:
    """Check the form module:callable or module:factory(literals)."""
    wsgi_module(entry)


def wsgi_module(entry: str) -> str:
    """Return the module of a WSGI entry.

    Raises:
        BadValue: It hasn't the form module:callable, or calls with more than literals: it is evaluated at start, and an
            expression in it would be code that no one looks for in an option.
    """
    rule = 'it must be module:callable or module:factory(), as in "newsboard:create_app()".'
    module, colon, call = entry.partition(":")
    if not colon or not call or not module:
        name = entry.strip(":").removesuffix(".py").replace("/", ".")
        raise BadValue(rule, f'Perhaps "{name}:app".' if is_dotted(name) else "")
    if not is_dotted(module):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise BadValue(
            f"{rule} The module is written as in an import.", f'Perhaps "{dotted}:{call}".' if is_dotted(dotted) else ""
        )
    try:
        tree = ast.parse(call, mode="eval").body
    except (SyntaxError, ValueError):
        raise BadValue(f"{rule} What follows the colon isn't Python.") from None
    if isinstance(tree, ast.Call):
        try:
            for argument in [*tree.args, *(item.value for item in tree.keywords)]:
                ast.literal_eval(argument)
        except ValueError:
            raise BadValue(f"{rule} A factory's arguments must be literals: texts, numbers, true, lists.") from None
        if any(item.arg is None for item in tree.keywords):
            raise BadValue(f"{rule} A factory's arguments must be literals: texts, numbers, true, lists.")
        tree = tree.func
    while isinstance(tree, ast.Attribute):
        tree = tree.value
    if not isinstance(tree, ast.Name) or call != call.strip():
        raise BadValue(rule)
    return module


def is_dotted(name: str) -> bool:
    """Tell whether it is a name as in an import."""
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))


REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\[[A-Za-z0-9,._ -]+\])?\s*(==|===|>=|<=|~=|!=|<|>|@)\s*(.*)"
)
GIT_SCHEMES = ("https", "ssh", "file")


@dataclass(frozen=True, slots=True)
class Source:
    """What a source is: a directory with its path, else git or a requirement."""

    kind: str
    path: Path | None = None


def check_source(source: str) -> None:
    """Check a directory that is there, a git URL or a pinned requirement."""
    parse_source(source)


def parse_source(source: str) -> Source:
    """Tell what a source is.

    Raises:
        BadValue: It is none of the three, or a directory that isn't there.
    """
    rule = "it must be a directory, git+https://… or a requirement as name==1.2."
    if not source.strip():
        raise BadValue(f"{rule} It is empty.")
    if source.startswith("git+"):
        url = urlsplit(source.removeprefix("git+"))
        if url.scheme == "http":
            raise BadValue("git+http is neither encrypted nor authentic: use git+https.")
        if url.scheme not in GIT_SCHEMES or not url.path.strip("/") or (url.scheme != "file" and not url.hostname):
            raise BadValue(
                "a repository is written as git+https://host/path, git+ssh://git@host/path or git+file:///path."
            )
        if url.password or (url.scheme == "https" and url.username):
            raise BadValue(
                "a password or token in source would be written to logs and releases. Take it out, and use git's "
                "credential store or git+ssh."
            )
        if "@" in url.path or url.fragment:
            raise BadValue("the branch, tag or commit goes into version, not into source.")
        return Source("git")
    if "://" in source:
        raise BadValue(rule, f'Perhaps "git+{source}".' if re.match(r"(https|ssh)://", source) else "")
    if scp := re.fullmatch(r"([\w.-]+@[\w.-]+):([^:]+)", source):
        raise BadValue(rule, f'Perhaps "git+ssh://{scp[1]}/{scp[2]}".')
    if not Path(source).is_dir() and (requirement := REQUIREMENT.fullmatch(source)):
        if requirement[1] != "==" or not re.fullmatch(r"[A-Za-z0-9.!+_-]+", requirement[2]):
            raise BadValue(
                "a requirement must be pinned to one version, as in name==1.2: else one input could be two releases."
            )
        return Source("requirement")
    path = Path(os.path.abspath(source))  # noqa: PTH100  (resolve() would follow links, and show another path)
    if source.startswith("~"):
        raise BadValue("a ~ isn't replaced here. Write the path out, or \"{{ lookup('env', 'HOME') }}/…\".")
    if not path.exists():
        hint = (
            nearest(path.name, [item.name for item in path.parent.iterdir() if item.is_dir()])
            if path.parent.is_dir()
            else None
        )
        if hint:
            raise BadValue("there is no such directory.", f"Looked at {path}. Did you mean {path.parent / hint}?")
        bare = "" if "/" in source else f" If it is a package, pin it: {source}==1.2"
        raise BadValue("there is no such directory.", f"Looked at {path}.{bare}")
    if not path.is_dir():
        raise BadValue("it is a file. Name the directory that holds the code.")
    return Source("directory", path)


def check_version(version: str) -> None:
    """Check a branch, tag or commit, which git must not take for an option."""
    if not version or version.startswith("-") or re.search(r"[\s\x00-\x1f~^:?*\[\\]|\.\.", version):
        raise BadValue("it must be a branch, tag or commit.")


def check_health_path(path: str) -> None:
    """Check a path of a request line."""
    if not path.startswith("/"):
        raise BadValue("it must begin with a slash.", f'Write "/{path}".' if re.fullmatch(r"[\w./-]+", path) else "")
    if re.search(r"[\s\x00-\x1f\x7f\"'\\#$]", path) or not path.isascii():
        raise BadValue("it must be a path as in a URL, without blanks, quotes, dollars and #.")


def check_kept_path(path: str) -> None:
    """Check one path of cache.paths."""
    if not re.fullmatch(r"/[\w.~!&+,=:@/-]*\*?", path, re.ASCII):
        raise BadValue(
            "it must be a path that begins with a slash, without query, blanks and quotes. An asterisk at its end is "
            "everything below, as in /story/*."
        )
    if re.search(r"//|/\.", path):
        raise BadValue("no part of it may be empty or begin with a dot: NGINX would never ask the app for that.")


def check_idempotent_path(path: str) -> None:
    """Check one path of idempotent."""
    check_kept_path(path)
    if path == "/*":
        raise BadValue("it is every path of the app. List those where a POST may arrive twice, as in /orders/*.")


def check_purged_path(path: str) -> None:
    """Check one path whose kept pages are to be forgotten; it may have a query."""
    if not path.startswith("/") or re.search(r"[\s\x00-\x1f\x7f]", path):
        raise BadValue("it must be a path that begins with a slash, as in /story/*, and have no blanks.")


def check_cookie(name: str) -> None:
    """Check the name of a cookie, as RFC 6265 has it."""
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) or "$" in name:
        raise BadValue("it must be the name of a cookie, as in _ga, without its value.")


def check_max_body(size: str) -> None:
    """Check NGINX's notation of a size."""
    if not re.fullmatch(r"\d{1,9}[kKmMgG]?", size):
        near = re.match(r"(\d+)\s*([kKmMgG])", size)
        raise BadValue(
            "it must be a size in NGINX's notation: a number of at most 9 digits, and k, m or g, as in 16m.",
            f"Write {near[1]}{near[2].lower()}." if near else "",
        )


def check_below(path: str) -> None:
    """Check a path below the source."""
    if path.startswith("/") or ".." in path.split("/") or not path.strip():
        raise BadValue("it must be a path below source: not absolute, and without '..'.")
    if re.search(r"[\s\x00-\x1f\"';{}$\\]", path):
        raise BadValue("it must have no blanks, quotes, semicolons, braces, dollars and backslashes.")


def check_shared_path(path: str) -> None:
    """Check a path below an app's shared folder. It is written in one way only, so that two of them can be compared."""
    if own := re.fullmatch(r"(?:sqlite:///)?/srv/[^/]+/shared/(.+)", path):
        raise BadValue("it must be the path below the app's shared folder.", f'Write "{own[1]}".')
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or not path.strip():
        raise BadValue("it must be a path below the app's shared folder: not absolute, and without '..'.")
    if re.search(r"[\s\x00-\x1f\x7f\"';{}$\\*?\[\]]", path):
        raise BadValue(
            "it must be one path, and no pattern: without blanks, quotes, semicolons, braces, brackets, dollars, "
            "asterisks, question marks and backslashes."
        )
    if "" in parts or "." in parts:
        near = "/".join(part for part in parts if part not in ("", "."))
        raise BadValue(
            "it must be written without '.', and without a slash at its end or two in a row.",
            f'Write "{near}".' if near else "",
        )


class TaskLoader(yaml.SafeLoader):
    """Reads the shape of a task file; of what has a tag of Ansible's own, as !vault, only that it is there."""


TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def check_hook(name: str) -> None:
    """Check a task file on the control node.

    Ansible itself would notice when the release is half made, on the first host.
    """
    if not name.startswith("/"):
        # Ansible would look for it beside the role's own files first.
        raise BadValue(
            "it must be an absolute path. A file beside the inventory is written as in "
            '"{{ inventory_dir }}/../hooks/before_migrate.yml".'
        )
    path = Path(os.path.abspath(name))  # noqa: PTH100
    if path.is_dir():
        raise BadValue("it is a folder. Name the file with the tasks.")
    if not path.is_file():
        near = nearest(path.name, [item.name for item in path.parent.iterdir()]) if path.parent.is_dir() else None
        hint = f" Did you mean {path.parent / near}?" if near else ""
        raise BadValue("there is no such file on this machine.", f"Looked at {path}.{hint}")
    rule = 'it must hold a list of tasks in YAML, each as "- name: …".'
    try:
        tasks = yaml.load(path.read_text(encoding="utf-8"), Loader=TaskLoader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise BadValue(rule, f"Looked at {path}{at}: it isn't YAML.") from None
    if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
        raise BadValue(rule, f"Looked at {path}.")
    if any("hosts" in task or any(str(key).endswith("import_playbook") for key in task) for task in tasks):
        raise BadValue(f"{rule} It holds a playbook: take the tasks out of it.", f"Looked at {path}.")


def check_run(run: str) -> None:
    """Check the name of a run, as a lock has it, or nothing."""
    if run and not re.fullmatch(r"[0-9a-f]{12}", run):
        raise BadValue(
            "it must be the run that the refusal names: 12 digits and letters a to f. It is what -e break_lock=… sets."
        )


def check_release_id(release: str) -> None:
    """Check the form of a release's id, or nothing."""
    if release and not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}", release):
        raise BadValue(
            "it must be the id of a release, as 20260101T000000Z-0123abcd; playbooks/releases.yml lists them. "
            "It is what -e to=… sets."
        )


def check_text(text: str) -> None:
    """Check text that can be in an environment or a unit."""
    if "\0" in text:
        raise BadValue("it has a NUL character in it.")


def check_timezone(zone: str) -> None:
    """Check a zone that the control node knows too, where it knows any."""
    known = zoneinfo.available_timezones()
    if known and zone not in known:
        raise BadValue(
            "it must be a zone as in /usr/share/zoneinfo, as in Europe/Copenhagen.", did_you_mean(zone, known)
        )


def check_proxy(url: str) -> None:
    """Check the URL of a proxy, or nothing."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise BadValue("it must be the URL of an HTTP proxy, as in http://proxy.example.org:3128.")


def check_package(name: str) -> None:
    """Check the name of a Debian package."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=\S+)?", name):
        raise BadValue("it must be the name of a Debian package.")


def check_certificate_file(name: str) -> None:
    """Check a PEM file on the control node."""
    path = Path(os.path.abspath(name))  # noqa: PTH100
    if not path.is_file():
        raise BadValue("there is no such file on this machine.", f"Looked at {path}.")
    if "-----BEGIN CERTIFICATE-----" not in path.read_text(errors="replace"):
        raise BadValue(
            "it must hold a certificate in PEM form, which begins with -----BEGIN CERTIFICATE-----.",
            f"Looked at {path}.",
        )


def check_own_file(name: str) -> None:
    """Check a file on the control node that may be encrypted, and whose content is checked later."""
    if not name.startswith("/"):
        raise BadValue(
            "it must be an absolute path. A file beside the inventory is written as in "
            '"{{ inventory_dir }}/../certificates/fullchain.pem".'
        )
    if not Path(name).is_file():
        raise BadValue("there is no such file on this machine.", f"Looked at {name}.")


def check_acme_directory(url: str) -> None:
    """Check the URL of an ACME authority's directory, or nothing."""
    parts = urlsplit(url)
    if url and (parts.scheme != "https" or not parts.hostname or parts.username or re.search(r"\s", url)):
        raise BadValue("it must be the https URL of a directory, as in https://acme.example.org/directory.")


def check_email(address: str) -> None:
    """Check an address of somebody, or nothing."""
    if address and not re.fullmatch(r"[^@\s\"',<>]+@[A-Za-z0-9.-]+", address):
        raise BadValue("it must be one address, as in operator@example.org.")


def check_ca_file(name: str) -> None:
    """Check a PEM file on the control node, or nothing."""
    if name:
        check_certificate_file(name)


def check_eab_kid(kid: str) -> None:
    """Check the identifier of a binding, or nothing: it goes into a file of one option a line."""
    if re.search(r"\s|#", kid):
        raise BadValue("it must be the identifier as the authority told it, without blanks and #.")


def check_eab_hmac_key(key: str) -> None:
    """Check the key of a binding, or nothing."""
    if key and not re.fullmatch(r"[A-Za-z0-9_-]+=*", key):
        raise BadValue("it must be the key as the authority told it, in base64url: letters, digits, - and _.")


def check_firewall_rule(rule: str) -> None:
    """Check that a rule of nftables is one, and stays in its chain; whether it is right, nft says on the host."""
    text = rule.strip()
    if not text:
        raise BadValue("it must be a rule of nftables, and is empty.")
    if "\n" in text or ";" in text:
        raise BadValue("it must be one rule, on one line; one entry of the list for each.")
    first = text.split()[0]
    if first in {
        "add",
        "insert",
        "delete",
        "flush",
        "table",
        "chain",
        "set",
        "map",
        "define",
        "include",
        "nft",
        "type",
    }:
        raise BadValue(
            "it must be a rule alone, as it stands in a chain: what it matches, and accept or drop.",
            f"It begins with {first}.",
        )
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            break
    if depth:
        raise BadValue("its braces don't match.")


def check_rolling(text: str) -> None:
    """Check a number of hosts, or a share of them."""
    if not re.fullmatch(r"[1-9]\d*|(?:[1-9]\d?|100)%", text):
        raise BadValue('it must be a number of hosts or a share of them, as in 1 or "25%".')


def check_address(text: str) -> None:
    """Check an IPv4 or IPv6 address."""
    if not is_address(text):
        raise BadValue("it must be an IPv4 or IPv6 address, as in 192.0.2.10.")


def check_network(text: str) -> None:
    """Check an address or a network."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        hint = ""
        if "/" in text:
            with contextlib.suppress(ValueError):
                hint = f'Did you mean "{ipaddress.ip_network(text, strict=False)}"?'
        raise BadValue("it must be an address or a network, as 192.0.2.1 or 2001:db8::/32.", hint) from None


def check_ssh_user(user: str) -> None:
    """Check one entry of AllowUsers."""
    if not re.fullmatch(r"[^\s,#\"]+", user):
        raise BadValue("it must be an account, as AllowUsers of sshd has it; one entry of the list for each.")


def check_time_of_day(time: str) -> None:
    """Check a time of day, or nothing."""
    if time and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", time):
        raise BadValue('it must be a time of day in quotes, as in "04:30". YAML reads it as a number without them.')


def check_journal_size(size: str) -> None:
    """Check a size as journald has it."""
    if not re.fullmatch(r"[1-9]\d*[KMGT]?", size):
        raise BadValue("it must be a size, as in 500M or 2G.")


VALUE_CHECKS: Mapping[str, Callable[[str], None]] = {
    "flask_apps[].name": check_name,
    "flask_apps[].domains[]": check_domain,
    "flask_apps[].source": check_source,
    "flask_apps[].version": check_version,
    "flask_apps[].wsgi": check_wsgi,
    "flask_apps[].requirements": check_below,
    "flask_apps[].health_path": check_health_path,
    "flask_apps[].migrate": check_text,
    "flask_apps[].max_body": check_max_body,
    "flask_apps[].maintenance.addresses[]": check_network,
    "flask_apps[].cache.paths[]": check_kept_path,
    "flask_apps[].cache.cookies[]": check_cookie,
    "flask_apps[].cache.size": check_max_body,
    "flask_apps[].idempotent[]": check_idempotent_path,
    "flask_app_purge[]": check_purged_path,
    "flask_apps[].shared[]": check_shared_path,
    "flask_apps[].sqlite[]": check_shared_path,
    "flask_apps[].hooks.before_migrate": check_hook,
    "flask_apps[].hooks.before_activate": check_hook,
    "flask_apps[].hooks.after_activate": check_hook,
    "flask_apps[].certificate.key": check_own_file,
    "flask_apps[].certificate.fullchain": check_own_file,
    "balancer_addresses[]": check_address,
    "certificate_acme_directory": check_acme_directory,
    "certificate_acme_email": check_email,
    "certificate_acme_ca_file": check_ca_file,
    "certificate_acme_eab_kid": check_eab_kid,
    "certificate_acme_eab_hmac_key": check_eab_hmac_key,
    "flask_app_break_lock": check_run,
    "flask_app_rolling": check_rolling,
    "flask_app_to": check_release_id,
    "host_ca_certificates[]": check_certificate_file,
    "host_firewall_rules[]": check_firewall_rule,
    "host_journal_max_use": check_journal_size,
    "host_ntp_servers[]": check_domain,
    "host_packages[]": check_package,
    "host_proxy": check_proxy,
    "host_ssh_allow_users[]": check_ssh_user,
    "host_ssh_trusted[]": check_network,
    "host_timezone": check_timezone,
    "nginx_trusted_proxies[]": check_network,
    "host_updates_reboot": check_time_of_day,
}
"""What a text must be, by its option; [] stands for each element of a list."""

RANGES: Mapping[str, tuple[int, int | None, str]] = {
    "balancer_keepalive": (1, None, ""),
    "balancer_router_id": (1, 255, "VRRP has no others"),
    "balancer_weight": (1, None, "a host that shall have no requests is drained"),
    "certificate_internal_days": (90, None, "no host renews it by itself"),
    "certificate_days": (
        31,
        None,
        "a certificate is renewed when 30 days of it are left, so a shorter one would be at each run",
    ),
    "flask_app_keep": (2, None, "with fewer there is no release to go back to"),
    "flask_app_soak": (0, 300, "the lock on the releases isn't renewed meanwhile"),
    "flask_app_lock_limit": (
        60,
        None,
        "a run renews its lock twice a minute, and must not lose it because it was late once",
    ),
    "flask_apps[].harakiri": (1, None, ""),
    "flask_apps[].health_timeout": (1, None, ""),
    "flask_apps[].migrate_timeout": (1, None, ""),
    "flask_apps[].limits.burst": (0, None, ""),
    "flask_apps[].limits.connections": (1, 65535, ""),
    "flask_apps[].limits.requests": (1, None, ""),
    "flask_apps[].maintenance.retry_after": (1, None, ""),
    "flask_apps[].cache.seconds": (1, None, ""),
    "flask_apps[].cache.wait": (10, 60000, ""),
    "flask_apps[].processes": (1, 1024, ""),
    "flask_apps[].threads": (1, 1024, ""),
    "flask_apps[].worker_memory": (64, None, "with less, workers would be replaced all the time"),
    "host_access_undo_seconds": (20, 3600, "a new connection needs time to succeed, and a mistake an end"),
    "host_ssh_rate": (10, 100000, "with less, a run without a kept connection would meet the limit"),
    "nginx_balancer_port": (1024, 65535, ""),
    "nginx_client_timeout": (1, None, ""),
    "nginx_keepalive_timeout": (0, None, ""),
    "nginx_large_header_buffers": (1, None, ""),
    "nginx_worker_connections": (16, 1048576, ""),
    "uwsgi_backlog": (1, 65535, ""),
}
"""Least and largest number of an option, and why where that isn't plain."""

EXAMPLES = {
    "flask_apps[].name": "name: newsboard",
    "flask_apps[].domains": "domains: [news.example.org]",
    "flask_apps[].source": 'source: "{{ playbook_dir }}/../app"',
    "flask_apps[].wsgi": 'wsgi: "newsboard:create_app()"',
    "flask_apps[].environment": 'environment: {PAGE_SIZE: "30"}',
    "flask_apps[].static": "static: {/static/: newsboard/static}",
    "flask_apps[].headers": "headers: {X-Frame-Options: DENY}",
    "flask_apps[].limits": "limits: {requests: 20, burst: 100}",
    "flask_apps[].maintenance": "maintenance: {addresses: [192.0.2.1]}",
    "flask_apps[].cache": "cache: {paths: [/, /story/*], seconds: 1}",
    "flask_apps[].shared": "shared: [uploads, instance/media]",
    "flask_apps[].sqlite": "sqlite: [news.db]",
    "flask_apps[].certificate": (
        'certificate: {key: "{{ inventory_dir }}/../certificates/key.pem", '
        'fullchain: "{{ inventory_dir }}/../certificates/fullchain.pem"}'
    ),
    "flask_apps[].hooks": 'hooks: {after_activate: "{{ inventory_dir }}/../hooks/after_activate.yml"}',
    "flask_apps": "an app as in inventory/example",
    "host_firewall_rules": 'host_firewall_rules: ["tcp dport 9100 ip saddr 192.0.2.1 accept"]',
}
"""How an option is written, for those who left it out or gave it another shape."""


# --- one option after the other


def check_option(report: Report, where: str, key: str, value: object, spec: Spec) -> object:
    """Check a value against its spec, all the way down.

    Args:
        report: Takes the problems.
        where: The value's path, as the operator wrote it.
        key: The same without numbers, as the tables above have it.
        value: The value, evaluated.
        spec: What it should be.

    Returns:
        The value as its type, with the defaults of the keys that aren't given, and UNUSABLE for what isn't right.
    """
    if value is UNUSABLE:
        return UNUSABLE
    kind = str(spec.get("type", "str"))
    try:
        good = converted(value, kind)
    except BadValue as error:
        example = f"For example: {EXAMPLES[key]}" if key in EXAMPLES else ""
        if kind == "list" and isinstance(value, str) and spec.get("elements") in ("str", "path"):
            example = f"Write [{value}]."
            report.add(where, error.text, example, value)
        else:
            # A text in place of a collection may be anything, a secret as well.
            report.add(
                where,
                f"{error.text} {example}".strip(),
                value=NOT_SHOWN if kind in ("dict", "list") or isinstance(value, Mapping | list) else value,
            )
        return UNUSABLE
    if isinstance(good, str) and report.add_changed(where, value):
        return UNUSABLE
    if isinstance(good, list | tuple):
        element = {"type": spec.get("elements", "raw"), "options": spec.get("options"), "choices": spec.get("choices")}
        return [check_option(report, f"{where}[{index}]", f"{key}[]", item, element) for index, item in enumerate(good)]
    if isinstance(good, Mapping):
        options = mapping(spec.get("options"))
        return check_keys(report, where, key, good, options) if options else good
    choices = spec.get("choices")
    if isinstance(choices, list) and good not in choices:
        report.add(
            where,
            f"it must be one of {', '.join(map(str, choices))}.",
            did_you_mean(str(good), map(str, choices)),
            value,
        )
        return UNUSABLE
    if key in RANGES and isinstance(good, int):
        least, largest, reason = RANGES[key]
        if good < least or (largest is not None and good > largest):
            limits = f"at least {least}" if largest is None else f"{least} to {largest}"
            report.add(where, f"it must be {limits}{': ' if reason else ''}{reason}.", value=value)
            return UNUSABLE
    if key in VALUE_CHECKS and isinstance(good, str):
        try:
            VALUE_CHECKS[key](good)
        except BadValue as error:
            report.add(where, error.text, error.detail, value)
            return UNUSABLE
        except OSError as error:
            report.add(where, "it can't be read on this machine.", f"{error.strerror}.", value)
            return UNUSABLE
    return good


def check_keys(
    report: Report, where: str, key: str, value: Mapping[object, object], options: Mapping[str, Spec]
) -> dict[str, object]:
    """Check a mapping with given keys: unknown ones, missing ones, and each value."""
    name = value.get("name")
    if key == "flask_apps[]" and isinstance(name, str) and len(name) <= 40 and not report.is_hidden(f"{where}.name"):
        report.labels[where] = name
    checked: dict[str, object] = {}
    unknown = [str(item) for item in value if item not in options]
    meant = set()
    for item in unknown:
        # The value isn't shown: a misspelt secrets would show its own.
        near = nearest(item, (option for option in options if option not in value))
        near = near or nearest(item, options)
        meant.add(near)
        hint = f"Did you mean {near}?" if near else f"There are: {', '.join(options)}."
        report.add(join(where, item), f"there is no such option. {hint}")
    for option, spec in options.items():
        if option in value:
            checked[option] = check_option(report, f"{where}.{option}", f"{key}.{option}", value[option], spec)
        elif spec.get("required") and option not in meant:
            example = EXAMPLES.get(f"{key}.{option}", "")
            report.add(
                where, f"{option} is missing: {first_sentence(spec)}{' For example: ' if example else ''}{example}"
            )
        elif "default" in spec:
            checked[option] = spec["default"]
    return checked


# --- names of variables


def check_names(report: Report, names: Iterable[str], roles: Mapping[str, Role]) -> set[str]:
    """Find variables that look like an option and aren't one, and would be without effect.

    Returns:
        The options that were probably meant, so that they aren't called missing as well.
    """
    known = {option for role in roles.values() for option in [*role.options, *role.mentioned]}
    app_options = (
        mapping(mapping(roles["flask_app"].options).get("flask_apps")).get("options") if "flask_app" in roles else None
    )
    meant = set()
    for name in sorted(set(names) - known):
        if name.startswith(("_", "ansible_")):
            continue
        near = typo(name, known)
        role = max((role for role in roles if name.startswith(f"{role}_")), key=len, default=None)
        if near is None and role is None:
            continue
        meant.add(near)
        if near is None and role is not None:
            prefix = f"{role}_"
            rest = name.removeprefix(prefix)
            if role == "flask_app" and rest in mapping(app_options):
                report.add(
                    name, f"there is no such option: {rest} belongs to one app. Write it below the app in flask_apps."
                )
                continue
            near = nearest(
                rest, (option.removeprefix(prefix) for option in roles[role].options if option.startswith(prefix))
            )
            near = near and prefix + near
        hint = (
            f"Did you mean {near}?"
            if near
            else f"A variable of your own must not begin with {role}_, so that a misspelt option is found."
        )
        report.add(name, f"there is no such option. {hint}")
    return {name for name in meant if name}


def typo(name: str, known: Iterable[str]) -> str | None:
    """Find the known name that is one or two slips of the pen away, as nginx_adopt for ngnix_adopt."""
    for option in known:
        # The ratio is what keeps short names of other origin out: flask_opts isn't meant as flask_apps.
        if (
            abs(len(option) - len(name)) <= 2
            and difflib.SequenceMatcher(None, name, option).ratio() >= 0.85
            and edits(name, option) <= 2
        ):
            return option
    return None


def edits(one: str, other: str) -> int:
    """Count how many letters to add, drop, replace or swap with their neighbour turn one word into the other."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and b == one[i - 2]:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


# --- what values must be to each other


ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SYSTEMD_SETS = """
    CACHE_DIRECTORY CONFIGURATION_DIRECTORY CREDENTIALS_DIRECTORY INVOCATION_ID JOURNAL_STREAM LISTEN_FDNAMES LISTEN_FDS
    LISTEN_PID LOGS_DIRECTORY MAINPID NOTIFY_SOCKET RUNTIME_DIRECTORY STATE_DIRECTORY SYSTEMD_EXEC_PID WATCHDOG_PID
    WATCHDOG_USEC"""
RESERVED_ENVIRONMENT = {
    "PATH": "the release sets it, so that its own venv comes first",
    "PYTHONHOME": "it would take the interpreter away from the release's venv",
    "VIRTUAL_ENV": "the release has its own",
    **dict.fromkeys(SYSTEMD_SETS.split(), "systemd sets it"),
}


def check_environment(report: Report, where: str, values: object) -> None:
    """Check names and values of an environment."""
    if not isinstance(values, Mapping):
        return
    for index, (name, value) in enumerate(values.items()):
        text = str(name)
        path = join(where, text)
        if not ENVIRONMENT_NAME.fullmatch(text):
            # NAME=value in one is a usual slip, and would show the value.
            path = f"{where}[{index}]" if report.is_hidden(path) else path
            report.add(
                path, "the name must be letters, digits and underscores and not begin with a digit, as in PAGE_SIZE."
            )
            continue
        reason = (
            "uWSGI reads it as an option of its own" if text.startswith("UWSGI_") else RESERVED_ENVIRONMENT.get(text)
        )
        if reason:
            report.add(path, f"this name can't be set: {reason}.")
        if value is UNUSABLE:
            continue
        if value is None:
            report.add(path, 'it has no value. Write "" for an empty one, or leave the line out.')
        elif isinstance(value, bool):
            report.add(
                path,
                "it must be text or a number. YAML makes true of yes and on, and the app would read "
                '"True": put it in quotes.',
                value=value,
            )
        elif not isinstance(value, str | int | float):
            report.add(path, "it must be text or a number; a list or mapping can be given as JSON, in quotes.")
        elif "\0" in str(value):
            report.add(path, "it has a NUL character in it.")
        else:
            report.add_changed(path, value)


def check_app(report: Report, where: str, app: Mapping[str, object]) -> None:
    """Check what in an app belongs together: source and what should be in it, environment and secrets."""
    for name in ("environment", "secrets"):
        check_environment(report, f"{where}.{name}", app.get(name))
    both = set(mapping(app.get("environment"))) & set(mapping(app.get("secrets")))
    for name in sorted(map(str, both)):
        report.add(join(f"{where}.environment", name), "the same name is in secrets. Keep one of them.")
    if isinstance(app.get("domains"), list) and not app["domains"]:
        report.add(
            f"{where}.domains",
            "it is empty, and no one could reach the app.",
            f"For example: {EXAMPLES['flask_apps[].domains']}",
        )
    static = mapping(app.get("static"))
    for prefix, folder in static.items():
        check_static(report, join(f"{where}.static", prefix), str(prefix), folder)
    check_headers(report, f"{where}.headers", app.get("headers"))
    check_cache(report, f"{where}.cache", app)
    check_once(report, f"{where}.idempotent", app.get("idempotent"), {})
    for name in ("shared", "sqlite"):
        check_apart(report, f"{where}.{name}", app.get(name))
    check_unreadable(report, f"{where}.static", static, app.get("shared"))
    if not isinstance(text := app.get("source"), str):
        return
    source = parse_source(text)
    for prefix in static if source.kind == "requirement" else ():
        report.add(
            join(f"{where}.static", prefix),
            "the source is a requirement, and has no folders: each path below it would be a 404. Leave it out, and the "
            "app serves its own files.",
        )
    if source.kind != "git" and isinstance(version := app.get("version"), str) and version != "HEAD":
        report.add(f"{where}.version", "it is for git sources only, and would be without effect.", value=version)
    if source.path is None:
        return
    excluded = [str(item) for item in app["exclude"]] if isinstance(app.get("exclude"), list) else []  # type: ignore[attr-defined]
    if isinstance(file := app.get("requirements"), str):
        check_dependencies(report, f"{where}.requirements", file, source.path, excluded)
    if isinstance(entry := app.get("wsgi"), str):
        path = mapping(app.get("environment")).get("PYTHONPATH", "")
        folders = [source.path, *(source.path / name for name in str(path).split(":") if name and name[0] != "/")]
        check_module(report, f"{where}.wsgi", entry, folders, excluded, str(app.get("requirements", "")))
    for prefix, folder in static.items():
        if isinstance(folder, str) and ".." not in folder.split("/") and not folder.startswith("/"):
            path = join(f"{where}.static", prefix)
            if not (source.path / folder).is_dir():
                report.add(path, "there is no such directory in source.", f"Looked at {source.path / folder}.", folder)
            elif pattern := excluding(folder, excluded):
                report.add(path, f"releases do without it: exclude has {pattern}.", value=folder)
    shared = app.get("shared")
    for index, path in enumerate(shared if isinstance(shared, list) else []):
        if isinstance(path, str) and (hidden := hidden_by(path, source.path, excluded)):
            report.add(
                f"{where}.shared[{index}]",
                "the source has something there, which the link would hide. Exclude it, or take it out of shared.",
                f"It has {hidden}.",
                path,
            )


def check_dependencies(report: Report, where: str, file: str, source: Path, excluded: Sequence[str]) -> None:
    """Check that the app's dependencies are known, and can be installed on a host."""
    if (source / file).is_file():
        for problem in requirement_files.problems(file, partial(released_text, source, excluded)):
            report.add(where, f"{problem}.", value=file)
        return
    names = [path.name for path in source.iterdir() if path.is_file() and not excluding(path.name, excluded)]
    try:
        release_source.check_dependencies(names, file, lambda name: (source / name).read_text(encoding="utf-8"))
    except release_source.SourceError as error:
        report.add(where, f"{error}.", f"Looked in {source}.", file)
        return
    if "pyproject.toml" not in names:
        report.add(
            where,
            "neither this file nor a pyproject.toml is in source, so the app's dependencies aren't known. "
            "Make one, if only an empty one.",
            f"Looked in {source}.",
            file,
        )


def check_unreadable(report: Report, where: str, static: Mapping[str, object], shared: object) -> None:
    """Check that NGINX is to serve nothing that the app writes: it may not read that."""
    paths = [path for path in shared if isinstance(path, str)] if isinstance(shared, list) else []
    for prefix, folder in static.items():
        served = [part for part in str(folder).split("/") if part not in ("", ".")]
        for path in paths:
            parts = path.split("/")
            if all(one == other for one, other in zip(served, parts, strict=False)):
                report.add(
                    join(where, prefix),
                    "a shared folder is in it, or above it, which is the app's alone: NGINX may not read it, and each "
                    "file there would be a 403. Take it out of static, and have the app send the files.",
                    f"The shared folder is {path}.",
                    folder,
                )


def released_text(source: Path, excluded: Sequence[str], name: str) -> str | None:
    """Text of a file of a source directory; None where a release has none."""
    path = source / name
    if excluding(name, excluded) or name.split("/")[0] == ".." or not path.is_file():
        return None
    return path.read_text(errors="replace")


def check_apart(report: Report, where: str, paths: object) -> None:
    """Check that no path is there twice, or below another one: a link can't be below a link."""
    first: dict[str, str] = {}
    for index, path in enumerate(paths if isinstance(paths, list) else []):
        if not isinstance(path, str):
            continue
        place = f"{where}[{index}]"
        if path in first:
            report.add(place, f"{first[path]} is the same. Leave one of them out.", value=path)
        first.setdefault(path, place)
    for path, place in first.items():
        above = next((other for other in first if path.startswith(f"{other}/")), None)
        if above:
            report.add(place, f"it is below {first[above]}, which brings it along. Leave it out.", value=path)


PLACEHOLDERS = {".gitkeep", ".keep", ".gitignore"}
"""Files that keep an empty folder in a repository. release_fetch has them too."""


def hidden_by(shared: str, source: Path, excluded: Sequence[str]) -> str | None:
    """Find something that a release brings at a shared path, or a file where the path needs a folder.

    Empty folders don't count, nor what keeps one in a repository.
    """
    parts = shared.split("/")
    for end in range(1, len(parts) + 1):
        name = "/".join(parts[:end])
        if excluding(name, excluded):
            return None
        path = source / name
        # Above it, a link to a folder is as good as a folder.
        if path.is_file() or (path.is_symlink() and (end == len(parts) or not path.exists())):
            return name
    for folder, folders, files in os.walk(source / shared):
        folders[:] = sorted(name for name in folders if not excluding(name, excluded))
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted([*files, *links]):
            if not excluding(name, excluded) and name not in PLACEHOLDERS:
                return Path(folder, name).relative_to(source).as_posix()
    return None


HEADER_NAME = 100
"""Characters that a header's name may have: more than any that is in use."""
NGINX_WORD = 4000
"""Characters that a value may have in NGINX's configuration, which takes words of 4096 with what we put around it."""


def check_headers(report: Report, where: str, headers: object) -> None:
    """Check headers of answers: names as HTTP has them (RFC 9110, 5.6.2), and values that NGINX takes as they are."""
    seen: dict[str, str] = {}
    given: Mapping[str, object] = mapping(headers)
    for name, value in given.items():
        place = join(where, name)
        if not re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", str(name)):
            # A variable is named after it and the app: with two hyphens in a row, two of them could have one name.
            report.add(
                place, "the name of a header has letters, digits and hyphens alone, with no two hyphens in a row."
            )
        elif len(str(name)) > HEADER_NAME:
            report.add(
                place, f"the name of a header has at most {HEADER_NAME} characters here. This one has {len(str(name))}."
            )
        elif other := seen.get(str(name).lower()):
            report.add(place, f"it is there twice, also as {other}. Keep one of them.")
        seen[str(name).lower()] = str(name)
        if value is UNUSABLE:
            continue
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            report.add(place, 'it must be a text. Write "" to leave the header out.')
        elif not re.fullmatch(r"[\x20-\x23\x25-\x7e]*", str(value)):
            report.add(
                place, "it must be on one line, in ASCII and without a dollar, which NGINX would take for a variable."
            )
        elif (length := len(re.sub(r'(["\\])', r"\\\1", str(value)))) > NGINX_WORD:
            counted = ", with one more for each quote and backslash" if length > len(str(value)) else ""
            report.add(
                place, f"it must have at most {NGINX_WORD} characters, for NGINX's sake. It has {length}{counted}."
            )
        else:
            report.add_changed(place, value)


def check_static(report: Report, where: str, prefix: str, folder: object) -> None:
    """Check one URL prefix and the folder behind it."""
    if not re.fullmatch(r"/([A-Za-z0-9._~-]+/)+", prefix):
        hint = f'Write "/{prefix.strip("/")}/".' if re.fullmatch(r"/?[\w.~-]+(/[\w.~-]+)*/?", prefix) else ""
        report.add(
            where,
            f"a URL prefix must begin and end with a slash, with a name between them, as in /static/. {hint}".strip(),
        )
    if folder is UNUSABLE:
        return
    if not isinstance(folder, str):
        report.add(where, f"it must be a folder below source. For example: {EXAMPLES['flask_apps[].static']}")
        return
    try:
        check_below(folder)
    except BadValue as error:
        report.add(where, error.text, value=folder)


def check_cache(report: Report, where: str, app: Mapping[str, object]) -> None:
    """Check the paths whose pages are kept: each stands once, and is nobody else's."""
    cache = app.get("cache")
    paths = cache.get("paths") if isinstance(cache, Mapping) else None
    cookies = cache.get("cookies") if isinstance(cache, Mapping) else None
    names = [re.escape(name) for name in cookies if isinstance(name, str)] if isinstance(cookies, list) else []
    if (length := len("|".join(names))) > NGINX_WORD:
        report.add(
            f"{where}.cookies",
            f"their names have {length} characters, and at most {NGINX_WORD} go into NGINX's pattern.",
        )
    check_once(report, f"{where}.paths", paths, {f"{prefix}*": "static" for prefix in mapping(app.get("static"))})


def check_once(report: Report, where: str, paths: object, taken: dict[str, str]) -> None:
    """Check that each path stands once in a list, and not in another place that has some as well."""
    option = where.rpartition(".")[2]
    for index, path in enumerate(paths if isinstance(paths, list) else []):
        if not isinstance(path, str):
            continue
        if path in taken:
            text = f"it stands in {taken[path]} as well. Leave one of them out."
            report.add(f"{where}[{index}]", text, value=path)
        taken[path] = option


def check_module(
    report: Report, where: str, entry: str, folders: Sequence[Path], excluded: Sequence[str], requirements: str
) -> None:
    """Check that the module of a WSGI entry is in the source directory, or comes with the requirements.

    Args:
        report: Takes the problem.
        where: Path of the value.
        entry: The WSGI entry.
        folders: Where Python looks for modules: the source directory, and those below it that PYTHONPATH names.
        excluded: Patterns of what a release does without.
        requirements: Name of the requirements file.
    """
    source = folders[0]
    module = wsgi_module(entry)
    path = module.replace(".", "/")
    for folder in folders:
        found = next((item for item in (f"{path}.py", f"{path}/__init__.py") if (folder / item).is_file()), None)
        if found or any((folder / path).parent.glob(f"{Path(path).name}.*.so")):
            if pattern := excluding((folder / (found or path)).relative_to(source).as_posix(), excluded):
                report.add(where, f"releases do without this module: exclude has {pattern}.", value=entry)
            return
    top = module.split(".")[0]
    if not (source / top).is_dir() and installs(source / requirements, top):
        return
    folder = (source / path).parent
    known = sorted(modules_in(folder)) if folder.is_dir() else []
    parent = module.rpartition(".")[0]
    near = nearest(module.rsplit(".", 1)[-1], known) or (known[0] if len(known) == 1 else None)
    if near:
        hint = f'Did you mean "{parent + "." if parent else ""}{near}:{entry.partition(":")[2]}"?'
    elif (source / "src" / f"{path}.py").is_file() or (source / "src" / path / "__init__.py").is_file():
        hint = "It is in src/, and only the top of source is on Python's path. Set environment: {PYTHONPATH: src}."
    else:
        hint = f"Looked in {source}" + (
            f", which has {', '.join(known[:8])}." if known else ", which has no module at all."
        )
    report.add(
        where,
        f"there is no {path}.py and no {path}/__init__.py in source."
        if not report.is_hidden(where)
        else "source has no such module.",
        hint,
        entry,
    )


def modules_in(folder: Path) -> Iterator[str]:
    """Yield the names of the modules and packages in a folder."""
    for item in folder.iterdir():
        name = item.stem if item.suffix == ".py" else item.name
        if (
            name.isidentifier()
            and name not in ("__init__", "conftest", "setup")
            and (item.suffix == ".py" or (item / "__init__.py").is_file())
        ):
            yield name


def installs(requirements: Path, module: str) -> bool:
    """Tell whether a requirements file names a package like the module, or a local one, whose modules can't be told."""
    if not requirements.is_file():
        return False
    lines = [line.strip() for line in requirements.read_text(errors="replace").splitlines()]
    names = {
        re.sub(r"[-_.]+", "_", match[0]).lower() for line in lines if (match := re.match(r"[A-Za-z0-9][\w.-]*", line))
    }
    return module.lower() in names or any(line.startswith((".", "-e ", "-r ")) for line in lines)


def excluding(path: str, patterns: Iterable[str]) -> str | None:
    """Return the pattern that leaves a path out, if any."""
    return next(
        (pattern for pattern in patterns for part in path.strip("/").split("/") if fnmatch.fnmatchcase(part, pattern)),
        None,
    )


def check_apps(report: Report, apps: Sequence[object]) -> None:
    """Check each app, and what no two of them may share."""
    names: dict[str, str] = {}
    domains: dict[str, tuple[str, object]] = {}
    for index, app in enumerate(apps):
        where = f"flask_apps[{index}]"
        if not isinstance(app, Mapping):
            continue
        if isinstance(name := app.get("name"), str):
            if name in names:
                report.add(f"{where}.name", f"{names[name]} has the same name. Each app needs its own.", value=name)
            names.setdefault(name, where)
        for number, domain in enumerate(app["domains"] if isinstance(app.get("domains"), list) else []):
            if isinstance(domain, str):
                place = f"{where}.domains[{number}]"
                first, other = domains.setdefault(same_domain(domain), (place, app.get("name")))
                if first != place:
                    of = f" of {other}" if isinstance(other, str) and other != name else ""
                    report.add(
                        place, f"the same domain is {first}{of}. One app answers to a domain, once.", value=domain
                    )
        try:
            check_app(report, where, app)
        except OSError as error:
            report.add(f"{where}.source", "something in it can't be read on this machine.", str(error))


def check_own_certificates(
    report: Report, options: Mapping[str, object], read: Callable[[str], str], now: datetime | None = None
) -> None:
    """Check the pairs that operators bring, with the authorities that this machine and the hosts trust.

    Args:
        report: Takes the problems.
        options: The host's options.
        read: Reads a file, decrypted.
        now: The time at which they have to be valid.
    """
    apps = options.get("flask_apps")
    own = [
        (f"flask_apps[{index}].certificate", app["certificate"], app.get("domains"))
        for index, app in enumerate(apps if isinstance(apps, list) else [])
        if isinstance(app, Mapping) and isinstance(app.get("certificate"), Mapping) and app["certificate"]
    ]
    if not own:
        return
    more = options.get("host_ca_certificates")
    roots = list(own_certificate.trusted_here())
    for name in more if isinstance(more, list) else []:
        if isinstance(name, str):
            roots += own_certificate.read_certificates(read(name))
    for where, files, domains in own:
        texts = {}
        if missing := next(
            (option for option in (own_certificate.KEY, own_certificate.CHAIN) if option not in files), ""
        ):
            report.add(where, f"{missing} is missing. For example: {EXAMPLES['flask_apps[].certificate']}")
        for option in (own_certificate.KEY, own_certificate.CHAIN):
            if not isinstance(name := files.get(option), str):
                continue
            try:
                texts[option] = read(name)
            except CannotEvaluate as error:
                report.add(f"{where}.{option}", "it can't be read.", str(error), name)
            except OSError as error:
                report.add(f"{where}.{option}", "it can't be read on this machine.", f"{error.strerror}.", name)
        if len(texts) == 2:
            known = [domain for domain in domains if isinstance(domain, str)] if isinstance(domains, list) else []
            for unfit in own_certificate.problems(texts["key"], texts["fullchain"], known, roots, now):
                report.add(f"{where}.{unfit.option}", unfit.text, value=files[unfit.option])


BUFFER_SIZE = 64
"""uWSGI's buffer-size in KiB, its largest. A request's header must fit into it, with the variables that NGINX adds."""
DEFAULT_SOMAXCONN = 4096
"""The kernel's own since Linux 5.4, for those who replace host_sysctl and leave it out."""


def check_relations(report: Report, options: Mapping[str, object]) -> None:
    """Check what options of different roles must be to each other; options that aren't given have their defaults."""
    backlog = options.get("uwsgi_backlog")
    sysctl = options.get("host_sysctl")
    if isinstance(backlog, int) and isinstance(sysctl, Mapping):
        somaxconn = sysctl.get("net.core.somaxconn", DEFAULT_SOMAXCONN)
        if somaxconn is not UNUSABLE and not re.fullmatch(r"\d+", str(somaxconn)):
            report.add('host_sysctl["net.core.somaxconn"]', "it must be a whole number.", value=somaxconn)
        elif somaxconn is not UNUSABLE and backlog > int(str(somaxconn)):
            report.add(
                "uwsgi_backlog",
                f"it must be at most net.core.somaxconn of host_sysctl, which is {somaxconn}: the kernel would cut it. "
                "Lower it, or raise the other.",
                value=backlog,
            )
    buffers = options.get("nginx_large_header_buffers")
    if isinstance(buffers, int) and buffers * 8 + 4 > BUFFER_SIZE:
        largest = (BUFFER_SIZE - 4) // 8
        report.add(
            "nginx_large_header_buffers",
            f"it must be at most {largest}: so many buffers of 8 KiB, and 4 KiB of NGINX's own, fit in uWSGI's buffer "
            f"of {BUFFER_SIZE} KiB.",
            value=buffers,
        )
    binding = ("certificate_acme_eab_kid", "certificate_acme_eab_hmac_key")
    given = [name for name in binding if options.get(name)]
    if len(given) == 1:
        other = next(name for name in binding if name not in given)
        text = f"it is one half of an External Account Binding. Set {other} as well, or neither."
        report.add(given[0], text, value=options[given[0]])


# --- a host, and all of them


def check_host(roles: Mapping[str, Role], evaluator: Evaluator) -> tuple[Report, dict[str, object]]:
    """Find all problems of one host.

    Args:
        roles: The roles whose options are checked.
        evaluator: The host's variables.

    Returns:
        The report, and the options as they will be, with their defaults.
    """
    report = Report()
    meant = check_names(report, evaluator.variables, roles)
    options: dict[str, object] = {}
    for role in roles.values():
        for option, spec in role.options.items():
            if option in evaluator.variables:
                value = evaluator.resolve(option, evaluator.variables[option], report)
                options[option] = check_option(report, option, option, value, spec)
            elif option in role.required and option not in meant:
                report.add(option, f"it isn't set: {first_sentence(spec)} For example: {EXAMPLES.get(option, '')}")
            elif "default" in spec:
                options[option] = spec["default"]
    apps = options.get("flask_apps")
    if isinstance(apps, list):
        check_apps(report, apps)
    check_own_certificates(report, options, evaluator.read)
    check_environment(report, "flask_app_build_environment", options.get("flask_app_build_environment"))
    check_headers(report, "nginx_headers", options.get("nginx_headers"))
    check_relations(report, options)
    return report, options


def check_only(reports: Mapping[str, Report], options: Mapping[str, Mapping[str, object]]) -> None:
    """Check that the app to release is one, and its version; an app of one host needn't be on the others."""
    names: set[str] = set()
    for values in options.values():
        apps = values.get("flask_apps")
        if not isinstance(apps, list) or any(
            not isinstance(app, Mapping) or app.get("name") is UNUSABLE for app in apps
        ):
            return
        names.update(str(app["name"]) for app in apps if "name" in app)
    for host, values in options.items():
        only = values.get("flask_app_only")
        if isinstance(only, str) and only and only not in names:
            hint = did_you_mean(only, names) or f"There are: {', '.join(sorted(names)) or 'none'}."
            reports[host].add(
                "flask_app_only", "flask_apps has no app of this name; it is what -e app=… sets.", hint, only
            )
        check_release_version(reports[host], values, names)


def check_release_version(report: Report, options: Mapping[str, object], names: Iterable[str]) -> None:
    """Check the version that is asked for in place of the inventory's.

    Args:
        report: Takes the problems.
        options: The host's options.
        names: The apps of all hosts.
    """
    where = "flask_app_version"
    version = options.get(where)
    if not isinstance(version, str) or not version:
        return
    known = sorted(names)
    # Without a name each app is released, and no version is one of two apps.
    only = options.get("flask_app_only") or (known[0] if len(known) == 1 else "")
    if only is UNUSABLE:
        return
    if not only:
        report.add(
            where,
            "it is for one app, which -e app=… names. It is what -e version=… sets, or a variable named version.",
            f"There are: {', '.join(known) or 'none'}.",
            version,
        )
        return
    apps = options.get("flask_apps")
    for app in apps if isinstance(apps, list) else []:
        if not isinstance(app, Mapping) or app.get("name") != only or not isinstance(text := app.get("source"), str):
            continue
        kind = parse_source(text).kind
        try:
            if kind == "directory":
                raise BadValue(
                    f"the source of {only} is a directory, which has no versions: what is in it is what is released. "
                    "Leave -e version=… out, or name a repository or a requirement as its source."
                )
            if kind == "git":
                check_version(version)
            else:
                check_package_version(version)
        except BadValue as error:
            report.add(where, error.text, error.detail, version)


def check_package_version(version: str) -> None:
    """Check one version of a package, as PEP 440 has it."""
    try:
        Version(version)
    except InvalidVersion:
        bare = version.rpartition("==")[2]
        raise BadValue(
            "the source is a requirement, and this is no version of a package, as in 1.2 or 2.0rc1.",
            f'Write "{bare}".' if bare != version else "",
        ) from None
    if re.search(r"\s", version):
        raise BadValue("it must be a version without blanks.")


def empty_group(group: str, groups: Mapping[str, Sequence[str]], inventory: Iterable[str]) -> str | None:
    """Say that a group has no hosts: Ansible itself would do nothing and call that a success."""
    if groups.get(group):
        return None
    others = (name for name, hosts in groups.items() if hosts and name not in ("all", "ungrouped"))
    near = nearest(group, others, 0.7)
    return (
        f"The group {group} has no hosts in this inventory ({', '.join(inventory) or 'none was given'}), so there is "
        "nothing to do.\nAdd at least one host to it, as in inventory/example, or name another inventory with -i."
        + (f"\nIs the group {near} meant to be {group}?" if near else "")
    )
