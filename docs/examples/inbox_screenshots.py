"""Makes the pictures of ``docs/images/inbox``: ``python docs/examples/inbox_screenshots.py``.

Starts ``aiosmtpd inbox``, sends it some messages, and takes pictures of the page in Chromium, at
three widths, light and dark. It needs the extras inbox and browser, and Chromium.
"""

import shutil
import smtplib
import subprocess
import sys
import zlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from datetime import datetime
from pathlib import Path
from struct import pack

from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parent.parent / "images" / "inbox"
SIZES = {1280: 760, 768: 900, 360: 740}
"""Heights by width, in pixels."""
SMTP, WEB = 18025, 18026

RESET = """\
<!doctype html><html lang="en"><head><meta name="color-scheme" content="light dark"><style>
body {{ margin: 0; background: #f3f5f8; font: 16px/1.55 sans-serif; color: #22262d }}
.card {{ max-width: 520px; margin: 24px auto; padding: 28px 32px; background: #fff; border-radius: 12px }}
.button {{ display: inline-block; padding: 12px 22px; border-radius: 8px; background: #0b6e4f; color: #fff;
  text-decoration: none; font-weight: 600 }}
.code {{ font-size: 28px; letter-spacing: 6px; font-weight: 700 }} p.small {{ color: #68707d; font-size: 14px }}
</style></head><body><div class="card"><img src="cid:logo@shop.example.org" alt="Shop" width="40" height="40">
<h1 style="font-size:22px">Reset your password</h1>
<p>Hello Bob, somebody asked for a new password for your account.</p>
<p><a class="button" href="https://shop.example.org/reset/8f3a1c">Choose a new password</a></p>
<p>Or enter this code:</p><p class="code">481205</p>
<p class="small">If it was not you, ignore this message. <a href="http://help.shop.example.org/?utm_source=mail">Help</a></p>
</div></body></html>
"""


def square(colour: tuple[int, int, int], side: int = 40) -> bytes:
    """Return a PNG of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * side) * side
    head = pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def message(sender: str, to: str, subject: str, text: str, **more: str) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = sender, to, subject
    made["Date"] = format_datetime(datetime.now().astimezone())
    made["Message-ID"] = make_msgid(domain="shop.example.org")
    for name, value in more.items():
        made[name.replace("_", "-")] = value
    made.set_content(text)
    return made


def messages() -> Iterator[EmailMessage]:
    shop, bob = "Shop <no-reply@shop.example.org>", "Bob Miller <bob@example.org>"
    yield message(
        "cron@build.example.org",
        "team@example.org",
        "Nightly build passed",
        "412 tests passed in 38 s.\n",
    )
    yield message(
        "Ann Weber <ann@example.org>",
        bob,
        "Re: Lunch on Friday?",
        "> Lunch on Friday?\n\nYes, at noon.\n",
    )
    invoice = message(
        shop, bob, "Your invoice 2026-1142", "Thank you for your order.\n", X_Tags="billing"
    )
    invoice.add_attachment(
        b"%PDF-1.7 " + b"x" * 48211,
        maintype="application",
        subtype="pdf",
        filename="invoice-2026-1142.pdf",
    )
    invoice.add_attachment("Grüße".encode(), maintype="text", subtype="csv", filename="items.csv")
    yield invoice
    yield message(
        shop,
        "Eve <eve@example.net>",
        "Grüße aus Köln: Ihre Bestellung ist unterwegs",
        "Ihr Paket kommt morgen zwischen 10 und 12 Uhr.\n",
        X_Tags="shipping",
    )
    yield message(
        "Newsletter <news@shop.example.org>",
        "subscribers@shop.example.org",
        "Five things for the weekend",
        "1. Sleep\n2. Bread\n3. A walk\n",
        List_Unsubscribe="<https://shop.example.org/out>",
    )
    yield message(
        "monitor@example.org",
        "oncall@example.org",
        "Disk of db-2 is 91 % full",
        "See https://status.example.org/db-2\n",
        X_Tags="alerts",
    )
    yield message(shop, bob, "Welcome, Bob", "Hello Bob, here is how to begin.\n")
    reset = message(
        shop,
        bob,
        "Reset your password",
        "Hello Bob, somebody asked for a new password for your account.\n\nhttps://shop.example.org/reset/8f3a1c\n\nYour code is 481205.\n",
        X_Tags="account",
    )
    reset.add_alternative(RESET.format(), subtype="html")
    html = reset.get_payload()[1]
    html.add_related(square((11, 110, 79)), "image", "png", cid="<logo@shop.example.org>")
    yield reset


@contextmanager
def inbox() -> Iterator[str]:
    """Run the inbox with its messages; yield the address of its page."""
    command = [
        sys.executable,
        "-m",
        "aiosmtpd",
        "inbox",
        "-l",
        f"127.0.0.1:{SMTP}",
        "--web",
        f"127.0.0.1:{WEB}",
    ]
    command += [
        "--hostname",
        "inbox.test",
        "--fault",
        "rcpt *@full.test: 452 4.2.2 mailbox full x3",
        "-q",
    ]
    with subprocess.Popen(command) as process:  # noqa: S603 - our own
        try:
            subprocess.run([*command, "--check", "--wait", "20"], check=True)  # noqa: S603
            yield f"http://127.0.0.1:{WEB}/"
        finally:
            process.terminate()


def fill() -> None:
    with smtplib.SMTP("127.0.0.1", SMTP) as client:
        for number, one in enumerate(messages()):
            if number == 4:
                with suppress(smtplib.SMTPRecipientsRefused):
                    client.sendmail(
                        "no-reply@shop.example.org", ["old@full.test"], "Subject: x\r\n\r\n"
                    )
            client.send_message(one)


def pictures(page: Page, width: int, theme: str) -> None:
    """Take the pictures of one width and theme."""

    def take(name: str) -> None:
        page.wait_for_timeout(250)
        page.screenshot(path=IMAGES / f"{name}-{width}-{theme}.png")

    page.get_by_role("option").nth(8).wait_for()
    if width == 360:
        take("list")
    page.get_by_role("option", name="Reset your password").click()
    page.locator("iframe.shown").wait_for()
    take("message")
    if width == 1280:
        for tab in "Links", "SMTP":
            page.get_by_role("tab", name=tab).click()
            page.locator(f".{tab.lower()}").wait_for()
            take(tab.lower())


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with inbox() as url, sync_playwright() as playwright:
        browser: Browser = playwright.chromium.launch(
            executable_path=chromium, args=["--disable-lcd-text", "--font-render-hinting=none"]
        )
        first = browser.new_page(viewport={"width": 1280, "height": SIZES[1280]})
        first.goto(url)
        first.get_by_role("heading", name="Waiting for mail").wait_for()
        first.wait_for_timeout(300)
        first.screenshot(path=IMAGES / "empty-1280-light.png")
        fill()
        for width, height in SIZES.items():
            for theme in "light", "dark":
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=theme
                )  # type: ignore[arg-type]
                page.goto(url)
                pictures(page, width, theme)
                if width == 1280:
                    page.goto(url + "?panel=faults")
                    page.locator(".faults code").wait_for()
                    page.screenshot(path=IMAGES / f"faults-{width}-{theme}.png")
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
