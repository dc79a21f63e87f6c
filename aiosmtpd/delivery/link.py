"""One connection to a NATS server, for as long as it lasts.

A connection that is lost, or that has not answered in time, is not mended but replaced: nats-py's
own reconnecting would send again what was reported as failed, and it gives up for ever after some
errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from aiosmtpd.delivery.item import Misconfigured
from aiosmtpd.delivery.jetstream import Address, Manifest

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext
    from nats.js.api import StreamInfo

log = logging.getLogger("mail.log")

# nats-py tries each server twice at the beginning, with this pause between, and then says so.
_TRIES = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0.02}

_CREDENTIALS = b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED"


def _reason(error: OSError) -> str:
    is_of_tls = isinstance(error, ssl.SSLError)
    return str(error) if is_of_tls or error.errno is None else os.strerror(error.errno)


def _rest(servers: list[Any], info: dict[str, Any]) -> tuple[None, float]:
    """Let nats-py wait a day before it reconnects; it is closed long before."""
    return None, 86400.0


@attrs.frozen(kw_only=True)
class Access:
    """The servers, and the way to get in; *timeout* is in seconds.

    With *tls* or *cafile*, a server without TLS gets neither secrets nor mail.
    """

    address: Address
    timeout: float
    tls: ssl.SSLContext | None = None
    cafile: str | None = None
    credentials: str | None = None

    @property
    def encrypted(self) -> bool:
        return self.tls is not None or self.cafile is not None

    def check(self) -> None:
        """Raise Misconfigured if a file or a package is missing, with one line."""
        try:
            self._context()
        except OSError as error:
            raise Misconfigured(
                f"{self.address}: cafile: {self.cafile}: {_reason(error)}"
            ) from None
        if self.credentials is None:
            return
        place = f"{self.address}: credentials: {self.credentials}"
        try:
            with open(self.credentials, "rb") as file:
                content = file.read()
        except OSError as error:
            raise Misconfigured(f"{place}: {_reason(error)}") from None
        if not all(mark in content for mark in _CREDENTIALS):
            # nats-py would read on for ever.
            raise Misconfigured(f"{place}: no credentials of NATS")
        if find_spec("nkeys") is None:
            raise Misconfigured(f"{self.address}: credentials needs pip install nkeys")

    def _context(self) -> ssl.SSLContext | None:
        if self.tls is None and self.cafile is not None:
            return ssl.create_default_context(cafile=self.cafile)
        return self.tls

    async def link(self, lost: Callable[[], None] = lambda: None) -> Link:
        """Return a new connection; *lost* is called once when it ends by itself.

        Raises ConnectionError if no server answers, TimeoutError if one does not go on, and
        Misconfigured.
        """
        from nats.aio.client import Client
        from nats.errors import NoServersError

        self.check()
        link = Link(Client(), self.timeout, lost)
        try:
            async with asyncio.timeout(self.timeout):
                await link.client.connect(**self._options(link))
                await link.listen()
            link.is_new = False
            self._check_tls(link)
        except (NoServersError, ssl.SSLError):
            await link.end()
            does = "no server lets us in at" if link.answers else "cannot reach"
            raise ConnectionError(f"{does} {self.address}: {link.troubles}") from None
        except BaseException:
            await link.end()
            raise
        return link

    def _check_tls(self, link: Link) -> None:
        """Raise ConnectionError if the connection should have TLS and has not."""
        if self.encrypted and not link.encrypted:
            raise ConnectionError(f"{self.address} offers no TLS")

    def _secret(self, link: Link, text: str) -> str:
        """Called when nats-py is about to send it: without TLS at the server, it would go on."""
        if self.encrypted and not link.encrypted:
            raise ConnectionError("the server offers no TLS")
        return text

    def _options(self, link: Link) -> dict[str, Any]:
        context = self._context()
        login = {
            name: partial(self._secret, link, text) for name, text in self.address.login.items()
        }
        return {
            "servers": list(self.address.servers),
            "name": "aiosmtpd",
            "error_cb": link.on_error,
            "disconnected_cb": link.on_disconnect,
            "reconnect_to_server_handler": _rest,
            "connect_timeout": self.timeout,
            # Without this, a publication without a connection would wait for the next one.
            "pending_size": -1,
            "user_credentials": self.credentials,
            **({"tls": context} if context else {}),
            **_TRIES,
            **login,
        }


class Stored(NamedTuple):
    """The acknowledgement of a publication: its number in the stream."""

    sequence: int
    duplicate: bool
    """True if the stream had its id already."""


class Link:
    """One connection, and those that wait for an answer on it."""

    def __init__(self, client: Client, timeout: float, lost: Callable[[], None]) -> None:
        self.client = client
        self.timeout = timeout
        self.lost = False
        """True when the connection ended by itself."""
        self.retired = False
        """True when the connection ends as soon as the last user has its answer."""
        self.is_new = True
        """True until nats-py has connected."""
        self.answers = False
        """True if a server was reached, and reported an error."""
        self._troubles: dict[str, None] = {}
        self._tell = lost
        self._deadlines: set[asyncio.Timeout] = set()
        self._end: asyncio.Task[None] | None = None
        self._is_unsafe = False
        self._inbox = ""
        self._asked = 0
        self._answers: dict[str, asyncio.Future[Msg]] = {}

    @property
    def troubles(self) -> str:
        """The errors that nats-py has reported, each once."""
        return "; ".join(self._troubles)

    @property
    def encrypted(self) -> bool:
        """True if TLS protects the connection; nats-py does not say so in public."""
        writer = self._writer()
        return writer is not None and writer.get_extra_info("ssl_object") is not None

    def _writer(self) -> Any:
        return getattr(getattr(self.client, "_transport", None), "_io_writer", None)

    @property
    def usable(self) -> bool:
        return not (self.lost or self.retired)

    def jetstream(self) -> JetStreamContext:
        return self.client.jetstream(timeout=self.timeout)

    @contextlib.contextmanager
    def used_until(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Let *deadline* expire at once if the connection is lost inside the block."""
        if self.lost:
            raise ConnectionResetError("the connection is lost")
        self._deadlines.add(deadline)
        try:
            yield
        finally:
            self._deadlines.discard(deadline)
            if self.retired and not self._deadlines:
                self._begin_end()

    async def listen(self) -> None:
        """Subscribe to the answers, once for all that :meth:`_answer` waits for."""
        inbox = f"{self.client.new_inbox()}."
        await self.client.subscribe(f"{inbox}*", cb=self._on_answer)
        self._inbox = inbox

    async def ask(self, subject: str, body: bytes) -> bytes:
        """Return the answer to a request; raises TimeoutError if it does not come in time."""
        from nats.errors import NoRespondersError

        async with asyncio.timeout(self.timeout) as deadline:
            with self.used_until(deadline):
                answer = await self._answer(subject, body)
        if _nobody_heard(answer):
            raise NoRespondersError
        return answer.data

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> Stored:
        """Publish to a stream; return its acknowledgement, for which the caller limits the time.

        Raises the errors of nats-py.
        """
        from nats.js.errors import APIError, NoStreamResponseError

        answer = await self._answer(subject, body, headers)
        if _nobody_heard(answer):
            raise NoStreamResponseError
        facts = json.loads(answer.data)
        if "error" in facts:
            raise APIError.from_error(facts["error"])
        return Stored(facts["seq"], facts.get("duplicate", False))

    async def _answer(
        self, subject: str, body: bytes, headers: dict[str, str] | None = None
    ) -> Msg:
        """Publish, and return what comes back; the caller limits the time.

        nats-py's own way takes twice the CPU time, with a random inbox and a time-out for each
        one. And its ``asyncio.wait_for`` can lose a cancellation, such as that of a time-out
        around it, when the answer comes in the same turn of the loop (Python 3.11).
        """
        self._asked += 1
        reply = f"{self._inbox}{self._asked}"
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._answers[reply] = future
        try:
            await self.client.publish(subject, body, reply, headers)
            return await future
        finally:
            del self._answers[reply]

    async def _on_answer(self, answer: Msg) -> None:
        future = self._answers.get(answer.subject)
        if future is not None and not future.done():
            future.set_result(answer)

    def retire(self) -> None:
        """End the connection when the last answer has come."""
        self.retired = True
        if not self._deadlines:
            self._begin_end()

    async def on_error(self, error: Exception) -> None:
        text = str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            text = f"its certificate is not trusted: {error.verify_message}"
        elif isinstance(error, ssl.SSLError):
            text = f"TLS fails: {error.reason}"
        elif isinstance(error, OSError):
            text = os.strerror(error.errno).lower() if error.errno else text
        else:
            self.answers = True
        self._troubles[text] = None
        log.debug("NATS: %s", error)
        if self.is_new and isinstance(error, ssl.SSLError):
            # nats-py would wait without end for the connection to close.
            self._is_unsafe = True
            raise error

    async def on_disconnect(self) -> None:
        if self.lost or self._end is not None:
            return
        self.lost = True
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            # One whose time is up cannot be moved any more.
            if not deadline.expired():
                deadline.reschedule(now)
        self._begin_end()
        self._tell()

    def _begin_end(self) -> None:
        if self._end is None:
            self._end = asyncio.get_running_loop().create_task(self._ended())

    async def end(self) -> None:
        """End the connection now."""
        self._begin_end()
        assert self._end is not None
        await asyncio.shield(self._end)

    async def _ended(self) -> None:
        # nats-py would wait without end for a server that takes no more bytes, and has no public
        # way not to. The senders of the bytes that are dropped here know that they have failed.
        writer = self._writer()
        if writer is not None and (
            self.lost or self.retired or writer.transport.get_write_buffer_size()
        ):
            self.client._pending = []
            self.client._pending_data_size = 0
            writer.transport.abort()
        if self._is_unsafe:
            return
        try:
            async with asyncio.timeout(self.timeout):
                await self.client.close()
        except Exception as error:
            log.debug("NATS: %r at the end of a connection", error)
            if writer is not None:
                writer.transport.abort()
        except asyncio.CancelledError:
            # nats-py has cancelled its own wait for the same transport, not this task.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise


