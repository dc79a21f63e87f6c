"""The environment variables of Mailpit, as options of ``aiosmtpd inbox``."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"", "0", "false", "no", "off"})

_NOT_GIVEN = object()


class Alias(NamedTuple):
    """An option for a variable, and how its words are made; no words change nothing."""

    option: str
    dest: str
    words: Callable[[str], list[str]]
    secret: bool = False


class _Wrong(ValueError):
    """The value of a variable cannot be understood."""


def _one(option: str) -> Callable[[str], list[str]]:
    return lambda value: [f"{option}={value}"]


def _each(option: str, separator: str | None = None) -> Callable[[str], list[str]]:
    def words(value: str) -> list[str]:
        parts = (part.strip() for part in value.split(separator))
        return [f"{option}={part}" for part in parts if part]

    return words


def _flag(option: str) -> Callable[[str], list[str]]:
    return lambda value: [option] if _is_true(value) else []


def _is_true(value: str) -> bool:
    word = value.strip().lower()
    if word not in TRUE | FALSE:
        raise _Wrong("write true or false")
    return word in TRUE


def _megabytes(value: str) -> list[str]:
    if not re.fullmatch(r"[0-9]{1,6}", value.strip()):
        raise _Wrong("write a number of megabytes")
    number = int(value)
    return [f"--size={number}M" if number else "--size=0"]


def _recipients(value: str) -> list[str]:
    return [f"--max-recipients={value.strip()}"]


def _users(value: str) -> list[str]:
    """Mailpit refuses mail without a login if it has users."""
    users = _each("--auth")(value)
    return [*users, "--require-auth"] if users else []


def _users_file(value: str) -> list[str]:
    return [f"--auth-file={value}", "--require-auth"]


def _certificate(value: str) -> list[str]:
    """Read a file name, or ``sans:NAME,NAME``, which asks for a certificate made at the start."""
    return ["--tls=self-signed"] if value.startswith("sans:") else [f"--tlscert={value}"]


def _key(value: str) -> list[str]:
    return [] if value.startswith("sans:") else [f"--tlskey={value}"]


def _no_tags(value: str) -> list[str]:
    kinds = {"plus-addresses": "addresses", "x-tags": "header"}
    try:
        return [f"--no-tags={kinds[part.strip().lower()]}" for part in value.split(",")]
    except KeyError:
        raise _Wrong(f"write {' or '.join(kinds)}") from None


def _tags(value: str) -> list[str]:
    """Read filters such as ``Shop=to:@shop.test "Two words,Other=subject:hi"``."""
    words = []
    for part in re.findall(r'(?:[^\s"]|"[^"]*(?:"|\Z))+', value):
        text = part[1:-1] if part[0] == part[-1] == '"' and part.count('"') == 2 else part
        names, equals, query = text.partition("=")
        if not equals:
            raise _Wrong("write TAG=QUERY")
        for name in names.split(","):
            clean = name.strip(' "')
            words.append(f"--tag={clean}={query}")
    return words


def _chaos(value: str) -> list[str]:
    """Read triggers such as ``Sender:451:5,Authentication:535:10``: stage, reply, percent."""
    stages = {"sender": "mail", "recipient": "rcpt", "authentication": "auth"}
    words = []
    for trigger in value.split(","):
        found = re.fullmatch(r"\s*(\w+):([45][0-9]{2}):([0-9]{1,3})\s*", trigger)
        if not found or (stage := stages.get(found[1].lower())) is None or int(found[3]) > 100:
            raise _Wrong("write Sender:451:5, with Recipient or Authentication for others")
        if int(found[3]):
            name = found[1].lower()
            words.append(f"--fault={stage}: {found[2]} Chaos {name} error {int(found[3])}%")
    return words


ALIASES: dict[str, Alias] = {
    "MP_UI_BIND_ADDR": Alias("--web", "web", _one("--web")),
    "MP_WEBROOT": Alias("--web-root", "web_root", _one("--web-root")),
    "MP_UI_AUTH": Alias("--web-auth", "web_auth", _each("--web-auth"), secret=True),
    "MP_UI_AUTH_FILE": Alias("--web-auth-file", "web_auth_file", _one("--web-auth-file")),
    "MP_API_CORS": Alias("--allow-origin", "allow_origin", _each("--allow-origin", ",")),
    "MP_ALLOWED_HOSTS": Alias("--allow-host", "allow_host", _each("--allow-host", ",")),
    "MP_LABEL": Alias("--label", "label", _one("--label")),
    "MP_SMTP_BIND_ADDR": Alias("-l", "listen", _one("--listen")),
    "MP_SMTP_AUTH": Alias("--auth", "auth", _users, secret=True),
    "MP_SMTP_AUTH_FILE": Alias("--auth-file", "auth_file", _users_file),
    "MP_SMTP_AUTH_ACCEPT_ANY": Alias("--auth-any", "auth_any", _flag("--auth-any")),
    "MP_SMTP_TLS_CERT": Alias("--tlscert", "tlscert", _certificate),
    "MP_SMTP_TLS_KEY": Alias("--tlskey", "tlskey", _key),
    "MP_SMTP_REQUIRE_STARTTLS": Alias("--require-tls", "requiretls", _flag("--require-tls")),
    "MP_SMTP_MAX_RECIPIENTS": Alias("--max-recipients", "max_recipients", _recipients),
    "MP_SMTP_ALLOWED_RECIPIENTS": Alias(
        "--allow-recipients", "allow_recipients", _one("--allow-recipients")
    ),
    "MP_MAX_MESSAGE_SIZE": Alias("--size", "size", _megabytes),
    "MP_DATABASE": Alias("--store", "store", _one("--store")),
    "MP_IGNORE_DUPLICATE_IDS": Alias(
        "--ignore-duplicates", "ignore_duplicates", _flag("--ignore-duplicates")
    ),
    "MP_CHAOS_TRIGGERS": Alias("--fault", "fault", _chaos),
    "MP_ENABLE_PROMETHEUS": Alias("--metrics", "metrics", _flag("--metrics")),
    "MP_TAG": Alias("--tag", "tag", _tags),
    "MP_TAGS_DISABLE": Alias("--no-tags", "no_tags", _no_tags),
    "MP_WEBHOOK_URL": Alias("--webhook", "webhook", _one("--webhook"), secret=True),
    "MP_WEBHOOK_LIMIT": Alias("--webhook-limit", "webhook_limit", _one("--webhook-limit")),
    "MP_QUIET": Alias("-q", "quiet", _flag("--quiet")),
    "MP_VERBOSE": Alias("-d", "debug", _flag("--debug")),
}
"""Variables that are options, by name."""

AS_IT_IS = {
    "MP_SMTP_AUTH_ALLOW_INSECURE": "passwords without TLS are always accepted",
    "MP_SMTP_DISABLE_RDNS": "names of clients are never looked up",
    "MP_ENABLE_CHAOS": "faults can always be set",
    "MP_DISABLE_VERSION_CHECK": "no other version is ever looked up",
}
"""Variables that ask for something that is always so here."""

PAIRS = {
    "MP_KEEP": ("MP_MAX_MESSAGES", "MP_MAX_AGE"),
    "MP_SMTPS": ("MP_SMTP_REQUIRE_TLS",),
    "MP_UI_TLS": ("MP_UI_TLS_CERT", "MP_UI_TLS_KEY"),
    "MP_RELAY": tuple(
        f"MP_SMTP_RELAY_{name}"
        for name in (
            *("HOST", "PORT", "STARTTLS", "TLS", "ALLOW_INSECURE"),
            *("AUTH", "USERNAME", "PASSWORD", "SECRET"),
            *("ALLOWED_RECIPIENTS", "BLOCKED_RECIPIENTS"),
        )
    ),
}
"""Groups of variables that are one option."""


OPTIONS = {"--smtp": "MP_SMTP_BIND_ADDR", "--max": "MP_MAX_MESSAGES", "-m": "MP_MAX_MESSAGES"}
"""Options of Mailpit that are called otherwise than their variables."""


def option_for(name: str) -> str | None:
    """Return our option for one of Mailpit's command line, None if we have none."""
    if name == "--smtp-require-tls":
        return "-l smtps://PLACE"
    variable = OPTIONS.get(name, "MP_" + name.strip("-").replace("-", "_").upper())
    for pair, names in PAIRS.items():
        if variable in names:
            return "--" + pair.removeprefix("MP_").lower().replace("ui_", "web-")
    return ALIASES[variable].option if variable in ALIASES else None


