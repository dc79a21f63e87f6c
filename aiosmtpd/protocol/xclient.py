"""XCLIENT and XFORWARD: a trusted proxy or filter names the client that it serves.

No RFC defines them; Postfix's XCLIENT_README and XFORWARD_README do. Both are extensions like those
that programs write, made for a list of trusted networks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from public import public

from aiosmtpd.protocol import networks, paths, replies
from aiosmtpd.protocol.extensions import Extension
from aiosmtpd.protocol.replies import Refused, Reply

XCLIENT_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
XFORWARD_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")

IN_TRANSACTION = Reply("503 5.5.1 Error: a mail transaction is in progress")
_UNKNOWN = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
_WORDS = {("XCLIENT", "PROTO"): ("SMTP", "ESMTP"), ("XFORWARD", "SOURCE"): ("LOCAL", "REMOTE")}


@public
def xclient(trusted: str | Iterable[str]) -> Extension:
    """Return the extension XCLIENT, only for clients in the *trusted* networks.

    *trusted* is a network such as ``"10.0.0.0/8"`` or several. The command begins a new session, as
    after connecting: ``handle_CONNECT`` is called again. ``session.xclient`` holds the attributes
    that the proxy sent, and ``session.client_address`` is that of its client. LOGIN makes the
    session authenticated. Raises ValueError for text that is not a network.
    """

    async def begin_again(server: Any, said: dict[str, str | None]) -> None:
        server.begin_again()
        server.session.xclient = {**(server.session.xclient or {}), **said}
        if login := said.get("LOGIN"):
            server.session.authenticated = True
            server.session.auth_data = login
        await server.welcome()

    return _extension("XCLIENT", XCLIENT_NAMES, trusted, begin_again)


@public
def xforward(trusted: str | Iterable[str]) -> Extension:
    """Return the extension XFORWARD, only for clients in the *trusted* networks.

    ``envelope.xforward`` holds the attributes of the next message. Raises ValueError for text that
    is not a network.
    """

    async def note(server: Any, said: dict[str, str | None]) -> None:
        server.envelope.xforward = {**(server.envelope.xforward or {}), **said}
        await server.push(replies.OK)

    return _extension("XFORWARD", XFORWARD_NAMES, trusted, note)


def _extension(
    verb: str,
    names: tuple[str, ...],
    trusted: str | Iterable[str],
    serve: Callable[[Any, dict[str, str | None]], Awaitable[None]],
) -> Extension:
    known = networks.parse(trusted)
    offer = " ".join([verb, *names])

    def advertise(server: Any) -> str | None:
        return offer if _is_from(known, server.session) else None

    async def run(server: Any, arg: str | None) -> None:
        if advertise(server) is None:
            raise Refused(replies.not_recognized(verb))
        if server.envelope.mail_from is not None:
            raise Refused(IN_TRANSACTION)
        await serve(server, _attributes(verb, arg, names))

    return Extension(keyword=verb, advertise=advertise, verbs={verb: run})


def _is_from(known: networks.Networks, session: Any) -> bool:
    """Return True if the host that sends the commands of a session is in one of the networks."""
    proxied = session.proxy_data
    if proxied is None or proxied.command == 0:
        return networks.holds(known, session.peer)
    # The peer is a proxy, and the commands are those of its client, which may be any host.
    return proxied.src_port is not None and networks.holds(known, (str(proxied.src_addr), 0))


def _attributes(verb: str, arg: str | None, names: Iterable[str]) -> dict[str, str | None]:
    """Return attributes by name, None for a value that the proxy does not know; raises Refused."""
    given = paths.parameters(paths.words(arg or ""))
    if not given or not given.keys() <= set(names):
        raise Refused(replies.syntax_of(f"{verb} NAME=value ..."))
    said: dict[str, str | None] = {}
    for name, value in given.items():
        try:
            said[name] = _meaning(name, paths.xtext(value or ""), _WORDS.get((verb, name)))
        except ValueError:
            raise Refused(replies.bad_parameter(name)) from None
    return said


def _meaning(name: str, value: str, words: tuple[str, ...] | None) -> str | None:
    if value.upper() in _UNKNOWN:
        return None
    if not value or not value.isprintable() or (words and value.upper() not in words):
        raise ValueError(value)
    if name in ("ADDR", "DESTADDR"):
        import ipaddress  # 1.5 ms, rarely needed

        return str(ipaddress.ip_address(value[5:] if value[:5].upper() == "IPV6:" else value))
    is_port = value.isdecimal() and len(value) <= 5 and int(value) <= 65535
    if name in ("PORT", "DESTPORT") and not is_port:
        raise ValueError(value)
    return value
