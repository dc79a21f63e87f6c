"""Reports of failed deliveries: RFC 3464, RFC 3461, RFC 6533."""

import re
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from aiosmtpd.delivery.item import Arrival, Item
from aiosmtpd.delivery.report import Failure, expired, make_report, refused, to_report
from aiosmtpd.protocol.replies import Reply

CONTENT = b"Received: from a\r\n\tby b\r\nSubject: hello\r\n\r\nthe secret body\r\n"
FAILURE = refused(Reply("550 5.1.1 No such user"))
NOW = 1_800_000_000.0


def item(
    content: bytes = CONTENT, sender: str = "ann@a.test", arrival: Arrival | None = None
) -> Item:
    return Item(
        id="q1",
        sender=sender,
        recipients=("bo@b.test",),
        arrival=arrival or Arrival(time=NOW - 60),
        size=len(content),
        content=content,
    )


def octets(of: Item, failures: dict[str, Failure] | None = None) -> bytes:
    failures = failures or {"bo@b.test": FAILURE}
    return make_report(of, failures, hostname="mx.test", queue_id="q2", now=NOW)


def parsed(of: Item, failures: dict[str, Failure] | None = None) -> EmailMessage:
    return message_from_bytes(octets(of, failures), policy=policy.default)


def fields(of: Item, failures: dict[str, Failure] | None = None) -> list[dict[str, str]]:
    """Return the blocks of the machine's part."""
    text = octets(of, failures).partition(b"delivery-status\r\n")[2].partition(b"\r\n\r\n")[2]
    text = text.partition(b"\r\n--")[0]
    unfolded = re.sub(r"\n[ \t]+", " ", text.replace(b"\r\n", b"\n").decode())
    blocks = unfolded.strip().split("\n\n")
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def test_the_form_of_a_report() -> None:
    message = parsed(item())
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert message["To"] == "ann@a.test"
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@mx.test>"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<q2@mx.test>"
    assert message["Date"]
    assert message.defects == []


def test_only_the_headers_are_returned() -> None:
    report = octets(item())
    assert b"Subject: hello\r\n" in report
    assert b"the secret body" not in report


def test_the_fields_of_each_recipient() -> None:
    whole, first, second = fields(
        item(), {"bo@b.test": FAILURE, "cy@b.test": expired("connection refused")}
    )
    assert whole["Reporting-MTA"] == "dns; mx.test"
    assert whole["Arrival-Date"].startswith("Fri, 15 Jan 2027 0")
    assert first["Final-Recipient"] == "rfc822; bo@b.test"
    assert (first["Action"], first["Status"]) == ("failed", "5.1.1")
    assert first["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user"
    assert second["Status"] == "4.4.7"
    assert "connection refused" in second["Diagnostic-Code"]


def test_the_words_of_dsn_are_given_back() -> None:
    arrival = Arrival(
        time=NOW,
        mail_options=("SIZE=9", "ENVID=QQ+2B1", "RET=HDRS"),
        rcpt_options={"bo@b.test": ("ORCPT=rfc822;bob+2Bx@c.test",)},
    )
    whole, one = fields(item(arrival=arrival))
    assert whole["Original-Envelope-Id"] == "QQ+1"
    assert one["Original-Recipient"] == "rfc822; bob+x@c.test"


@pytest.mark.parametrize(
    ("notify", "reported"),
    [
        ("", True),
        ("NOTIFY=NEVER", False),
        ("notify=success,failure", True),
        ("NOTIFY=DELAY", False),
    ],
)
def test_notify_decides(notify: str, reported: bool) -> None:
    arrival = Arrival(rcpt_options={"b@b.test": (notify,)})
    assert to_report("a@a.test", arrival, ["b@b.test"]) == (("b@b.test",) if reported else ())


@pytest.mark.parametrize("sender", ["", "<>"])
def test_no_report_for_a_report(sender: str) -> None:
    assert to_report(sender, Arrival(), ["b@b.test"]) == ()


def test_texts_of_next_hops_add_no_field() -> None:
    failure = Failure("5.0.0", "no\r\nAction: delivered\r\n\r\n--x\n\x00y" + "z" * 500)
    _, one = fields(item(), {"bo@b.test": failure})
    assert one["Action"] == "failed"
    assert one["Diagnostic-Code"].startswith("x-aiosmtpd; no Action: delivered --x y")
    assert max(map(len, octets(item(), {"bo@b.test": failure}).split(b"\r\n"))) < 998


def test_a_sender_adds_no_field() -> None:
    message = parsed(item(sender='"a\r\nBcc: x"@a.test'))
    assert "Bcc" not in message


def test_addresses_in_utf8() -> None:
    of = item(b"Subject: gr\xc3\xbc\xc3\x9fe\r\n\r\nx", sender="änn@a.test")
    message = parsed(of, {"bö@b.test": FAILURE})
    assert message.get_param("report-type") == "global-delivery-status"
    assert [part.get_content_type() for part in message.iter_parts()][1:] == [
        "message/global-delivery-status",
        "message/global-headers",
    ]
    report = octets(of, {"bö@b.test": FAILURE}).decode()
    assert "Final-Recipient: utf-8; bö@b.test\r\n" in report
    assert "To: <änn@a.test>\r\n" in report
    assert "Subject: grüße\r\n" in report


def test_a_header_without_end_is_cut() -> None:
    long = b"X: y\r\n" * 20_000
    report = octets(item(long + b"\r\nbody"))
    assert 64_000 < report.count(b"X: y\r\n") * 6 <= 65_536
    assert octets(item(b"")).endswith(b"--\r\n")