def words_of(
    parser: ArgumentParser, args: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return the words of a command line that variables stand for, and a line for each variable.

    A variable for an option that is among *args* is left out. Exits with code 2 for a value that
    cannot be understood.
    """
    reading = _Reading(parser, args, environment)
    reading.add_all()
    return reading.words, reading.notes


class _Reading:
    """Reads all variables; :attr:`words` and :attr:`notes` are what :func:`words_of` returns."""

    def __init__(
        self, parser: ArgumentParser, args: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._parser = parser
        self._environment = environment
        self._given = _given(parser, args)
        self.words: list[str] = []
        self.notes: list[str] = []

    def add_all(self) -> None:
        """Add the words and the notes of all variables."""
        for name in sorted(self._environment):
            if name.startswith("MP_") and not any(name in pair for pair in PAIRS.values()):
                self._add_one(name, self._environment[name])
        self._add_smtps()
        self._add_keep()
        self._add_web_tls()
        self._add_relay()

    def _add_one(self, name: str, value: str) -> None:
        alias = ALIASES.get(name)
        if alias is None:
            why = AS_IT_IS.get(name, "the inbox has no such option, it is ignored")
            self.notes.append(f"{name}: {why}")
        elif not self._is_ignored(name, alias.dest, alias.option):
            try:
                new = alias.words(value) if value else []
            except _Wrong as error:
                self._parser.error(f"{name}: {error}")
            self.words += new
            self.notes.append(f"{name}: {_note(alias, new)}")

    def _is_ignored(self, names: str, dest: str, option: str) -> bool:
        """Return True, after a note, if the command line has the option of these variables."""
        if dest in self._given:
            self.notes.append(f"{names}: ignored, because of {option}")
            return True
        return False

    def _take(self, names: str, *words: str) -> None:
        self.words += words
        self.notes.append(f"{names}: taken as {' '.join(words)}")

    def _add_smtps(self) -> None:
        """Let the place of SMTP begin with TLS."""
        name = "MP_SMTP_REQUIRE_TLS"
        try:
            is_wanted = _is_true(self._environment.get(name, ""))
        except _Wrong as error:
            self._parser.error(f"{name}: {error}")
        if is_wanted and not self._is_ignored(name, "listen", "-l"):
            # The variable for the place has its word before.
            self.words = [word for word in self.words if not word.startswith("--listen=")]
            place = self._environment.get("MP_SMTP_BIND_ADDR", "")
            self._take(name, f"--listen=smtps://{place}")

    def _add_keep(self) -> None:
        """Add ``--keep`` for the number and the age of messages; 0 means any."""
        names = [name for name in PAIRS["MP_KEEP"] if self._environment.get(name)]
        limits = []
        for name in names:
            value = self._environment[name].strip()
            if not re.fullmatch(r"[0-9]{1,9}" + ("[hd]?" if name == "MP_MAX_AGE" else ""), value):
                self._parser.error(f"{name}: write a number{' of hours or days' * ('AGE' in name)}")
            if value.strip("hd").strip("0"):
                limits.append(value)
        if names and not self._is_ignored(" and ".join(names), "keep", "--keep"):
            self._take(" and ".join(names), f"--keep={','.join(limits) or 'all'}")

    def _add_web_tls(self) -> None:
        files = [self._environment.get(name, "") for name in PAIRS["MP_UI_TLS"]]
        if not any(files):
            return
        names = " and ".join(PAIRS["MP_UI_TLS"])
        if any(file.startswith("sans:") for file in files):
            self._parser.error(f"{names}: the page needs a certificate in a file")
        if not all(files):
            self._parser.error(f"{names} need each other: set both")
        if not self._is_ignored(names, "web_tls", "--web-tls"):
            self._take(names, "--web-tls", *files)

    def _add_relay(self) -> None:
        """Add ``--relay`` and the addresses for it; without a list, Mailpit allows all."""
        name, get = "MP_SMTP_RELAY_HOST", self._environment.get
        host = get(name, "").strip()
        if not host or self._is_ignored(name, "relay", "--relay"):
            return
        try:
            self.words.append(f"--relay={_relay_url(host, self._environment)}")
        except _Wrong as error:
            self._parser.error(str(error))
        # The URL may have a password.
        self.notes.append(f"{name}: taken as --relay")
        allowed = get("MP_SMTP_RELAY_ALLOWED_RECIPIENTS") or "."
        blocked = get("MP_SMTP_RELAY_BLOCKED_RECIPIENTS")
        for dest, value in (("relay_allow", allowed), ("relay_block", blocked)):
            if value and dest not in self._given:
                self.words.append(f"--{dest.replace('_', '-')}={value}")
                self.notes.append(f"{name}: with {self.words[-1]}")


def _note(alias: Alias, words: list[str]) -> str:
    if not words:
        return f"changes nothing, {alias.option} is not set"
    if alias.secret:
        words = [*dict.fromkeys(word.partition("=")[0] for word in words)]
    return f"taken as {' '.join(words)}"


def _given(parser: ArgumentParser, args: Sequence[str]) -> set[str]:
    """Return the names of the options that a command line has."""
    defaults = vars(parser.parse_args([]))
    known = {name: value if value is None else _NOT_GIVEN for name, value in defaults.items()}
    # Counting needs a number.
    known["debug"] = 0
    found = vars(parser.parse_args(args, Namespace(**known)))
    return {name for name, value in found.items() if value is not known[name]}


def _relay_url(host: str, environment: Mapping[str, str]) -> str:
    def get(name: str) -> str:
        return environment.get(f"MP_SMTP_RELAY_{name}", "").strip()

    def flag(name: str) -> bool:
        try:
            return _is_true(get(name))
        except _Wrong as error:
            raise _Wrong(f"MP_SMTP_RELAY_{name}: {error}") from None

    scheme = "smtps" if flag("TLS") else "smtp+starttls" if flag("STARTTLS") else "smtp"
    how = get("AUTH").lower() or "none"
    secret = get("SECRET") if how == "cram-md5" else get("PASSWORD")
    login = ""
    if how in ("plain", "login", "cram-md5"):
        login = f"{quote(get('USERNAME'), safe='')}:{quote(secret, safe='')}@"
    elif how != "none":
        raise _Wrong("MP_SMTP_RELAY_AUTH: write none, plain, login or cram-md5")
    place = f"[{host}]" if ":" in host and not host.startswith("[") else host
    verify = "#verify=no" if flag("ALLOW_INSECURE") and scheme != "smtp" else ""
    return f"{scheme}://{login}{place}:{get('PORT') or 25}{verify}"
