import smtplib

import pytest


def welcome(address, inbox, **tls):
    """Stand for your program, which gets the address of the server."""
    with smtplib.SMTP(inbox.host, inbox.port) as client:
        if tls:
            client.starttls(**tls)
        text = "Subject: Welcome\n\nDear Anna, your code is 482913.\nhttps://shop.example/in?t=1\n"
        client.sendmail("shop@example.com", [address], text)


def test_the_welcome_mail(smtp_inbox):
    welcome(smtp_inbox.address, smtp_inbox)
    mail = smtp_inbox.wait(to=smtp_inbox.address, subject="welcome", timeout=5)
    assert mail.code() == "482913"
    assert mail.link("/in?") == "https://shop.example/in?t=1"
    assert "Dear Anna" in mail.text


def test_no_other_customer_gets_one(smtp_inbox):
    welcome("anna@example.org", smtp_inbox)
    smtp_inbox.assert_none(to="bob@*")


@pytest.mark.smtp(tls="starttls")
def test_it_is_sent_by_tls(smtp_inbox):
    welcome("anna@example.org", smtp_inbox, context=smtp_inbox.client_context())
    assert smtp_inbox.messages[0].session.ssl


def test_it_tries_the_second_server_if_the_first_is_full(smtp_server):
    full, spare = smtp_server(), smtp_server(hostname="spare.example.com")
    full.fail("mail", "452 4.3.1 Insufficient system storage")
    with pytest.raises(smtplib.SMTPSenderRefused, match="Insufficient"):
        welcome("anna@example.org", full)
    welcome("anna@example.org", spare)
    assert (len(full.messages), len(spare.messages)) == (0, 1)


def test_the_farewell(smtp_inbox):
    welcome("anna@example.org", smtp_inbox)
    smtp_inbox.wait(subject="farewell", timeout=0.1)
