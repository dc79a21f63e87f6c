"""Types of options: each function parses one value or raises ArgumentTypeError."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from aiosmtpd.observers.faults import Fault

_T = TypeVar("_T")


def size(text: str) -> int:
    """Parse a number of bytes; K, M and G are powers of 1024, B or iB may follow."""
    match = re.fullmatch(r"([0-9][0-9_]*)([kmg]?)(?:i?b)?", text.strip(), re.ASCII | re.IGNORECASE)
    # int() refuses thousands of digits with an error of its own.
    if not match or len(text) > 30:
        raise ArgumentTypeError(f"invalid size: {text!r} (write 33554432, 500K, 10M or 1G)")
    factor = {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]
    return int(match[1].replace("_", "")) << factor


def seconds(text: str) -> float:
    """Parse a positive number of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < 1e9:
        raise ArgumentTypeError(f"invalid number of seconds: {text!r} (write 300 or 2.5)")
    return number


def count(text: str) -> int:
    """Parse a number from 1 on."""
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) == 0:
        raise ArgumentTypeError(f"invalid number: {text!r} (write 1 or more)")
    return int(text)


def count_or_none(text: str) -> int | None:
    """Parse a number; 0 is None."""
    try:
        return None if text == "0" else count(text)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"invalid number: {text!r} (write 0 for none, or more)") from None


def user_and_password(text: str) -> tuple[str, str]:
    """Parse ``USER:PASSWORD``; the error does not repeat the text, which is a secret."""
    user, colon, password = text.partition(":")
    if not (user and colon and password) or "\0" in text:
        raise ArgumentTypeError("invalid user and password (write USER:PASSWORD)")
    return user, password


def host_name(text: str) -> str:
    """Return a host name as it is, if it can stand in a greeting."""
    if not re.fullmatch(r"[!-~]{1,255}", text):
        raise ArgumentTypeError(f"invalid host name: {text!r} (write mx.example.com)")
    return text


def network(text: str) -> str:
    """Return a network or an address as it is, if it is valid."""
    from aiosmtpd.protocol.networks import parse  # seldom needed

    try:
        parse(text)
    except ValueError:
        examples = "write 10.0.0.0/8, 2001:db8::/32 or an address"
        raise ArgumentTypeError(f"invalid network: {text!r} ({examples})") from None
    return text


def fault(text: str) -> Fault:
    """Parse ``STAGE [PATTERN]: EFFECT [TIMES]``."""
    from aiosmtpd.observers.faults import parse_fault  # seldom needed

    return parsed(parse_fault, text)


def parsed(parse: Callable[[str], _T], text: str, complaint: str = "") -> _T:
    """Return what *parse* makes of the text; its ValueError, after *complaint*, is the error."""
    try:
        return parse(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{complaint}{error}") from None
