"""The fast path takes no line that the driver would take in another way."""

import string

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.engine import fast_path
from aiosmtpd.handlers import Sink
from aiosmtpd.protocol import paths
from aiosmtpd.smtp import SMTP
from tests.conftest import Certificates
from tests.dialogue.fed import (
    DATA,
    GO_AHEAD,
    MAIL,
    OK,
    RCPT,
    ByTheDriver,
    Server,
    greeted,
    quiet as quiet,
    turns,
)
from tests.dialogue.harness import run_by_the_driver
from tests.dialogue.tls import Peer
from tests.rows import each_row

ATEXT = "!#$%&'*+-./09=?AZ^_`az{|}~"
OTHERS = ' "(),:;<>@[\\]\x00\t\r\n\x7f\x80\x9f\xa0\xe9\xff'


def check(mailbox: str) -> bool:
    """Return True if the fast path takes a mailbox; it must then be parsed as it is."""
    line = b"RCPT TO:<%s>\r\n" % mailbox.encode("latin-1")
    if (found := fast_path._COMMAND.match(line)) is None:
        return False
    assert found["RCPT"].decode() == mailbox
    assert paths.parse(line[8:-2].decode()) == (mailbox, "")
    assert len(line) <= fast_path.LONGEST - len("MAIL FROM") + len("RCPT TO")
    return True


@pytest.mark.parametrize(
    "form",
    ["%s@d.test", "a%sb@d.test", "a@%s", "a@%s.test", "a@d%sd.test", "a@d.%s", "a@d%s", "%s"],
)
def test_each_character_of_a_mailbox_is_parsed_alike(form: str) -> None:
    taken = {character for character in map(chr, range(256)) if check(form % character)}
    assert taken <= {*ATEXT, *string.ascii_letters, *string.digits}
    assert ("a" in taken) == ("@" in form)


@given(
    local=st.text(ATEXT) | st.text(ATEXT + OTHERS, max_size=3),
    domain=st.lists(st.text("a-Z_9") | st.text("a.-" + OTHERS, max_size=2), max_size=4),
    repeat=st.integers(1, 80),
)
def test_a_mailbox_that_is_taken_is_parsed_alike(
    local: str, domain: list[str], repeat: int
) -> None:
    check(f"{local * repeat}@{'.'.join(domain)}")
    check(f"{local}@{'.'.join(domain * repeat)}")


@each_row(
    ("mailbox", "is_taken"),
    [
        ("l" * 64 + "@" + "d" * 255, True),
        ("l" * 65 + "@d", False),
        ("l@" + "d" * 256, False),
        ("@d", False),
        ("l@", False),
        ("l@d.", False),
        ("l@.d", False),
        ("l@d..d", False),
        (".l..l.@d", True),
        ("l@d@d", False),
        ("", False),
    ],
)
def test_the_lengths_of_a_mailbox_are_limited(mailbox: str, is_taken: bool) -> None:
    assert check(mailbox) == is_taken


@pytest.mark.parametrize(
    "line",
    [
        b"MAIL FROM:<a@example.com>\n",
        b"MAIL FROM:<a@example.com> \r\n",
        b"MAIL FROM:<a@example.com>\r",
        b"MAIL FROM:a@example.com\r\n",
        b"MAIL FROM: <a@example.com>\r\n",
        b"MAIL  FROM:<a@example.com>\r\n",
        b" MAIL FROM:<a@example.com>\r\n",
        b"MAIL FROM:<>\r\n",
        b"RCPT TO:<b@example.com>\n",
        b"RCPT TO:<b@example.com> NOTIFY=NEVER\r\n",
        b"DATA\n",
        b"DATA \r\n",
        b"DATA x\r\n",
        b"XDATA\r\n",
    ],
)
async def test_other_forms_of_a_line_are_the_drivers(line: bytes) -> None:
    for before in (b"", MAIL + RCPT):
        heard = []
        for kind in (Server, ByTheDriver):
            server = await greeted(kind=kind)
            await server.ask(before)
            server.driven.clear()
            heard.append((await server.ask(line), server.driven))
        assert heard[0] == heard[1]


async def test_capitals_do_not_matter() -> None:
    server = await greeted()
    assert server.at_once(MAIL.lower()) == OK
    assert server.at_once(RCPT.swapcase() + RCPT + RCPT.lower() * 2 + RCPT * 2) == OK * 6
    assert server.at_once(DATA.lower()) == GO_AHEAD
    assert server.driven == []
    assert server.envelope.rcpt_tos == [
        address if number else address.upper()
        for number, address in enumerate(["b@example.com"] * 6)
    ]


async def test_replies_to_usual_lines_are_encrypted(certificates: Certificates) -> None:
    server = SMTP(Sink(), hostname="mx.test", tls_context=certificates.server_context())
    peer = Peer(server)
    await peer.starttls(certificates.client_context())
    await peer.ask(b"EHLO client.test", b"250 HELP\r\n")
    with run_by_the_driver() as ran:
        for line in MAIL, RCPT:
            peer.send(line)
            # In the same turn: the driver has not run.
            assert peer.read().endswith(b"250 HELP\r\n" + OK + OK * (line is RCPT))
    assert not ran
    peer.transport.reset()
    await turns()
