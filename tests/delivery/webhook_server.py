"""A real HTTP server in a thread, for the tests of webhooks."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs


@attrs.frozen
class Request:
    """A request that came."""

    path: str
    headers: dict[str, str]
    """The header fields, by their names in lower case."""
    body: bytes


@attrs.define
class Receiver:
    """Answers each request with a status, or as a function of the handler says."""

    url: str = ""
    answer: int | Callable[[Any], None] = 200
    headers: dict[str, str] = attrs.field(factory=dict)
    text: bytes = b"fine"
    requests: list[Request] = attrs.field(factory=list)
    ended: threading.Event = attrs.field(factory=threading.Event)

    @property
    def request(self) -> Request:
        (request,) = self.requests
        return request

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        size = int(handler.headers["content-length"])
        fields = {name.lower(): value for name, value in handler.headers.items()}
        assert len(fields) == len(handler.headers), "a field came twice"
        self.requests.append(Request(handler.path, fields, handler.rfile.read(size)))
        if callable(self.answer):
            self.answer(handler)
            return
        handler.send_response(self.answer)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        if self.answer != 204:
            handler.send_header("Content-Length", str(len(self.text)))
        handler.end_headers()
        if self.answer != 204:
            handler.wfile.write(self.text)

    # Answers that are faults.

    def hang(self, handler: Any) -> None:
        self.ended.wait(60)

    def reset(self, handler: Any) -> None:
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True
        handler.connection.close()

    def close(self, handler: Any) -> None:
        handler.close_connection = True

    def nonsense(self, handler: Any) -> None:
        handler.wfile.write(b"220 hello, this is SMTP\r\n\r\n")
        handler.close_connection = True

    def endless(self, status: int) -> Callable[[Any], None]:
        def answer(handler: Any) -> None:
            handler.send_response(status)
            handler.end_headers()
            with suppress(OSError):
                while not self.ended.is_set():
                    handler.wfile.write(b"x" * 65536)
            handler.close_connection = True

        return answer

    def silent_body(self, status: int) -> Callable[[Any], None]:
        def answer(handler: Any) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.flush()
            self.ended.wait(60)

        return answer


@contextmanager
def receiving(context: ssl.SSLContext | None = None, **values: Any) -> Iterator[Receiver]:
    """Serve on the loopback."""
    receiver = Receiver(**values)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            receiver.handle(self)

        def log_message(self, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        request_queue_size = 100

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A connection that this test broke is not reported."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        receiver.url = f"{scheme}://127.0.0.1:{server.server_port}/mail"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.ended.set()
            server.shutdown()
            thread.join()
