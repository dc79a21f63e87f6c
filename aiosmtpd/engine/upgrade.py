"""The way of a connection into TLS: by STARTTLS, or on a port that speaks TLS from the start.

The steps of one handshake. Before it the connection reads plain bytes, after it records. It begins
in the driver (``start_tls`` for a STARTTLS with hooks or overrides, ``begin_tls`` on a port with
TLS), which waits for its end; or in the fast path (``begin_in_fast_path``) while the driver is at
rest. Each read takes a step (``take_step``). The last one begins the session in TLS if the driver
is at rest; else the driver does that (``end_handshake``, or ``end_at_rest`` after a rest).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiosmtpd.engine.transport import Ciphertext, Transport
from aiosmtpd.engine.wakeup import Disconnected
from aiosmtpd.engine.wire import acknowledge
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.receiver import TLS_HANDSHAKE

if TYPE_CHECKING:
    from aiosmtpd.engine.connection import Connection
    from aiosmtpd.engine.tls import TLS
    from aiosmtpd.protocol.limits import Limits
    from aiosmtpd.protocol.replies import Reply

LIKELY_CAUSE = " (this port speaks TLS from the start, the client may not)"


class TLSSetupException(Exception):
    """A TLS handshake failed; the reason is its cause."""


def handshake_timeout(timeout: float, limits: Limits) -> float:
    """Return the seconds that a TLS handshake may take."""
    return min(timeout, limits.handshake_timeout or timeout)


async def start_tls(
    connection: Connection, context: ssl.SSLContext | Callable[[], ssl.SSLContext], go_ahead: Reply
) -> None:
    """Switch to TLS: RFC 3207. Raises TLSSetupException if the handshake fails.

    The client gets *go_ahead* if there is a context.
    """
    context = context_of(context)
    await connection.push(go_ahead)
    connection._flush()
    if connection._raw is None or connection._closing:
        raise Disconnected
    # No await from here to the handshake: commands sent in the clear are never run: RFC 3207
    # section 6.
    connection._receiver.clear()
    connection._original_transport = connection.transport
    begin_handshake(connection, layer()(context))
    await end_handshake(connection)


def context_of(context: ssl.SSLContext | Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the context of a new connection."""
    if not isinstance(context, ssl.SSLContext) and callable(context):
        context = context()
    return context


async def end_handshake(connection: Connection) -> None:
    """Wait for the end of the handshake of STARTTLS. Raises TLSSetupException if it fails."""
    begin_tls_session(connection, await _wait_for_handshake(connection))
    if (told := connection._tls_established()) is not None:
        await told


async def end_at_rest(connection: Connection) -> None:
    """Wait for the end of a handshake that began while the driver was at rest."""
    try:
        await end_handshake(connection)
    except TLSSetupException as error:
        await connection.handle_exception(error)


def begin_in_fast_path(connection: Connection, context: Any) -> bool:
    """Begin the handshake of a STARTTLS without the driver; return False if that must do it."""
    try:
        tls = layer()(context if isinstance(context, ssl.SSLContext) else context_of(context))
    except Exception:
        # It fails again in the driver, which replies to that.
        return False
    go_ahead = replies.READY_FOR_TLS
    connection._send_now(
        connection._octets(go_ahead) if connection._with_codes else go_ahead.octets
    )
    connection._original_transport = connection.transport
    begin_handshake(connection, tls)
    return True


def begin_tls_session(connection: Connection, raw: asyncio.Transport) -> None:
    """Begin a new session in TLS, after STARTTLS."""
    connection.connection_made(Transport(connection, raw, connection._tls))
    # The patience with a handshake ends, which is never more than the usual one: no timer is set.
    connection._deadline = monotonic() + connection.settings.timeout
    if connection._watch is not None:
        connection._watch.tls("ok")


async def begin_tls(connection: Connection, context: ssl.SSLContext) -> None:
    """Begin a session in TLS, on a port that speaks TLS from the start.

    A client that speaks without TLS is answered so. Raises Disconnected.
    """
    connection._reset_timeout(
        handshake_timeout(connection.settings.timeout, connection.settings.limits)
    )
    while not connection._receiver.waiting:
        await connection._more()
    if not connection._receiver.starts_with(TLS_HANDSHAKE):
        connection.tls_from_start = None
        reason = f"TLS handshake failed: no TLS{LIKELY_CAUSE}"
        connection.disconnect(replies.TLS_ONLY, reason=reason)
        raise Disconnected
    begin_handshake(connection, layer()(context))
    try:
        raw = await _wait_for_handshake(connection)
    except TLSSetupException:
        raise Disconnected from None
    transport = Transport(connection, raw, connection._tls)
    connection.transport = connection.session_transport = transport
    connection._reset_timeout()
    connection._note_tls(transport)
    if connection._watch is not None:
        connection._watch.tls("ok")


