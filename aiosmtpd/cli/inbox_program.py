"""The program of ``aiosmtpd inbox``: SMTP server, store, page and API in one event loop."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from aiosmtpd._version import __version__
from aiosmtpd.cli.banner import is_local, sending_command, why_not_listening
from aiosmtpd.cli.checks import check_auth, complete, read_users
from aiosmtpd.cli.inbox import DEFAULT_PORT, WEB_PORT
from aiosmtpd.cli.program import Program, set_up_logging
from aiosmtpd.inbox import temporary
from aiosmtpd.inbox.intake import Intake
from aiosmtpd.inbox.services import Services, WebOptions
from aiosmtpd.inbox.store import Store, StoreError, Tagging, parse_keep
from aiosmtpd.inbox.web import Web
from aiosmtpd.listen.addresses import Address, Listen, parse_listen, reachable, spell
from aiosmtpd.mail.terminal import safe_line
from aiosmtpd.observers.faults import Faults
from aiosmtpd.process.activation import write_ready_file
from aiosmtpd.process.exit import exit_despite_threads, flush_standard_streams
from aiosmtpd.process.failure import Failure

if TYPE_CHECKING:
    from aiosmtpd.inbox.relay import Relay
    from aiosmtpd.inbox.webhook import Webhook

PATIENCE = 0.5
"""Seconds that running transactions have at the end."""

SWITCH = 0.001
"""Seconds after which a thread that reads a large message lets the others run; Python has 0.005."""

PUBLIC = (
    "Other machines can reach {where}, and could read all mail: add --web-auth USER:PASSWORD or "
    "--web-public"
)

OLD_DEFAULT = "; aiosmtpd without a command uses port 8025, too"

HASHED = (
    *("$2a$", "$2b$", "$2y$", "$apr1$", "$1$", "$5$", "$6$", "$y$", "$argon2", "{SHA}", "{SSHA}"),
)
"""Beginnings of passwords in files of Apache, which would be taken as they are."""

HASH = (
    "{where}: the password of {user} is a hash, and the inbox compares plain texts: write "
    "USER:PASSWORD, best in a file that only you can read"
)

CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
CONTAINERS = ("docker", "kubepods", "containerd", "libpod", "lxc")


def run(parser: ArgumentParser, settings: Namespace) -> int:
    """Serve until a signal arrives; return the exit code."""
    complete_inbox(parser, settings)
    set_up_logging(settings)
    threads = set(threading.enumerate())
    try:
        program = InboxProgram(settings)
        sys.setswitchinterval(SWITCH)
        program.run()
    except Failure as failure:
        parser.error(safe_line(str(failure)))
    flush_standard_streams()
    exit_despite_threads(threads, program.code)
    return program.code


def complete_inbox(parser: ArgumentParser, settings: Namespace) -> None:
    """Add what follows from the options; exit with a usage error if they are wrong."""
    if any(text.lower().startswith("smtps://") for text in settings.listen or ()):
        # One certificate is for both kinds of TLS.
        settings.smtpscert, settings.smtpskey = settings.tlscert, settings.tlskey
        if not (settings.tlscert or settings.tls):
            parser.error("smtps:// needs --tlscert and --tlskey, or --tls self-signed")
    complete(parser, settings)
    secure = bool(settings.smtpscert)
    settings.places = [_with_port(place, secure) for place in settings.places]
    check_auth(parser, settings)
    if settings.requiretls and not (settings.tlscert or settings.tls):
        parser.error("--require-tls needs a certificate: add --tlscert and --tlskey, or --tls")
    try:
        settings.web_place = parse_listen(settings.web)
    except ValueError as error:
        parser.error(str(error))
    place = settings.web_place
    if place.scheme or place.path or place.fd is not None:
        parser.error(f"the page is served at a HOST:PORT, not at {settings.web}")
    pairs = _users_of(parser, settings, "web_auth")
    _users_of(parser, settings, "auth")
    settings.web_users = dict(pairs) or None


def _users_of(parser: ArgumentParser, settings: Namespace, dest: str) -> list[tuple[str, str]]:
    """Return the users of an option and of its file; exits if a password is a hash."""
    given, file = getattr(settings, dest) or [], getattr(settings, f"{dest}_file")
    in_file = read_users(parser, file) if file else []
    option = "--" + dest.replace("_", "-")
    for where, pairs in ((option, given), (f"Users file {file}", in_file)):
        for user, password in pairs:
            if password.startswith(HASHED):
                parser.error(HASH.format(where=where, user=user))
    return [*given, *in_file]


def _with_port(place: Listen, secure: bool) -> Listen:
    """Return a place of SMTP with its port and, if TLS begins there by name only, its scheme."""
    if place.path is None and place.fd is None and place.port is None:
        place = evolve(place, port=DEFAULT_PORT)
    return evolve(place, scheme=place.scheme or "smtp") if secure else place


def in_container() -> bool:
    """Return True if this process is in a container: others reach it by published ports only."""
    if any(os.path.exists(path) for path in CONTAINER_FILES):
        return True
    with suppress(OSError, ValueError):
        text = Path("/proc/1/cgroup").read_text(encoding="utf-8")
        return any(name in text for name in CONTAINERS)
    return False


class Choosy(Intake):
    """Refuses recipients in whose address a regular expression does not match."""

    def __init__(self, store: Store, allowed: str) -> None:
        super().__init__(store)
        self._allowed = re.compile(allowed, re.IGNORECASE)

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """Add an address that is allowed."""
        if self._allowed.search(address) is None:
            return "550 5.1.1 --allow-recipients does not allow this address"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"


class InboxProgram(Program):
    """Binds, serves and ends the inbox of one command line."""

    def __init__(self, settings: Namespace) -> None:
        self._store = Store(
            Path(settings.store) if settings.store else None,
            keep=parse_keep(settings.keep) if settings.keep else None,
            durable=settings.durable,
            tagging=_tagging_of(settings),
            ignore_duplicates=settings.ignore_duplicates,
        )
        allowed = settings.allow_recipients
        self._intake = Choosy(self._store, allowed) if allowed else Intake(self._store)
        settings.handler = self._intake
        self._faults = Faults(settings.fault or ())
        self._faults.on_strike = lambda server, fault: self._intake.fault(server, str(fault))
        super().__init__(settings)
        self._server.shutdown_timeout = PATIENCE
        context = self._load(*settings.web_tls) if settings.web_tls else None
        self._relay = _relay_of(settings)
        self._services = Services(self._store, self._web_options(), self._faults, relay=self._relay)
        self._web = Web(self._services, settings.web_place, ssl_context=context)
        self._web_end: asyncio.Task[None] | None = None
        self._mirror: Any = None
        self._webhook = _webhook_of(settings)

    def _web_options(self) -> WebOptions:
        settings = self._settings
        bound = settings.web_place.host
        return WebOptions(
            root=settings.web_root,
            users=settings.web_users,
            hosts=[*(settings.allow_host or ()), *([bound] if bound else ())],
            origins=settings.allow_origin or (),
            trusted_proxies=settings.trusted_proxy or (),
            delete_all=settings.delete_all,
            remote_images=settings.remote_images,
            link_check=settings.link_check,
            metrics=settings.metrics,
            max_size=settings.size,
            label=settings.label,
        )

    def _make_observers(self) -> list[Any]:
        # The faults first, so that the intake hears of a refusal after the fault that made it.
        shown = super()._make_observers() if self._settings.show_dialogue else []
        others = [one for one in shown if not isinstance(one, Faults)]
        return [self._faults, self._intake, *others]

    async def _start(self, identity: Any) -> None:
        web = self._web
        try:
            await self._server.bind()
            try:
                await web.bind()
            except OSError as error:
                raise Failure(_why_no_page(error)) from error
            self._refuse_public(web.addresses)
            await asyncio.to_thread(self._store.open)
            self._open_mirror()
            await self._open_relay()
            if self._webhook is not None:
                self._webhook.start(self._store)
            self._services.smtp.update(self._described())
            await web.start()
            await self._server.start()
            if not self._settings.store:
                # The start need not wait for that.
                threading.Thread(target=temporary.remove_left, daemon=True).start()
        except OSError as error:
            raise Failure(why_not_listening(error)) from error
        except StoreError as error:
            raise Failure(str(error)) from error

    def _refuse_public(self, addresses: list[Address]) -> None:
        settings = self._settings
        public = [address for address in addresses if not is_local(address)]
        if not public or settings.web_users or settings.web_public:
            return
        text = PUBLIC.format(where=spell(public[0]))
        if not in_container():
            raise Failure(text)
        self._say(f"{text} (only a warning, because this is a container)")

    def _open_mirror(self) -> None:
        if self._settings.maildir:
            from aiosmtpd.cli.mirror import Mirror

            try:
                self._mirror = Mirror(self._store, self._settings.maildir)
            except OSError as error:
                where, why = self._settings.maildir, error.strerror or error
                raise Failure(f"Cannot use the Maildir {where}: {why}") from error

    async def _open_relay(self) -> None:
        if self._relay is not None:
            from aiosmtpd.delivery.item import Misconfigured

            try:
                await self._relay.open()
            except Misconfigured as error:
                raise Failure(str(error)) from error

    def _described(self) -> dict[str, Any]:
        """Return the settings of the SMTP server that the API shows."""
        settings = self._settings
        tls = "starttls" if self._tls_context is not None else ""
        if all(place.scheme == "smtps" for place in settings.places):
            tls = "implicit"
        host, port = self._reachable()
        return {
            "host": host,
            "port": port,
            "tls": "required" if tls == "starttls" and settings.requiretls else tls,
            "auth": self._auth(),
            "size": settings.size,
            "addresses": [spell(address) for address in self._server.addresses],
            "inboxes": [{"name": name, "query": query} for name, query in settings.inbox or ()],
        }

    def _auth(self) -> str:
        if self._settings.users is None:
            return ""
        kind = "any" if self._settings.users.names is None else "users"
        return f"{kind}, required" if self._settings.require_auth else kind

    def _reachable(self) -> tuple[str, int]:
        """Return the host and the port for programs on this machine."""
        found = [address for address in self._server.addresses if not isinstance(address, str)]
        if not found:
            return "", 0
        host, port = sorted(found, key=lambda one: one[0] != "127.0.0.1")[0]
        return reachable(host), port

    def _announce(self) -> None:
        settings = self._settings
        if settings.ready_file:
            lines = [*map(spell, self._server.addresses), self._web.url]
            write_ready_file(settings.ready_file, lines)
            self._is_ready = True
        self._say("\n".join(self._banner()))
        if settings.browser:
            # A browser that does not start must not delay the mail.
            threading.Thread(target=browse, args=(self._web.url,), daemon=True).start()

    def _banner(self) -> list[str]:
        settings = self._settings
        where = " and ".join(spell(address) for address in self._server.addresses)
        host, port = self._reachable()
        lines = [
            f"aiosmtpd {__version__} inbox, accessible via {self._web.url}",
            f"  SMTP at {where}",
        ]
        if host:
            lines.append(f"  point your program there: host {host}, port {port}{self._how()}")
        first = (host, port) if host else self._server.addresses[0]
        lines.append(f"  send a test: {sending_command(settings, first, self._ca_file)}")
        if self._ca_file is not None:
            lines.append(f"  CA certificate: {self._ca_file}")
        lines += [f"  fails on purpose: {fault}" for fault in settings.fault or ()]
        if self._relay is not None:
            lines.append(f"  releases messages by {self._relay.name}, to {settings.relay_allow}")
        if self._webhook is not None:
            lines.append(f"  posts each message to {self._webhook.name}")
        kept = f"in {settings.store}" if settings.store else "until the end (--store keeps them)"
        lines.append(f"  messages are kept {kept}, {self._store.keep.describe()}")
        return [*(safe_line(line) for line in lines), "  stop it with Ctrl-C"]

    def _how(self) -> str:
        described = self._services.smtp
        tls = {"starttls": "STARTTLS offered", "required": "STARTTLS required"}
        tls["implicit"] = "TLS from the start"
        words = {"any": "any user", "users": "AUTH offered"}
        auth = str(described["auth"])
        found = [tls.get(described["tls"], "no TLS"), words.get(auth.partition(",")[0], "no AUTH")]
        if auth.endswith("required"):
            found[-1] = "AUTH required"
        return f", {', '.join(found)}"

    def _say(self, text: str) -> None:
        if not self._settings.quiet and sys.stderr is not None:
            with suppress(OSError):
                print(text, file=sys.stderr, flush=True)

    async def _serve(self, identity: Any) -> None:
        try:
            await super()._serve(identity)
        finally:
            ends: list[Awaitable[None]] = [self._stop_web()]
            if self._webhook is not None:
                ends.append(self._webhook.stop())
            await asyncio.gather(*ends)
            if self._relay is not None:
                await self._relay.close()
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._mirror is not None:
            self._mirror.close()
        self._store.close()

    def end(self) -> None:
        """End gracefully; a second call ends at once."""
        # The page ends while the last transactions do.
        if self._task is not None and self._task.get_loop().is_running():
            self._stop_web()
        super().end()

    def _stop_web(self) -> asyncio.Task[None]:
        if self._web_end is None:
            self._web_end = asyncio.create_task(self._web.stop())
        return self._web_end


def _relay_of(settings: Namespace) -> Relay | None:
    if not settings.relay:
        return None
    from aiosmtpd.inbox.relay import Relay  # seldom needed

    return Relay(settings.relay, settings.relay_allow, settings.relay_block or "")


def _tagging_of(settings: Namespace) -> Tagging:
    without = settings.no_tags or ()
    return Tagging(
        [(query, [name]) for name, query in settings.tag or ()],
        addresses="addresses" not in without,
        header="header" not in without,
    )


def _webhook_of(settings: Namespace) -> Webhook | None:
    if not settings.webhook:
        return None
    from aiosmtpd.inbox.webhook import Webhook  # seldom needed

    return Webhook(settings.webhook, settings.webhook_limit or 0, settings.label)


def _why_no_page(error: OSError) -> str:
    text = why_not_listening(error, "--web")
    if str(WEB_PORT) in text and "stop the program" in text:
        text += OLD_DEFAULT
    return text


def browse(url: str) -> None:
    """Open a page in the browser; do nothing if that fails."""
    import webbrowser  # seldom needed

    with suppress(Exception):
        webbrowser.open(url)
