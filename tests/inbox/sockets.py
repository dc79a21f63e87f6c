"""A client of WebSockets for tests, on one blocking socket."""

import json
import socket
from collections.abc import Iterator
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate


class WebSocket:
    """A connection; :attr:`status` is 101 if it was accepted."""

    def __init__(self, port: int, path: str, **headers: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._connection = WSConnection(ConnectionType.CLIENT)
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        host = headers.pop("host", f"127.0.0.1:{port}")
        extra = [one for one in extra if one[0] != b"host"]
        request = Request(
            host=host, target=path, extra_headers=extra, extensions=[PerMessageDeflate()]
        )
        self._events = self._read()
        self.closed: CloseConnection | None = None
        self.deflates = False
        self.send(request)
        answer = next(self._events)
        if isinstance(answer, AcceptConnection):
            self.status = 101
            self.deflates = bool(answer.extensions)
        else:
            assert isinstance(answer, RejectConnection)
            self.status = answer.status_code

    def send(self, event: Any) -> None:
        self._socket.sendall(self._connection.send(event))

    def _read(self) -> Iterator[Event]:
        while True:
            yield from self._connection.events()
            data = self._socket.recv(65536)
            self._connection.receive_data(data or None)

    def frames(self) -> Iterator[Any]:
        """Yield the frames as ``(type, data)`` until the server closes."""
        text = ""
        for event in self._events:
            if isinstance(event, CloseConnection):
                self.closed = event
                return
            if isinstance(event, Ping):
                self.send(event.response())
            assert not isinstance(event, BytesMessage)
            if isinstance(event, TextMessage):
                text += event.data
                if event.message_finished:
                    frame = json.loads(text)
                    assert frame.keys() == {"Type", "Data"}
                    yield frame["Type"], frame["Data"]
                    text = ""

    def close(self) -> None:
        self._socket.close()