def _nobody_heard(answer: Msg) -> bool:
    return answer.headers is not None and answer.headers.get("Status") == "503"


async def stream_of(stream: JetStreamContext, subject: str) -> StreamInfo | None:
    """Return the stream that takes *subject*, or None; raises Misconfigured without JetStream."""
    from nats.js.errors import NotFoundError, ServiceUnavailableError

    try:
        name = await stream.find_stream_name_by_subject(subject)
        return await stream.stream_info(name)
    except NotFoundError:
        return None
    except ServiceUnavailableError as error:
        if error.err_code is None:
            raise Misconfigured("the server has no JetStream: start it with --jetstream") from None
        raise


def advice_for(subject: str, name: str, subjects: str) -> str:
    """Return the command that makes a stream, which *subject* needs."""
    return (
        f"no stream takes the subject {subject}: nats stream add {name} --subjects '{subjects}'"
        " --storage file --discard new --retention work --defaults"
    )


Ask = Callable[[str, bytes], Awaitable[bytes]]


async def message_at(ask: Ask, stream: str, sequence: int) -> dict[str, Any]:
    """Return the facts of a message of *stream*; raises NotFoundError, and APIError for others."""
    from nats.js.errors import APIError

    request = json.dumps({"seq": sequence}).encode()
    answer = json.loads(await ask(f"$JS.API.STREAM.MSG.GET.{stream}", request))
    if "error" in answer:
        raise APIError.from_error(answer["error"])
    found: dict[str, Any] = answer["message"]
    return found


async def forget(ask: Ask, manifest: Manifest) -> None:
    """Delete the chunks of *manifest*; those that cannot be deleted stay until their max_age."""
    for piece in manifest.pieces:
        request = json.dumps({"seq": piece.sequence, "no_erase": True}).encode()
        answer = json.loads(await ask(f"$JS.API.STREAM.MSG.DELETE.{manifest.stream}", request))
        if "error" in answer:
            log.warning("%s: a chunk stays: %s", manifest.subject, answer["error"])


def is_broken(error: Exception) -> bool:
    """Return True for an error of the connection, after which another one is needed."""
    from nats import errors

    return isinstance(
        error,
        TimeoutError
        | OSError
        | errors.ConnectionClosedError
        | errors.ConnectionDrainingError
        | errors.ConnectionReconnectingError
        | errors.MaxPayloadError
        | errors.OutboundBufferLimitError
        | errors.StaleConnectionError,
    )
