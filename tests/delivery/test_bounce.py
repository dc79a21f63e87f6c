"""Reports of given-up messages: once, from the null path, through a route of their own."""

import logging
import smtplib
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Later, Misconfigured
from aiosmtpd.delivery.spool import Duplicate, Spool
from tests.delivery.support import (
    MESSAGE,
    NO_USER,
    QUICK,
    Hanging,
    Place,
    counts,
    delivering,
    given,
    messages,
    route,
    send,
    until,
    until_left,
)


def test_a_report_goes_to_the_sender(tmp_path: Path) -> None:
    post = Place()
    with delivering(tmp_path, route(Place(NO_USER), bounce=post)) as (handler, controller):
        reply = send(controller, "bo@b.test", "cy@b.test")
        item, content = post.next()
        until(lambda: counts(handler).routes.keys() == {"app"})
        assert (counts(handler).messages, counts(handler).dead) == (1, 1)
    assert (item.sender, item.recipients) == ("<>", ("ann@a.test",))
    report = message_from_bytes(content)
    assert report["To"] == "<ann@a.test>"
    assert report["From"] == "Mail Delivery System <MAILER-DAEMON@mx.test>"
    status = report.get_payload(1).as_string()  # type: ignore[union-attr]
    assert status.count("Action: failed") == 2
    assert "Final-Recipient: rfc822; cy@b.test" in status
    assert item.id.startswith(reply.rpartition(" ")[2] + "-")
    assert post.items.empty()


def test_dropped_after_the_report(tmp_path: Path) -> None:
    post = Place()
    one = route(Place(NO_USER), bounce=post, dead="drop")
    with given(tmp_path, one) as handler:
        post.next()
        until_left(handler, messages=0)


def test_only_the_failed_recipients_are_named(tmp_path: Path) -> None:
    post, place = Place(), Place({"bo@b.test": NO_USER, "cy@b.test": Later()}, None)
    one = route(place, bounce=post, dead="drop")
    with given(tmp_path, one, "ann@b.test", "bo@b.test", "cy@b.test") as handler:
        content = post.next()[1]
        until_left(handler, messages=0)
    assert b"rfc822; bo@b.test" in content
    assert b"cy@b.test" not in content.partition(b"delivery-status")[2].partition(b"headers")[0]
    assert place.items.qsize() == 2


@pytest.mark.parametrize(
    ("sender", "options"),
    [("", []), ("ann@a.test", ["NOTIFY=NEVER"]), ("ann@a.test", ["NOTIFY=SUCCESS"])],
)
def test_no_report(tmp_path: Path, sender: str, options: list[str]) -> None:
    post = Place()
    with delivering(tmp_path, route(Place(NO_USER), bounce=post)) as (handler, controller):
        send(controller, "bo@b.test", sender=sender, rcpt_options=options)
        until_left(handler, dead=1)
        assert counts(handler).routes.keys() == {"app"}
    assert post.items.empty()


def test_a_report_is_tried_again(tmp_path: Path) -> None:
    post = Place(Later(), None)
    one = route(Place(NO_USER), bounce=post)
    assert one.bounce is not None
    one.bounce.retry = one.retry
    with given(tmp_path, one):
        assert post.item().attempts == 1


def test_no_report_of_a_report(tmp_path: Path) -> None:
    post = Place(NO_USER)
    with given(tmp_path, route(Place(NO_USER), bounce=post)) as handler:
        until_left(handler, dead=2)
        assert counts(handler).messages == 2
    assert post.tried == 1


def test_a_report_after_a_crash_is_not_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is in the spool, but the result of the try is not: the message is tried again."""
    post, place = Place(Later(after=3600)), Place(NO_USER)
    put, ids = Spool.put, []

    def twice(spool: Spool, **keywords: Any) -> Any:
        if keywords["sender"] == "<>":
            ids.append(keywords["queue_id"])
            put(spool, **keywords).result()
            with pytest.raises(Duplicate):
                put(spool, **keywords).result()
        return put(spool, **keywords)

    monkeypatch.setattr(Spool, "put", twice)
    with given(tmp_path, route(place, bounce=post)) as handler:
        until_left(handler, dead=1)
        assert counts(handler).messages == 2
    assert len(ids) == 1
    assert post.tried <= 1


def test_given_up_has_a_report(tmp_path: Path) -> None:
    post = Place()
    one = route(Place(Later("mailbox full")), bounce=post, retry={**QUICK, "give_up": 0.1})
    with delivering(tmp_path, one) as (_, controller):
        send(controller, "bo@b.test", rcpt_options=["NOTIFY=FAILURE,DELAY"])
        content = post.next()[1]
    assert b"Status: 4.4.7" in content
    assert b"mailbox full" in content


@pytest.mark.parametrize("give_up", [0.1, 0.5], ids=["up", "down"])
@pytest.mark.parametrize("error", [Misconfigured, OSError, ValueError])
def test_a_report_has_no_text_of_an_exception(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: type[Exception], give_up: float
) -> None:
    post = Place()
    place = Place(error("no password for app at db.internal"))
    with given(tmp_path, route(place, bounce=post, retry={**QUICK, "give_up": give_up})):
        content = post.next()[1]
    assert b"Status: 4.4.7" in content
    assert b"4.4.7 Given up, the last try said: 451 4." in content.replace(b"\r\n\t", b" ")
    assert b"db.internal" not in content
    assert "dead: route app, recipient 'bo@b.test': 4.4.7 Given up" in messages(caplog)
    assert "no password for app at db.internal" in messages(caplog)


def test_a_report_in_utf8(tmp_path: Path) -> None:
    post = Place()
    with delivering(tmp_path, route(Place(NO_USER), bounce=post)) as (_, controller):
        send(controller, "bo@b.test", sender="ann@a.test", options=["SMTPUTF8"])
        assert post.item().arrival.mail_options == ()
        raw = "bö@b.test"
        with smtplib.SMTP(controller.hostname, controller.port) as client:
            client.sendmail("ann@a.test", [raw], b"Subject: x\r\n\r\n", ["SMTPUTF8"])
        item = post.item()
    assert item.arrival.smtp_utf8
    assert item.arrival.mail_options == ("BODY=8BITMIME", "SMTPUTF8")


def test_a_report_of_a_message_whose_file_is_gone(tmp_path: Path) -> None:
    post, place = Place(), Hanging()
    content = MESSAGE + b"x\r\n" * 100_000
    with delivering(tmp_path, route(place), grace=0.01) as (_, controller):
        send(controller, "bo@b.test", content=content)
        place.item()
    for file in (tmp_path / "spool" / "large").iterdir():
        file.unlink()
    with delivering(tmp_path, route(Place(NO_USER), bounce=post)) as (handler, _):
        assert b"Final-Recipient: rfc822; bo@b.test" in post.next()[1]
        until_left(handler, dead=1)


def test_the_sender_is_escaped_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    post = Place()
    with delivering(tmp_path, route(Place(NO_USER), bounce=post)) as (handler, controller):
        with smtplib.SMTP(controller.hostname, controller.port) as client:
            client.ehlo("client.test")
            client.command_encoding = "utf-8"
            client.mail("a\u202en@a.test", ["SMTPUTF8"])
            client.rcpt("bo@b.test")
            client.data(MESSAGE)
        post.next()
        until_left(handler, dead=1)
    assert "to 'a\\u202en@a.test'" in messages(caplog, logging.INFO)
    assert "\u202e" not in messages(caplog, logging.INFO)
