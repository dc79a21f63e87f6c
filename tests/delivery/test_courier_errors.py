"""Errors of outlets and of the courier itself: mail goes on, and the log says what has happened."""

from pathlib import Path

import pytest

from tests.delivery.support import Place, delivering, given, messages, route, send, until_left


class Silent(Exception):
    """An exception of a program that cannot be shown: a mistake in its ``__str__``."""

    def __str__(self) -> str:
        return str(self.args[1])


def test_an_error_that_has_no_text_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with given(tmp_path, route(Place(Silent("x"), None))) as handler:
        until_left(handler, messages=0)
    assert "internal error" not in messages(caplog)


def test_an_error_that_has_no_text_is_a_451(tmp_path: Path) -> None:
    place = route(Place(Silent("x")), mode="direct", fallback=None)
    with delivering(tmp_path, place) as (_, controller):
        assert send(controller, "bo@b.test").startswith("451 4.4.1 Next hop unavailable")
