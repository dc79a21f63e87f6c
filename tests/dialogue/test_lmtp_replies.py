"""LMTP has one reply for each RCPT that was accepted: RFC 2033 section 4.2."""

from typing import Any

import pytest

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Refused, Session
from tests.dialogue.observing import BODY, DATA, GO_AHEAD, MAIL, OK, Asked, said

LHLO = b"LHLO client.test\r\n"
NOOP = b"NOOP now\r\n"
NEXT = b"250 next\r\n"


def rcpt(name: str) -> bytes:
    return f"RCPT TO:<{name}@b.test>\r\n".encode()


class Taker:
    """Takes each message. The reply to NOOP shows where the replies to the message end."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> Any:
        return "250 OK"

    async def handle_NOOP(self, *_: Any) -> str:
        return "250 next"


class Merge(Taker):
    """Keeps a recipient that comes twice only once."""

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address not in envelope.rcpt_tos:
            envelope.rcpt_tos.append(address)
        return "250 OK"


class Expand(Taker):
    """Replaces a list by its members."""

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos += [address, "one@b.test", "two@b.test"]
        return "250 OK"


class Choose(Taker):
    """Refuses a recipient that it does not keep."""

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("no"):
            return "550 no"
        envelope.rcpt_tos.append(address)
        return "250 OK"


class Late(Taker):
    """Keeps recipients that it then refuses, or fails for."""

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        if address.startswith("fail"):
            raise LookupError
        return "550 no" if address.startswith("no") else "250 OK"


class Empty(Taker):
    """Takes the recipients out of the envelope."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        envelope.rcpt_tos.clear()
        return "250 OK"


class Each(Taker):
    """Has a reply of its own for each recipient."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> list[str]:
        return ["250 OK", "421 4.3.2 later", "250 OK"]


async def replies_to(handler: Any, names: str, *observers: Any) -> bytes:
    """Return the replies to a message to these recipients, and to the command after it."""
    words = [LHLO, MAIL, *map(rcpt, names.split()), DATA, BODY, NOOP]
    sent = await said(words, *observers, kind=LMTP, handler=handler)
    return sent.partition(GO_AHEAD)[2]


KEEPERS = pytest.mark.parametrize(
    ("handler", "names", "number"),
    [
        (Merge(), "a a b", 3),
        (Expand(), "list", 1),
        (Late(), "no a fail b no", 2),
        (Late(), "no fail", 1),
    ],
)


@KEEPERS
@pytest.mark.parametrize("observers", [[], [Asked()]])
async def test_a_hook_that_keeps_more_or_less(
    handler: Any, names: str, number: int, observers: list[Any]
) -> None:
    assert await replies_to(handler, names, *observers) == OK * number + NEXT


@KEEPERS
async def test_an_observer_refuses_all_that_are_merged(
    handler: Any, names: str, number: int
) -> None:
    def refuse(server: SMTP) -> None:
        raise Refused("452 4.2.2 full")

    refusals = b"452 4.2.2 full\r\n" * number
    assert await replies_to(handler, names, Asked(end_of_data=refuse)) == refusals + NEXT


@pytest.mark.parametrize("observers", [[], [Asked()]])
@pytest.mark.parametrize("handler", [Choose(), Empty()])
async def test_a_hook_that_refuses_or_forgets(handler: Any, observers: list[Any]) -> None:
    names = "no a no b" if type(handler) is Choose else "a b"
    assert await replies_to(handler, names, *observers) == OK * 2 + NEXT


@pytest.mark.parametrize("observers", [[], [Asked()]])
async def test_a_421_leaves_out_no_later_recipient(observers: list[Any]) -> None:
    assert await replies_to(Each(), "a b c", *observers) == OK + b"421 4.3.2 later\r\n" + OK
