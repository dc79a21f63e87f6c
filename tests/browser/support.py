"""A whole inbox that runs in the test's process, and messages for it."""

import asyncio
import smtplib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from attrs import define

from aiosmtpd.controller import Controller
from aiosmtpd.inbox.intake import Intake
from aiosmtpd.inbox.relay import Relay
from aiosmtpd.inbox.services import Services, WebOptions
from aiosmtpd.inbox.store import Store
from aiosmtpd.inbox.web import Web
from aiosmtpd.listen.addresses import Listen
from aiosmtpd.observers.faults import Faults

HTML = """<!doctype html><html><body><h1>Reset</h1>
<p><a href="https://shop.example.org/reset/a1b2c3d4e5">Choose a password</a></p>
<p>Your code is 481205.</p></body></html>"""

TEXT = """Hello Bob,

go to https://shop.example.org/reset/a1b2c3d4e5 or use the code 481205.
> quoted
"""


@define
class Box:
    """An inbox that runs."""

    store: Store
    faults: Faults
    url: str
    smtp_port: int

    def send(self, message: EmailMessage | bytes, *to: str) -> str:
        """Send a message by SMTP, by default to Bob; return its id."""
        content = message if isinstance(message, bytes) else message.as_bytes(policy=SMTP)
        with smtplib.SMTP("127.0.0.1", self.smtp_port) as client:
            client.ehlo("client.test")
            client.mail("ann@example.org", ["SMTPUTF8"])
            for one in to or ["bob@example.org"]:
                assert client.docmd(f"RCPT TO:<{one}>")[0] == 250
            code, text = client.data(content)
            assert code == 250
            return text.decode().rpartition(" ")[2]

    def refuse(self, to: str = "no@example.org") -> None:
        """Let the server refuse a recipient by a fault that strikes once."""
        self.faults.add(f"rcpt {to}: 550 5.1.1 unknown user x1")
        with smtplib.SMTP("127.0.0.1", self.smtp_port) as client:
            client.ehlo("client.test")
            client.mail("ann@example.org")
            assert client.rcpt(to)[0] == 550


@contextmanager
def serving(*, relay: Relay | None = None, **options: Any) -> Iterator[Box]:
    """Run SMTP and web on free ports of the loopback."""
    with Store() as store:
        faults, intake = Faults(), Intake(store)
        faults.on_strike = lambda server, fault: intake.fault(server, str(fault))
        smtp = Controller(
            intake,
            hostname="127.0.0.1",
            port=0,
            observers=[faults, intake],
            extensions="modern",
            server_hostname="inbox.test",
        )
        smtp.start()
        services = Services(store, WebOptions(**options), faults, relay=relay)
        services.smtp.update(host="127.0.0.1", port=smtp.port, tls="", auth="", size=1 << 25)
        try:
            with _web(services) as url:
                yield Box(store, faults, url, smtp.port)
        finally:
            smtp.stop()


@contextmanager
def _web(services: Services) -> Iterator[str]:
    """Serve the page in a thread of its own; yield its address."""
    loop = asyncio.new_event_loop()
    web = Web(services, Listen(host="127.0.0.1", port=0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(web.start(), loop).result(30)
        yield web.url
        asyncio.run_coroutine_threadsafe(web.stop(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def expect(thing: Any) -> Any:
    """Return Playwright's assertions about a page or a part of it, which wait."""
    from playwright.sync_api import expect  # not installed everywhere

    return expect(thing)


def mail(
    subject: str = "Reset your password",
    *,
    text: str = TEXT,
    html: str = "",
    sender: str = "Ann <ann@example.org>",
    to: str = "Bob <bob@example.org>",
    **more: str,
) -> EmailMessage:
    """Return a message; *more* are header fields, with ``_`` for ``-``."""
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = sender, to, subject
    for name, value in more.items():
        made[name.replace("_", "-")] = value
    made.set_content(text)
    if html:
        made.add_alternative(html, subtype="html")
    return made


def rich(subject: str = "Reset your password") -> EmailMessage:
    """Return a message for which each tab has something to show."""
    made = mail(subject, html=HTML, X_Tags="account")
    made.add_attachment("BEGIN:VEVENT\nSUMMARY:Lunch\nEND:VEVENT\n", subtype="calendar")
    made.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="report.pdf")
    return made
