"""A plain function as a handler: it gets each message as one value."""

from __future__ import annotations

from functools import cached_property
from inspect import isclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from public import public

from aiosmtpd.engine import hooks
from aiosmtpd.protocol import replies

if TYPE_CHECKING:
    from email.message import EmailMessage

    from aiosmtpd.protocol.session import Envelope, Session

_OF_HANDLERS = ("handle_", "auth_", "process_message")


@public
class Mail:
    """One message as it was received: the argument of a function that is a handler.

    ``session`` and ``envelope`` are those of the hooks.
    """

    def __init__(self, session: Session, envelope: Envelope) -> None:
        self.session = session
        self.envelope = envelope

    @property
    def sender(self) -> str:
        """The reverse-path; ``"<>"`` for the null one."""
        return self.envelope.mail_from or ""

    @property
    def recipients(self) -> list[str]:
        """The forward-paths."""
        return self.envelope.rcpt_tos

    @property
    def content(self) -> bytes:
        """The mail data as it came."""
        return self.envelope.original_content or b""

    @cached_property
    def message(self) -> EmailMessage:
        """The message, parsed by the standard library's ``email`` with its default policy."""
        from email import message_from_bytes  # 10 ms, seldom needed
        from email.policy import default as default_policy

        return message_from_bytes(self.content, policy=default_policy)

    def __repr__(self) -> str:
        return f"<Mail from {self.sender!r} to {self.recipients!r}, {len(self.content)} bytes>"


class FunctionHandler:
    """A handler that gives each message to a function."""

    def __init__(self, function: Any) -> None:
        self.function = function

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> Any:
        """Call the function; None means that it took the message."""
        status = await hooks.call(self.function, self.function, Mail(session, envelope))
        return replies.OK if status is None else status


def handler_of(handler: Any) -> Any:
    """Return the handler, or one that calls it if it is a function or like one."""
    kind = type(handler)
    if not callable(handler) or isclass(handler) or hasattr(kind, "__getattr__"):
        # A class may be a handler itself, and a mock can be called whatever it stands for.
        return handler
    if kind is FunctionType or not any(name.startswith(_OF_HANDLERS) for name in dir(handler)):
        return FunctionHandler(handler)
    return handler
