"""The rows of a table are all run, and those that fail are named."""

import inspect

import pytest

from tests.rows import each_row


@each_row("number", [2, 4, 5, 6])
def even(number: int) -> None:
    assert number % 2 == 0


@each_row(("number", "half"), [(2, 1), (4, 3), (6, 3), (8, 5)])
def half(number: int, half: int, divisor: int) -> None:
    assert number // divisor == half


def test_the_row_that_fails_is_named() -> None:
    with pytest.raises(AssertionError) as caught:
        even()
    assert "row: (5,)" in caught.value.__notes__


def test_all_rows_that_fail_are_named() -> None:
    with pytest.raises(ExceptionGroup, match="2 of 4 rows fail") as caught:
        half(divisor=2)
    assert [error.__notes__ for error in caught.value.exceptions] == [
        ["row: (4, 3)"],
        ["row: (8, 5)"],
    ]


def test_the_other_arguments_are_fixtures() -> None:
    assert list(inspect.signature(half).parameters) == ["divisor"]


def test_a_table_without_rows_fails() -> None:
    @each_row("number", [])
    def never(number: int) -> None: ...

    with pytest.raises(AssertionError):
        never()
