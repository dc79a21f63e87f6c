"""A server to attack: ``python target.py JSON``, in any environment that has an aiosmtpd.

It uses nothing but the API of 1.4, so that any release can be the victim; keywords that the
installed one does not know are left out. Prints its port, at SIGUSR1 the number of its tasks, and
stops at SIGTERM.
"""

import asyncio
import hashlib
import inspect
import json
import logging
import os
import signal
import socket
import ssl
import sys
import time
from contextlib import nullcontext
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox, Message, Proxy, Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult

GARBAGE: dict[str, Any] = {
    "none": None,
    "number": 42,
    "list": ["250 OK"],
    "octets": b"\xff\xfe",
    "empty": "",
    "words": "no code at all",
    "lines": "250 first\r\n250 second",
    "bare": "250 a\n250 b\r250 c",
    "letters": "250 gr\xfc\xdfe \u2028 \U0001f4e7",
    "surrogate": "250 \udcff",
    "control": "250 \x00\x1b[2J\x85",
    "long": "250 " + "x" * 5000,
}
"""Values that a hook may return, by the local part that asks for them."""


def note(path: str, told: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")


class Keep:
    """Takes every message and writes it down, one JSON object a line."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.deliveries = options["deliveries"]

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        content = envelope.content
        told = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos[:50],
            "octets": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "begins": content[:2000].decode("latin-1"),
            "peer": repr(session.peer),
        }
        note(self.deliveries, told)
        return "250 OK"


class Wild(Keep):
    """Misbehaves at RCPT and at DATA as the local part says."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.seconds = options["seconds"]

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> Any:
        how = address.partition("@")[0]
        if how == "raise":
            raise ValueError("one\r\n250 two")
        if how == "hang":
            await asyncio.sleep(self.seconds)
        if how in GARBAGE:
            return GARBAGE[how]
        envelope.rcpt_tos.append(address)
        return f"250 {address} ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> Any:
        how = envelope.mail_from.partition("@")[0]
        if how == "raise":
            raise ValueError("one\r\n250 two")
        if how == "slow":
            await asyncio.sleep(self.seconds)
        if how == "commit":
            async with getattr(server, "committed", nullcontext)():
                await asyncio.sleep(self.seconds)
                return await super().handle_DATA(server, session, envelope)
        if how in GARBAGE:
            return GARBAGE[how]
        return await super().handle_DATA(server, session, envelope)


class Blocking(Message):
    """Works on a message in plain code that takes its time."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.seconds = options["seconds"]

    def handle_message(self, message: Any) -> None:
        time.sleep(self.seconds)


class Headers(Message):
    """Writes down the header fields that tell where a message came from."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.deliveries = options["deliveries"]

    def handle_message(self, message: Any) -> None:
        names = ("X-Peer", "X-MailFrom", "X-RcptTo")
        told = {name: message.get_all(name, []) for name in names}
        note(self.deliveries, told)


def make_handler(options: dict[str, Any]) -> Any:
    kind = options["handler"]
    if kind == "mailbox":
        return Mailbox(options["folder"])
    if kind == "proxy":
        return Proxy("127.0.0.1", options["next_hop"])
    if kind == "sink":
        return Sink()
    return {"keep": Keep, "wild": Wild, "blocking": Blocking, "headers": Headers}[kind](options)


def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    right = data.login == b"good" and data.password == b"pass"
    return AuthResult(success=right, handled=False)


async def accept_proxy(server: Any, session: Any, envelope: Any, proxy_data: Any) -> bool:
    return True


def make_controller(options: dict[str, Any]) -> Controller:
    keywords = dict(options["keywords"])
    handler = make_handler(options)
    context = None
    if options["pem"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options["pem"])
    mode = options["mode"]
    if mode == "starttls":
        keywords["tls_context"] = context
    if mode == "proxy":
        keywords.setdefault("proxy_protocol_timeout", 5)
        handler.handle_PROXY = accept_proxy
    if mode in ("modern", "all"):
        keywords["extensions"] = mode
    if options["auth"]:
        keywords["authenticator"] = authenticate
    known = inspect.signature(SMTP.__init__).parameters
    if "extensions" in keywords and "extensions" not in known:
        sys.exit("no extensions to choose from")
    for name in ("command_size_limit", "line_length_limit"):
        if name in keywords and name not in known:
            setattr(SMTP, name, keywords[name])
    if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        keywords = {name: value for name, value in keywords.items() if name in known}

    class Local(Controller):
        def factory(self) -> Any:
            return LMTP(self.handler, hostname="mx.test", **keywords)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    kind = Local if mode == "lmtp" else Controller
    return kind(
        handler,
        hostname="127.0.0.1",
        port=port,
        ssl_context=context if mode == "smtps" else None,
        server_hostname="mx.test",
        **keywords,
    )


async def tasks_left() -> int:
    """Count the tasks that are there, when each has had its chance to end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=5)
    return sum(not task.done() for task in others)


def limit_resources(limits: dict[str, int]) -> None:
    import resource

    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def main() -> None:
    options = json.loads(sys.argv[1])
    logging.basicConfig(
        filename=options["log"],
        level=options["level"],
        format="LOG %(levelname)s %(name)s: %(message)s",
        encoding="utf-8",
    )
    for name in "mail.log", "mail.debug":
        logging.getLogger(name).setLevel(options["level"])
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    # Before there are threads, which inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    os.umask(0o077)
    controller = make_controller(options)
    controller.start()
    limit_resources(options["rlimit"])
    print(controller.port, flush=True)
    while signal.sigwait(signals) == signal.SIGUSR1:
        left = asyncio.run_coroutine_threadsafe(tasks_left(), controller.loop).result()
        print(left, flush=True)
    controller.stop()


if __name__ == "__main__":
    main()
