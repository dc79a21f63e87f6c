"""The connection as its parts see it: transaction, AUTH exchange, arguments and fast path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Transport
    from collections.abc import Iterable
    from ssl import SSLContext

    from aiosmtpd.engine.body import ChunkSource
    from aiosmtpd.engine.observer import Stage, Watch
    from aiosmtpd.engine.registry import Registry
    from aiosmtpd.engine.wakeup import Wakeup
    from aiosmtpd.protocol.limits import Limits, Meter
    from aiosmtpd.protocol.receiver import Receiver
    from aiosmtpd.protocol.replies import Reply
    from aiosmtpd.protocol.session import Envelope, Session
    from aiosmtpd.protocol.settings import Settings


class Transactions(Protocol):
    """The mail transactions of a connection."""

    async def begin_plain(self, mailbox: str) -> None:
        """Take the reverse-path of a MAIL without parameters."""

    async def add_plain_recipient(self, mailbox: str) -> None:
        """Take the forward-path of a RCPT without parameters."""

    async def receive_data(self, asked: float | None = None) -> None:
        """Take the message after a DATA that was answered at the time *asked*."""

    def data_patience(self) -> float:
        """Return the seconds for which the server waits for mail data."""


class ServerSide(Protocol):
    """The server's side of one connection."""

    loop: AbstractEventLoop
    session: Session
    envelope: Envelope
    event_handler: Any
    settings: Settings
    line_length_limit: int
    protocol_family: str
    data_size_limit: int | None
    decode_data: bool
    enable_SMTPUTF8: bool
    tls_context: Any

    _at_rest: bool
    _auth_failures_left: int | None
    _chunks: ChunkSource | None
    _client_is_active: bool
    _closing: bool
    _interrupted: bool
    _last_hook: str
    _last_status: str | bytes
    _masked: int
    _meter: Meter
    _raw: Transport | None
    _receiver: Receiver
    _hostname: str | None
    _reason: str
    _wakeup: Wakeup
    registry: Registry | None
    tls_from_start: SSLContext | None
    _stopping: Reply | None
    _taken: tuple[Callable[..., Awaitable[None]], Any] | None
    _tls_handshake_okay: bool
    _tls_protocol: Any
    _watch: Watch | None
    _with_codes: bool

    @property
    def transaction(self) -> Transactions:
        """The mail transactions."""

    @property
    def limits(self) -> Limits:
        """The limits of the server."""

    @property
    def hostname(self) -> str:
        """The name of this server."""

    @property
    def starttls_offered(self) -> bool:
        """True if there is a TLS context and no TLS yet."""

    def offer_of_auth(self) -> str | None:
        """Return the EHLO line of AUTH."""

    @property
    def _client(self) -> Any:
        """The client, as log lines name it."""

    @property
    def session_id(self) -> str:
        """Eight hexadecimal digits."""

    # Replies.

    async def push(self, status: str | bytes) -> None:
        """Send a reply as it is."""

    async def _answer(self, status: Any) -> None:
        """Send the answer of a hook, as exactly one reply."""

    async def _answer_data(self, status: Any, envelope: Envelope) -> None:
        """Send the reply to a whole transaction."""

    def _send_now(self, data: bytes) -> None:
        """Send bytes at once that the observers know of."""

    def _hold(self, data: bytes) -> None:
        """Put bytes after those that are sent next."""

    def _octets(self, status: str | bytes) -> bytes:
        """Return a reply as it is sent."""

    def _end_with(self, reply: Reply) -> None:
        """Close the connection after a reply that has been pushed."""

    def disconnect(self, reply: str | None = None, *, reason: str = "") -> None:
        """Send a reply and close."""

    def _knows_its_name(self) -> bool:
        """Return True if the server's name need not be looked up."""

    def _ask_for_admission(self, registry: Registry) -> None:
        """Count the connection among the server's; raise Refused if there are too many."""

    def _switch_to_tls(self) -> bool:
        """Begin the handshake of STARTTLS; return False if that is not possible here."""

    # The driver.

    def _more(self) -> Awaitable[None]:
        """Wait until there may be more from the client."""

    async def _run_commands(self) -> bool:
        """Run what the client has sent."""

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Give the client so many seconds from now."""

    def _log(self, level: int, message: str, *args: Any, error: Exception | None = None) -> None:
        """Log with the session's id."""

    # Hooks and what programs override.

    async def _call_handler_hook(self, command: str, *args: Any) -> Any:
        """Call the handler's hook of a command."""

    async def _call_new_hook(self, command: str, *args: Any) -> Any:
        """Call a hook that 1.4 does not have."""

    async def _before(self, stage: Stage, argument: Any = None) -> None:
        """Ask the observers before a stage."""

    async def _replies_for(self, status: Any, recipients: int) -> list[Reply]:
        """Return the replies to a message."""

    async def _before_message(self, envelope: Envelope) -> None:
        """Ask the observers before a message is handed over."""

    async def _process_message(self) -> Any:
        """Hand the message to a handler of an old form."""

    async def handle_exception(self, error: Exception) -> str:
        """Return the reply to a command that raised *error*."""

    async def check_helo_needed(self, helo: str = "HELO") -> bool:
        """Refuse the command if the client has not greeted yet."""

    async def check_auth_needed(self, caller: str) -> bool:
        """Refuse the command if AUTH must come first."""

    def _set_rset_state(self) -> None:
        """Forget the transaction that the client gave up."""

    def _set_post_data_state(self) -> None:
        """Forget the transaction that has ended."""

    def _strip_command_keyword(self, keyword: str, arg: str) -> str | None:
        """Return the text after a keyword."""

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Return an address and the text after it."""

    def _getparams(self, params: Iterable[str]) -> dict[str, str | bool] | None:
        """Return parameters by keyword."""
