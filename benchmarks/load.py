"""The load: scenarios that send prebuilt octets over blocking sockets and check every reply."""

import socket
import ssl
from collections.abc import Callable

import attrs

PATIENCE = 30.0
EHLO = b"EHLO client.test\r\n"
MAIL = b"MAIL FROM:<sender@example.com>\r\n"
RCPT = b"RCPT TO:<receiver@example.com>\r\n"
DATA = b"DATA\r\n"
QUIT = b"QUIT\r\n"


def message(octets: int, line: int = 76, begin: bytes = b"x") -> bytes:
    """Return mail data of about *octets* octets in lines of *line* octets, with its end."""
    one = begin + b"x" * (line - len(begin)) + b"\r\n"
    return b"Subject: benchmark\r\n\r\n" + one * (octets // len(one)) + b".\r\n"


SMALL = message(1000)


class Client:
    """A connection that has said EHLO."""

    def __init__(self, port: int, tls: bool = False) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.expect(b"220")
        self.ask(EHLO, b"250")
        if tls:
            self.ask(b"STARTTLS\r\n", b"220")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket)
            self.ask(EHLO, b"250")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def expect(self, code: bytes, replies: int = 1) -> None:
        """Read *replies* replies, of which the last begins with *code*."""
        got = b""
        while True:
            last = [line for line in got.split(b"\r\n")[:-1] if line[3:4] == b" "]
            if len(last) >= replies:
                break
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            got += data
        if not last[-1].startswith(code):
            raise RuntimeError(f"expected {code!r}, got {last[-1]!r}")

    def ask(self, data: bytes, code: bytes) -> None:
        self.send(data)
        self.expect(code)

    def deliver(self, body: bytes, recipients: int = 1) -> None:
        self.ask(MAIL, b"250")
        for _ in range(recipients):
            self.ask(RCPT, b"250")
        self.ask(DATA, b"354")
        self.ask(body, b"250")

    def close(self) -> None:
        self.socket.close()


def in_lockstep(port: int, messages: int) -> None:
    """Ten connections that each wait for every reply."""
    clients = [Client(port) for _ in range(10)]
    for _ in range(messages // 10):
        for data, code in ((MAIL, b"250"), (RCPT, b"250"), (DATA, b"354"), (SMALL, b"250")):
            for client in clients:
                client.send(data)
            for client in clients:
                client.expect(code)
    for client in clients:
        client.close()


def in_one_write(port: int, messages: int) -> None:
    clients = [Client(port) for _ in range(10)]
    for _ in range(messages // 10):
        for client in clients:
            client.send(MAIL + RCPT + DATA + SMALL)
        for client in clients:
            client.expect(b"250", replies=4)
    for client in clients:
        client.close()


def a_connection_each(port: int, messages: int) -> None:
    """Ten connections at a time, all at the same step, for each ten messages."""
    for _ in range(messages // 10):
        clients = [Client(port) for _ in range(10)]
        steps = ((MAIL, b"250"), (RCPT, b"250"), (DATA, b"354"), (SMALL, b"250"), (QUIT, b"221"))
        for data, code in steps:
            for client in clients:
                client.send(data)
            for client in clients:
                client.expect(code)
        for client in clients:
            client.close()


def one_by_one(body: bytes, recipients: int = 1, tls: bool = False) -> Callable[[int, int], None]:
    def run(port: int, messages: int) -> None:
        client = Client(port, tls)
        for _ in range(messages):
            client.deliver(body, recipients)
        client.close()

    return run


def starttls_each(port: int, messages: int) -> None:
    for _ in range(messages):
        client = Client(port, tls=True)
        client.deliver(SMALL)
        client.close()


def hundred_pipelined(port: int, messages: int) -> None:
    client = Client(port)
    for _ in range(messages):
        client.send(MAIL + RCPT * 100 + DATA + SMALL)
        client.expect(b"250", replies=103)
    client.close()


def in_chunks(octets: int) -> Callable[[int, int], None]:
    """One chunk for each message: RFC 3030."""
    body = message(octets)[:-3]
    chunk = b"BDAT %d LAST\r\n" % len(body) + body

    def run(port: int, messages: int) -> None:
        client = Client(port)
        for _ in range(messages):
            client.ask(MAIL, b"250")
            client.ask(RCPT, b"250")
            client.ask(chunk, b"250")
        client.close()

    return run


@attrs.frozen
class Scenario:
    """What is sent, how often in a round, to which kind of server."""

    title: str
    run: Callable[[int, int], None]
    messages: int
    server: str = "smtp"
    quick: bool = True


SCENARIOS = {
    "lockstep": Scenario("1 KB, lockstep, 10 connections", in_lockstep, 1000),
    "one-write": Scenario("1 KB, a transaction in one write", in_one_write, 1500),
    "hooks": Scenario("1 KB, a hook on every step", in_lockstep, 1000, "hooks", quick=False),
    "connections": Scenario("1 KB, a connection each", a_connection_each, 400),
    "recipients": Scenario("100 recipients, lockstep", one_by_one(SMALL, 100), 30),
    "recipients-one-write": Scenario(
        "100 recipients, in one write", hundred_pipelined, 50, quick=False
    ),
    "1MB": Scenario("1 MB in lines of 76 octets", one_by_one(message(10**6)), 20),
    "25MB": Scenario("25 MB in lines of 76 octets", one_by_one(message(25 * 10**6)), 1),
    "1MB-long-lines": Scenario(
        "1 MB in lines of 998 octets", one_by_one(message(10**6, 998)), 20, quick=False
    ),
    "1MB-stuffed": Scenario(
        "1 MB of stuffed lines", one_by_one(message(10**6, 76, b"..")), 20, quick=False
    ),
    "starttls": Scenario("STARTTLS and 1 KB, each", starttls_each, 60, "starttls", quick=False),
    "pipelined": Scenario(
        "1 KB, a transaction in one write, modern", in_one_write, 1500, "modern", quick=False
    ),
    "1MB-chunk": Scenario("1 MB by BDAT, modern", in_chunks(10**6), 20, "modern", quick=False),
    "25MB-chunk": Scenario(
        "25 MB by BDAT, modern", in_chunks(25 * 10**6), 1, "modern", quick=False
    ),
    "100MB-stream": Scenario(
        "100 MB to handle_BODY", one_by_one(message(10**8)), 1, "stream", quick=False
    ),
    "tls": Scenario(
        "1 KB on an open TLS connection", one_by_one(SMALL, tls=True), 500, "starttls", quick=False
    ),
}
