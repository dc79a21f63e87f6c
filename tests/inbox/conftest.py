"""Stores for the tests of the inbox."""

from collections.abc import Iterator

import pytest

from aiosmtpd.inbox.store import Store


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as opened:
        yield opened
