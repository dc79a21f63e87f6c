"""Makes the pictures of ``docs/images/inbox``: ``python docs/examples/inbox_screenshots.py``.

Starts ``aiosmtpd inbox``, sends it some messages, and takes pictures of the page in Chromium, at
three widths, light and dark. It needs the extras inbox and browser, Pillow, and Chromium.
"""

import shutil
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parent.parent / "images" / "inbox"
SIZES = {1280: 760, 768: 900, 360: 740}
"""Heights by width, in pixels."""
THEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
COLOURS = 255
"""Colours of a picture: few make small files."""
SMTP, WEB = 18025, 18026

SHOP = "Shop <no-reply@shop.example.org>"
BOB = "Bob Miller <bob@example.org>"
RESET_TEXT = """\
Hello Bob, you asked for a new password for your account.

https://shop.example.org/reset/8f3a1c

Your code is 481205.
"""
RESET = """\
<!doctype html><html lang="en"><head><style>
body { margin: 0; background: #f3f5f8; font: 16px/1.55 sans-serif; color: #22262d }
.card { max-width: 520px; margin: 24px auto; padding: 28px 32px; background: #fff;
  border-radius: 12px }
.button { display: inline-block; padding: 12px 22px; border-radius: 8px; background: #0b6e4f;
  color: #fff; text-decoration: none; font-weight: 600 }
.code { font-size: 28px; letter-spacing: 6px; font-weight: 700 }
p.small { color: #68707d; font-size: 14px }
</style></head><body><div class="card">
<img src="cid:logo@shop.example.org" alt="Shop" width="40" height="40">
<h1 style="font-size:22px">Reset your password</h1>
<p>Hello Bob, you asked for a new password for your account.</p>
<p><a class="button" href="https://shop.example.org/reset/8f3a1c">Choose a new password</a></p>
<p>Or enter this code:</p><p class="code">481205</p>
<p class="small">If it was not you, ignore this message.
<a href="http://help.example.org/?utm_source=mail">help.shop.example.org</a></p>
</div></body></html>
"""
SIMPLE = [
    (
        "cron@build.example.org",
        "team@example.org",
        "Nightly build passed",
        "412 tests in 38 s.",
        "",
    ),
    ("Ann Weber <ann@example.org>", BOB, "Re: Lunch on Friday?", "> Lunch?\n\nYes, at noon.", ""),
    (SHOP, BOB, "Your invoice 2026-1142", "Thank you for your order.", "billing"),
    (SHOP, "Eve <eve@example.net>", "Grüße aus Köln", "Ihr Paket kommt morgen.", "shipping"),
    ("News <news@example.org>", "all@example.org", "Three things for the weekend", "Sleep.", ""),
    ("monitor@example.org", "oncall@example.org", "Disk of db-2 is 91 % full", "Look.", "alerts"),
    (SHOP, BOB, "Welcome, Bob", "Hello Bob, here is how to begin.", ""),
]


def message(sender: str, to: str, subject: str, text: str, tags: str) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = sender, to, subject
    made["Date"] = format_datetime(datetime.now().astimezone())
    made["Message-ID"] = make_msgid(domain="shop.example.org")
    if tags:
        made["X-Tags"] = tags
    made.set_content(text + "\n")
    if tags == "billing":
        pdf = b"%PDF-1.7 " + b"x" * 48211
        made.add_attachment(pdf, "application", "pdf", filename="invoice-2026-1142.pdf")
        made.add_attachment(b"1;2;3\n", "text", "csv", filename="items.csv")
    return made


def reset() -> EmailMessage:
    made = message(SHOP, BOB, "Reset your password", RESET_TEXT, "account")
    made.add_alternative(RESET, subtype="html")
    logo, file = Image.new("RGB", (80, 80), "#0b6e4f"), BytesIO()
    ImageDraw.Draw(logo).ellipse((22, 22, 58, 58), outline="white", width=8)
    logo.save(file, "PNG")
    html = made.get_payload(1)
    assert isinstance(html, EmailMessage)
    html.add_related(file.getvalue(), "image", "png", cid="<logo@shop.example.org>")
    return made


@contextmanager
def inbox() -> Iterator[str]:
    """Run the inbox; yield the address of its page."""
    command = [sys.executable, "-m", "aiosmtpd", "inbox", "-q", "--hostname", "inbox.test"]
    command += ["-l", f"127.0.0.1:{SMTP}", "--web", f"127.0.0.1:{WEB}"]
    command += ["--fault", "rcpt *@full.test: 452 4.2.2 mailbox full x3"]
    with subprocess.Popen(command) as process:  # noqa: S603 - our own
        try:
            subprocess.run([*command, "--check", "--wait", "20"], check=True)  # noqa: S603
            yield f"http://127.0.0.1:{WEB}/"
        finally:
            process.terminate()


def fill() -> None:
    with smtplib.SMTP("127.0.0.1", SMTP) as client:
        for values in SIMPLE[:5]:
            client.send_message(message(*values))
        with suppress(smtplib.SMTPRecipientsRefused):
            client.sendmail("no-reply@shop.example.org", ["old@full.test"], "Subject: x\r\n\r\n")
    with smtplib.SMTP("127.0.0.1", SMTP) as client:
        for values in SIMPLE[5:]:
            client.send_message(message(*values))
        client.send_message(reset())


def save(page: Page, name: str) -> None:
    page.wait_for_timeout(250)
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    # Small marks have bright colours.
    counted = sorted(
        picture.getcolors(1 << 24),
        key=lambda one: one[0] * (100 + (max(one[1]) - min(one[1])) ** 2),
        reverse=True,
    )
    palette = [colour for _, colour in counted[:COLOURS]]

    def distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
        return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))

    places = {
        colour: min(range(len(palette)), key=lambda at: distance(colour, palette[at]))
        for _, colour in counted
    }
    data = picture.tobytes()
    pixels = zip(data[::3], data[1::3], data[2::3], strict=True)
    small = Image.frombytes("P", picture.size, bytes(places[pixel] for pixel in pixels))
    small.putpalette([value for colour in palette for value in colour])
    small.save(IMAGES / f"{name}.png", optimize=True)


def pictures(page: Page, width: int, theme: str) -> None:
    """Take the pictures of one width and theme."""
    end = f"{width}-{theme}"
    page.get_by_role("option").nth(8).wait_for()
    if width == 360:
        save(page, f"list-{end}")
    page.get_by_role("option", name="Reset your password").click()
    page.locator("iframe.shown").wait_for()
    save(page, f"message-{end}")
    if width == 1280:
        for tab in "Links", "SMTP":
            page.get_by_role("tab", name=tab).click()
            page.locator(f".{tab.lower()}").wait_for()
            save(page, f"{tab.lower()}-{end}")
        page.get_by_role("link", name="Faults").click()
        page.locator(".faults code").wait_for()
        save(page, f"faults-{end}")


def take(browser: Browser, url: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": SIZES[1280]})
    page.goto(url)
    page.locator(".code-block").wait_for()
    save(page, "empty-1280-light")
    fill()
    for width, height in SIZES.items():
        for theme in THEMES:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.goto(url)
            pictures(page, width, theme)
            page.close()


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    plain = ["--disable-lcd-text", "--font-render-hinting=none"]
    with inbox() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=plain)
        take(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
