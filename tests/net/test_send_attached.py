"""``aiosmtpd send --attach``: attached messages keep their bytes, and all names and types."""

import email
import os
import re
import socket
from collections.abc import Callable
from email import policy
from email.message import EmailMessage, Message
from pathlib import Path

import pytest

from aiosmtpd.cli import send as _send
from tests.net.support import Catcher
from tests.net.test_faults_injected import serving

Attach = Callable[..., bytes]

# Its header would change if it was parsed and written again: no blank, folding, a bad field.
SIGNED = (
    b"X-Odd:no blank\r\nSubject: =?utf-8?q?a?=\r\n\t=?utf-8?q?b?= and a subject that is much"
    b" longer than all the lines that Python writes\r\nTo:x@y.test ,\r\n  z@y.test\r\n"
    b"not a field\r\n\r\n.\r\n.. two dots\r\n--=_\r\nlast line"
)


@pytest.fixture
def attach(tmp_path: Path) -> Attach:
    """Send a message with these files attached; return its bytes as the server got them."""

    def send(files: dict[str, bytes], *args: str) -> bytes:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        paths = [word for name in files for word in ("--attach", str(tmp_path / name))]
        catcher = Catcher()
        with serving(handler=catcher, enable_SMTPUTF8=True) as controller:
            assert _send.main([f"127.0.0.1:{controller.port}", "-q", *paths, *args], "send") == 0
        sent = catcher.envelope().content
        assert isinstance(sent, bytes)
        return sent

    return send


def parts_of(content: bytes) -> list[bytes]:
    """Return the parts of a multipart message, each with its header: RFC 2046 section 5.1.1."""
    found = re.search(rb'boundary="([^"]+)"', content)
    assert found is not None
    _, *parts, end = content.split(b"\r\n--" + found[1])
    assert end == b"--\r\n"
    return [part.removeprefix(b"\r\n") for part in parts]


def parsed(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (SIGNED, b"7bit"),
        (SIGNED.replace(b"last", "späte".encode()), b"8bit"),
        (SIGNED + b"\r\n", b"7bit"),
        (b"\xef\xbb\xbfSubject: \xfc\r\n\r\n\x00" + b"x" * 900, b"8bit"),
        (b"", b"7bit"),
    ],
)
def test_an_attached_message_keeps_its_bytes(
    attach: Attach, content: bytes, encoding: bytes
) -> None:
    message = attach({"mail.eml": content})
    head, _, body = parts_of(message)[1].partition(b"\r\n\r\n")
    assert body == content
    assert sorted(head.split(b"\r\n")) == [
        b'Content-Disposition: attachment; filename="mail.eml"',
        b"Content-Transfer-Encoding: " + encoding,
        b"Content-Type: message/rfc822",
    ]
    # RFC 2045 section 6.4: a multipart is 8bit if one of its parts is.
    outer = parsed(message)["Content-Transfer-Encoding"]
    assert (outer or "7bit").encode() == encoding


def test_line_ends_of_an_attached_message_are_crlf(attach: Attach) -> None:
    part = parts_of(attach({"MAIL.EML": b"Subject: x\n\nbody\n.\n"}))[1]
    assert part.endswith(b"\r\n\r\nSubject: x\r\n\r\nbody\r\n.\r\n")


@pytest.mark.parametrize("name", ["page.mht", "news.nws"])
def test_other_files_that_are_messages(attach: Attach, name: str) -> None:
    part = parts_of(attach({name: SIGNED}))[1]
    assert b"Content-Type: message/rfc822\r\n" in part
    assert part.endswith(b"\r\n\r\n" + SIGNED)


@pytest.mark.parametrize("to", ["you@b.test", "jürgen@b.test"])
def test_names_of_attached_files(attach: Attach, to: str) -> None:
    names = [
        "Übersicht 日本.eml",
        "Übersicht 日本.pdf",
        'a"b\\c.eml',
        "x" * 200 + ".eml",
        "a;b.txt",
    ]
    message = parsed(attach(dict.fromkeys(names, b"x"), "--to", to))
    assert [part.get_filename() for part in message.iter_attachments()] == names


def test_text_in_utf8_has_its_charset(attach: Attach) -> None:
    files = {"u.txt": "Grüße\n".encode(), "l.txt": b"Gr\xfc\xdfe\n", "a.txt": b"hello\n"}
    parts = list(parsed(attach(files)).iter_attachments())
    assert [part.get_param("charset") for part in parts] == ["utf-8", None, None]
    assert [part.get_payload(decode=True) for part in parts] == list(files.values())


def test_an_attached_message_can_be_read_again(attach: Attach) -> None:
    inner = attach({"list.csv": b"a,b\n"}, "--subject", "inner")
    outer = parsed(attach({"inner.eml": inner}, "--subject", "outer"))
    [part] = outer.iter_attachments()
    message = part.get_content()
    assert isinstance(message, Message)
    assert (outer["subject"], message["subject"]) == ("outer", "inner")
    assert [one.get_filename() for one in message.walk()][-1] == "list.csv"


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX only")
@pytest.mark.parametrize("name", [b"a\nb.eml", b"\xff.eml"])
def test_names_that_no_message_can_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes
) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"x")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        with pytest.raises(SystemExit) as ended:
            _send.main([str(listening.getsockname()[1]), "--attach", str(path)], "send")
        with pytest.raises(BlockingIOError):
            listening.accept()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("send: error: cannot make the message: ")
    assert error.count("\n") == 1
