"""The floor: an asyncio.Protocol that knows only where lines and mail data end."""

import asyncio
from typing import cast

ANSWERS = {
    b"DATA": b"354 go\r\n",
    b"EHLO": b"250 HELP\r\n",
    b"QUIT": b"221 Bye\r\n",
    b"STAR": b"220 go\r\n",
}


class Floor(asyncio.Protocol):
    """Answer with prepared bytes, in one write for each read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is not an instance of it.
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""
        self.in_data = False
        self.send(b"220 floor\r\n")

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        out = b""
        position = 0
        while True:
            end = buffer.find(b"\r\n.\r\n" if self.in_data else b"\r\n", position)
            if end < 0:
                break
            if self.in_data:
                out += b"250 OK\r\n"
                self.in_data = False
                position = end + 5
                continue
            verb = buffer[position : position + 4]
            out += ANSWERS.get(verb, b"250 OK\r\n")
            self.in_data = verb == b"DATA"
            position = end + 2
        # Keep only the last bytes of mail data: they may begin its end.
        self.buffer = (
            buffer[max(position, len(buffer) - 4) :] if self.in_data else buffer[position:]
        )
        if out:
            self.send(out)
            if out.endswith(b"221 Bye\r\n"):
                self.transport.close()

    def send(self, data: bytes) -> None:
        self.transport.write(data)
