"""Hooks that say at once that they accept a command: ``aiosmtpd.protocol.quick``."""

import functools
from typing import Any

from aiosmtpd.protocol.quick import accepts_if
from aiosmtpd.smtp import MISSING, Envelope
from tests.dialogue.fed import MAIL, OK, RCPT, greeted
from tests.mutations_fast_path import mutations_of_texts

NO = b"550 5.7.1 No\r\n"
OTHER = b"RCPT TO:<c@example.com>\r\n"


class Quick:
    """Accepts all addresses but that of OTHER; ``asked`` and ``called`` have those it has seen."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.called: list[str] = []

    def accepts(self, server: Any, envelope: Envelope, address: str) -> bool:
        self.asked.append(address)
        return not address.startswith("c")

    async def answer(self, address: str) -> Any:
        self.called.append(address)
        return MISSING if not address.startswith("c") else "550 5.7.1 No"

    @accepts_if(accepts)
    async def handle_MAIL(self, _: Any, session: Any, envelope: Any, address: str, __: Any) -> Any:
        return await self.answer(address)

    @accepts_if(accepts)
    async def handle_RCPT(self, _: Any, session: Any, envelope: Any, address: str, __: Any) -> Any:
        return await self.answer(address)


async def test_a_hook_that_accepts_is_not_called() -> None:
    handler = Quick()
    server = await greeted(handler)
    assert server.at_once(MAIL + RCPT) == OK * 2
    assert server.at_once(RCPT) == OK
    assert (handler.asked, handler.called) == (["a@example.com"] + ["b@example.com"] * 2, [])
    assert (server.envelope.mail_from, server.envelope.rcpt_tos) == (
        "a@example.com",
        ["b@example.com"] * 2,
    )
    assert server.driven == []


async def test_a_hook_that_does_not_accept_answers() -> None:
    handler = Quick()
    server = await greeted(handler)
    assert await server.ask(b"MAIL FROM:<c@example.com>\r\n") == NO
    assert await server.ask(MAIL, OTHER) == OK + NO
    assert handler.called == ["c@example.com"] * 2
    assert server.envelope.rcpt_tos == []


async def test_each_recipient_in_a_row_is_checked() -> None:
    handler = Quick()
    server = await greeted(handler)
    assert await server.ask(MAIL + RCPT + OTHER + RCPT) == OK * 2 + NO + OK
    assert handler.asked[1:3] == ["b@example.com", "c@example.com"]
    assert server.envelope.rcpt_tos == ["b@example.com"] * 2


async def test_a_hook_of_another_object_is_asked_there() -> None:
    class Borrows:
        def __init__(self, lender: Quick) -> None:
            self.handle_RCPT = lender.handle_RCPT

    lender = Quick()
    server = await greeted(Borrows(lender))
    assert server.at_once(MAIL + RCPT) == OK * 2
    assert lender.asked == ["b@example.com"]


async def test_a_function_around_a_hook_is_called() -> None:
    @functools.wraps(Quick.handle_RCPT)
    async def refuse(*_: Any) -> Any:
        return "550 5.7.1 No"

    class Wrapped(Quick):
        handle_RCPT: Any = refuse

    server = await greeted(Wrapped())
    assert await server.ask(MAIL, RCPT) == OK + NO


async def test_a_command_that_the_driver_runs_calls_the_hook() -> None:
    handler = Quick()
    server = await greeted(handler)
    assert await server.ask(b"MAIL FROM:<a@example.com> SIZE=9\r\n") == OK
    assert (handler.asked, handler.called) == ([], ["a@example.com"])


def test_the_mutations_fit_the_fast_path() -> None:
    """They are run by hand only: nothing else says that a text of theirs is gone."""
    assert all(one.text for one in mutations_of_texts())
