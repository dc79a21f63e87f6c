"""The page of ``aiosmtpd inbox`` for the inboxes of a test run, in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from aiosmtpd.inbox.intake import Intake
from aiosmtpd.inbox.keep import Keep
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Store
from aiosmtpd.inbox.web import Web
from aiosmtpd.listen.addresses import Listen
from aiosmtpd.observers.faults import Faults

USUAL_PORT = 8025

PATIENCE = 3.0
"""Seconds that the page has to end, by a clock that no test can stop."""


class InboxPage:
    """Shows messages in the browser and has the API of ``aiosmtpd inbox``; it removes none.

    With *usual_port* the page is at port 8025 if that is free, else at any free port. *faults* are
    those that the page shows and changes.
    """

    def __init__(self, *, usual_port: bool = False, faults: Faults | None = None) -> None:
        self.store = Store(keep=Keep(None, None))
        #: Observes the servers whose messages are shown.
        self.intake = Intake(self.store)
        #: A tag for the messages that come.
        self.tag = ""
        #: True if it is to stay after the run until a person has looked at it.
        self.ask_to_look = False
        self.services = Services(self.store, faults=faults)
        if faults is not None:
            faults.on_strike = lambda server, fault: self.intake.fault(server, str(fault))
        self._usual_port = usual_port
        self._web: Web | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address of the page, ``""`` while it is not served."""
        return self._web.url if self._web else ""

    def start(self) -> None:
        """Serve the page; raises OSError if it cannot listen."""
        self.store.open()
        # New ones: the locks of the old ones belong to the event loop of the last run.
        self.services = Services(self.store, faults=self.services.faults)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="aiosmtpd inbox page", daemon=True
        )
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException:
            self._end_thread()
            raise

    async def _start(self) -> None:
        ports = [USUAL_PORT, 0] if self._usual_port else [0]
        for port in ports:
            web = Web(self.services, Listen(host="127.0.0.1", port=port))
            try:
                await web.start()
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not port:
                    raise
            else:
                self._web = web
                return

    def stop(self) -> None:
        """End the page, and forget its messages."""
        web, loop, self._web = self._web, self._loop, None
        if web is not None and loop is not None:
            # A test may have stopped or moved the clock of the event loop: a sleep never ends then.
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(web.stop(), loop).result(PATIENCE)
            self._end_thread()

    def _end_thread(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            if tasks := asyncio.all_tasks(self._loop):
                for task in tasks:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE))
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
        self._loop = self._thread = None
        self.store.close()

    def clear(self) -> None:
        """Remove all messages and refused attempts from the page."""
        if self._web is not None:
            self.store.delete(None).result()
            self.store.delete_attempts().result()

    async def take(self, server: Any, session: Any, envelope: Any) -> None:
        """Show a message that has been received."""

        async def body() -> AsyncIterator[bytes]:
            with envelope.open() as file:
                while piece := file.read(1 << 18):
                    yield piece

        if self._web is None:
            return
        reply = await self.intake.handle_BODY(server, session, envelope, body())
        text = reply[0] if isinstance(reply, list) else reply
        if self.tag and text.startswith("250"):
            tags = self.store.set_tags([text.rpartition(" ")[2]], [self.tag])
            await asyncio.wrap_future(tags)
