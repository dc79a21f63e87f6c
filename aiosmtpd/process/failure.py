"""The error that ends a program with one line."""

from __future__ import annotations


class Failure(Exception):
    """The program cannot go on; the text says why in one line, *code* is the exit code."""

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


def one_line(error: BaseException) -> str:
    """Return an exception's class and text in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def reason_of(error: Exception) -> str:
    """Return the text of the system for an error of a connection, in small letters."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
