import smtplib

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.testing.helpers import ReceivingHandler


@pytest.fixture
def mail_server():
    with Controller(ReceivingHandler(), port=0) as controller:
        yield controller


def welcome(name, address, server):
    """Stands for the program under test."""
    with smtplib.SMTP(*server) as client:
        text = f"Subject: Welcome\r\n\r\nDear {name}, ..."
        client.sendmail("shop@example.com", [address], text)


def test_the_welcome_mail(mail_server):
    welcome("Anna", "anna@example.com", (mail_server.hostname, mail_server.port))
    (envelope,) = mail_server.handler.box
    assert envelope.rcpt_tos == ["anna@example.com"]
    assert b"Dear Anna" in envelope.content
