"""The floor in TLS: the bare protocol and this project's layer of TLS, nothing else of it."""

import asyncio
import ssl
from typing import cast

from floor import Floor

from aiosmtpd.engine.tls import TLS


class TLSFloor(Floor):
    """The floor in TLS, from the start or after STARTTLS."""

    def __init__(self, context: ssl.SSLContext, from_start: bool) -> None:
        self.context = context
        self.from_start = from_start
        self.tls = TLS(context) if from_start else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.tls is None:
            super().connection_made(transport)
        else:
            self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if (tls := self.tls) is None:
            super().data_received(data)
            if data == b"STARTTLS\r\n":
                self.tls = TLS(self.context)
            return
        plain = b""
        if tls.established:
            plain = tls.receive(data)
        else:
            tls.feed(data)
            if tls.shake_hands():
                if self.from_start:
                    super().connection_made(self.transport)
                plain = tls.receive()
        if plain:
            super().data_received(plain)
        if out := tls.output():
            self.transport.write(out)

    def send(self, data: bytes) -> None:
        self.transport.write(data if self.tls is None else self.tls.write(data))