@cache
def layer() -> type[TLS]:
    """Return the layer of TLS: an import statement for each connection takes 1 µs."""
    from aiosmtpd.engine.tls import TLS  # not needed without TLS

    return TLS


def begin_handshake(connection: Connection, tls: TLS) -> None:
    """Take the bytes of the client as records of TLS from now on."""
    connection._tls = tls
    if (raw := connection._raw) is not None and (
        not type(raw).__module__.startswith("asyncio.") or raw.get_protocol() is not connection
    ):
        # Other event loops may make bytes of each read: see Ciphertext. A protocol of the
        # program's, which has handed on the plain bytes, does not know of ciphertext.
        raw.set_protocol(Ciphertext(connection))
    if connection._receiver.waiting:
        # TLS from the start: the first bytes of the handshake have been looked at.
        connection.ciphertext_received(connection._receiver.take(len(connection._receiver)))
    connection._reset_timeout(
        handshake_timeout(connection.settings.timeout, connection.settings.limits)
    )


async def _wait_for_handshake(connection: Connection) -> asyncio.Transport:
    """Wait until TLS is established; return the transport of the ciphertext.

    Raises TLSSetupException if the handshake fails, or if the client has gone.
    """
    try:
        while connection._tls is not None and not connection._tls.established:
            if connection._tls_failure is not None:
                raise connection._tls_failure
            await connection._more()
        if (raw := connection._raw) is None:
            raise Disconnected
        return raw
    except (Disconnected, OSError) as error:
        # Without a variable here, which would keep the connection until a garbage collection: the
        # traceback of the failure has this frame.
        raise TLSSetupException from _note_failure(connection, error)


def _note_failure(connection: Connection, error: Exception) -> Exception:
    """Close a connection whose handshake has failed; return why."""
    failure = connection._tls_failure or error
    why = str(failure) or connection._reason or "the client has gone"
    if not connection._reason.startswith("TLS handshake failed"):
        connection._reason = f"TLS handshake failed: {why}"
    if connection._watch is not None:
        connection._watch.tls(str(failure) or type(failure).__name__)
    connection._closing = True
    if connection._raw is not None:
        connection._close_without_tls(connection._raw)
    return failure


def take_step(connection: Connection) -> None:
    """Take the next step of the handshake, with all that the client has sent."""
    tls, raw = connection._tls, connection._raw
    if tls is None or raw is None or tls.established or connection._closing:
        return
    try:
        is_done = tls.shake_hands()
    except ssl.SSLError as error:
        connection._break_off(tls, error)
        return
    a_reply_follows = False
    if is_done:
        if connection.tls_from_start is not None:
            a_reply_follows = True
            tls.hold_tickets()
        # After STARTTLS the tickets leave at once, or with the first reply. A client with Nagle's
        # algorithm, such as Postfix, sends its EHLO only when the end of its handshake is
        # acknowledged: 40 ms later without them.
        if connection._at_rest and connection._wakeup.waiting and connection._stopping is None:
            # The driver is not needed.
            begin_tls_session(connection, raw)
        else:
            connection._wakeup.wake()
        if tls.has_more:
            # The client has said something already.
            a_reply_follows = True
            connection.ciphertext_received(b"")
    if (out := tls.output()) and connection._raw is not None:
        connection._raw.write(out)
    elif not a_reply_follows:
        # GnuTLS ends its handshake in two packets, and a ClientHello may have two. After STARTTLS
        # the end has no answer if the context gives no tickets.
        acknowledge(raw)


def give_up(connection: Connection) -> None:
    """End a connection whose handshake takes too long, or never began."""
    seconds = handshake_timeout(connection.settings.timeout, connection.settings.limits)
    if connection._tls is None:
        # A client that waits for a banner sends nothing.
        why = f"nothing came in {seconds:g} seconds{LIKELY_CAUSE}"
    else:
        why = f"it took more than {seconds:g} seconds"
    connection._tls_failure = TimeoutError(why)
    connection.disconnect(reason=f"TLS handshake failed: {why}")
