"""The old signatures of the EHLO hook, as programs for 1.4 write them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from aiosmtpd.smtp import SMTP


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that does not run."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class OfFour:
    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: Any) -> str:
        return "250 HELP"


class OfFive:
    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, hostname: Any, responses: Any
    ) -> Any:
        return responses


class OfAny:
    async def handle_EHLO(self, *args: Any) -> Any:
        return args[-1]


class OfThree:
    async def handle_EHLO(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 HELP"


class OfNoSignature:
    handle_EHLO = type


def test_the_hook_of_four_is_deprecated(loop: asyncio.AbstractEventLoop) -> None:
    with pytest.warns(DeprecationWarning, match="4-argument handle_EHLO"):
        SMTP(OfFour(), loop=loop)


@pytest.mark.parametrize("handler", [OfFive, OfAny, OfNoSignature])
def test_other_forms_are_of_five(
    loop: asyncio.AbstractEventLoop, handler: type, recwarn: pytest.WarningsRecorder
) -> None:
    SMTP(handler(), loop=loop)
    assert not recwarn.list


def test_a_hook_of_three_arguments_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(RuntimeError, match="Unsupported EHLO Hook"):
        SMTP(OfThree(), loop=loop)
