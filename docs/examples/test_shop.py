import pytest
from shop import send_reset_mail


@pytest.fixture(autouse=True)
def the_shop_sends_here(smtp_inbox, monkeypatch):
    for name, value in smtp_inbox.env().items():
        monkeypatch.setenv(name, value)


def test_the_mail_has_a_link_and_a_code(smtp_inbox):
    send_reset_mail(smtp_inbox.address)
    mail = smtp_inbox.wait(to=smtp_inbox.address, subject="new password")
    assert mail.link("/reset?").startswith("https://shop.example/")
    assert mail.code(digits=6) in mail.text


def test_a_greylisting_server_gets_it_at_the_second_try(smtp_inbox):
    smtp_inbox.fail("rcpt", "450 4.7.1 Greylisted, come back later", times=1)
    send_reset_mail(smtp_inbox.address)
    assert len(smtp_inbox.messages) == 1


@pytest.mark.smtp(tls="starttls")
def test_the_password_travels_by_tls(smtp_inbox):
    send_reset_mail(smtp_inbox.address)
    assert smtp_inbox.messages[0].session.ssl
