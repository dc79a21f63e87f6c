"""A shop that sends a link and a code for a new password."""

import os
import secrets
import smtplib
import ssl
import sys
import time
from email.message import EmailMessage

PAUSE = 0.1  # seconds; a real shop waits for minutes


def send_reset_mail(address, tries=3):
    token, code = secrets.token_hex(4), secrets.randbelow(1_000_000)
    message = EmailMessage()
    message["From"] = "Shop <shop@example.com>"
    message["To"] = address
    message["Subject"] = "Your new password ✓"
    message.set_content(
        f"Your code is {code:06}. Or follow this link:\nhttps://shop.example/reset?token={token}\n"
    )
    for attempt in range(1, tries + 1):
        try:
            deliver(message)
            return
        except smtplib.SMTPRecipientsRefused as error:
            ((status, reply),) = error.recipients.values()
            if status >= 500 or attempt == tries:
                raise
            print("not yet:", status, reply.decode())
            time.sleep(PAUSE)


def deliver(message):
    host = os.environ.get("SMTP_HOST", "localhost")
    port = int(os.environ.get("SMTP_PORT", "8025"))
    with smtplib.SMTP(host, port) as client:
        client.ehlo()
        if client.has_extn("STARTTLS"):
            client.starttls(context=ssl.create_default_context())
        client.send_message(message)


if __name__ == "__main__":
    send_reset_mail(sys.argv[1])
