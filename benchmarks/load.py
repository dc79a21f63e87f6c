"""The load: prepared bytes, sent over plain sockets; every reply is checked."""

import select
import socket
import ssl
import time
from collections.abc import Sequence
from typing import NamedTuple

PATIENCE = 60.0
EHLO = b"EHLO client.test\r\n"
MAIL = b"MAIL FROM:<sender@example.com>\r\n"
RCPT = b"RCPT TO:<receiver@example.com>\r\n"
DATA = b"DATA\r\n"
QUIT = b"QUIT\r\n"
STARTTLS = b"STARTTLS\r\n"


def message(octets: int, line: int = 76, begin: bytes = b"x") -> bytes:
    """Return mail data of about *octets* bytes in lines of *line* bytes, with its end."""
    one = begin + b"x" * (line - len(begin)) + b"\r\n"
    return b"Subject: benchmark\r\n\r\n" + one * (octets // len(one)) + b".\r\n"


SMALL = message(1000)


class Step(NamedTuple):
    """Bytes to send, and the replies to wait for: *replies* replies, the last with *code*."""

    data: bytes
    code: bytes = b"250"
    replies: int = 1


GREETED = (Step(b"", b"220"), Step(EHLO))


def transaction(body: bytes, recipients: int = 1) -> tuple[Step, ...]:
    """Return a transaction; each command waits for the reply to the previous one."""
    return (Step(MAIL), *[Step(RCPT)] * recipients, Step(DATA, b"354"), Step(body))


def in_one_write(body: bytes, recipients: int = 1) -> tuple[Step, ...]:
    return (Step(MAIL + RCPT * recipients + DATA + body, b"250", recipients + 3),)


def in_chunk(body: bytes) -> tuple[Step, ...]:
    """Return a transaction with its message in one chunk: RFC 3030."""
    mail_data = body[:-3]
    return (Step(MAIL), Step(RCPT), Step(b"BDAT %d LAST\r\n" % len(mail_data) + mail_data))


def replies_in(got: bytes) -> int:
    """Count the complete replies."""
    if got.endswith(b"\r\n") and got[3:4] == b" " and got.count(b"\n") == 1:
        return 1
    return sum(line[3:4] == b" " for line in got.split(b"\r\n")[:-1])


def check(got: bytes, code: bytes) -> None:
    last = got[:-2].rpartition(b"\n")[2]
    if not last.startswith(code):
        raise RuntimeError(f"expected {code!r}, got {last!r}")


class Client:
    """A connection that waits for each reply, in TLS after STARTTLS or from the start."""

    def __init__(self, port: int, tls: bool = False, from_start: bool = False) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if from_start:
            self.shake_hands()
            self.ask(*GREETED)
            return
        self.ask(*GREETED)
        if tls:
            self.ask(Step(STARTTLS, b"220"))
            self.shake_hands()
            self.ask(Step(EHLO))

    def shake_hands(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)

    def ask(self, *steps: Step) -> None:
        for step in steps:
            if step.data:
                self.socket.sendall(step.data)
            got = b""
            while replies_in(got) < step.replies:
                if not (data := self.socket.recv(65536)):
                    raise ConnectionError("the server closed the connection")
                got += data
            check(got, step.code)

    def close(self) -> None:
        self.socket.close()


class Peer:
    """One client of a crowd: its step, and the bytes that it has still to send or to read."""

    __slots__ = ("began", "client", "got", "left", "step")

    def __init__(self, client: socket.socket) -> None:
        client.setblocking(False)
        self.client = client
        self.step = 0
        self.got = b""
        self.left = memoryview(b"")
        self.began = 0.0


class Crowd:
    """Connections that each continue as soon as they have a reply.

    The crowd polls for replies and never sleeps, so that no server pays for waking it up: on a
    virtual machine this costs more than the answer.
    """

    def __init__(
        self, port: int, connections: int, steps: Sequence[Step], tls: bool, each: bool
    ) -> None:
        self.port = port
        self.each = each
        self.steps = (*GREETED, *steps, Step(QUIT, b"221")) if each else steps
        self.poll = select.epoll()
        self.peers: dict[int, Peer] = {}
        self.idle: list[Peer] = []
        self.delays: list[float] = []
        self.left = 0
        if each:
            self.idle = [Peer(socket.socket()) for _ in range(connections)]
            return
        for _ in range(connections):
            peer = Peer(Client(port, tls).socket)
            self.watch(peer)
            self.idle.append(peer)

    def watch(self, peer: Peer) -> None:
        self.peers[peer.client.fileno()] = peer
        self.poll.register(peer.client.fileno(), select.EPOLLIN)

    def run(self, messages: int) -> list[float]:
        """Send *messages* messages; return the seconds from the first byte of each to its reply."""
        self.left, self.delays = messages, []
        idle, self.idle = self.idle, []
        for peer in idle:
            self.begin(peer)
        deadline = time.perf_counter() + PATIENCE
        while len(self.idle) < len(idle):
            events = self.poll.poll(0)
            if events:
                deadline = time.perf_counter() + PATIENCE
            elif time.perf_counter() > deadline:
                raise TimeoutError("the server does not answer")
            for descriptor, event in events:
                peer = self.peers[descriptor]
                if event & select.EPOLLOUT:
                    self.write(peer)
                else:
                    self.read(peer)
        return self.delays

    def begin(self, peer: Peer) -> None:
        if not self.left:
            self.idle.append(peer)
            return
        self.left -= 1
        peer.step = 0
        peer.began = time.perf_counter()
        if self.each:
            peer.client = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
            peer.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.client.setblocking(False)
            self.watch(peer)
        self.send(peer)

    def send(self, peer: Peer) -> None:
        data = self.steps[peer.step].data
        if not data:
            return
        sent = peer.client.send(data) if len(data) < 65536 else 0
        if sent < len(data):
            peer.left = memoryview(data)[sent:]
            self.poll.modify(peer.client.fileno(), select.EPOLLOUT)

    def write(self, peer: Peer) -> None:
        try:
            sent = peer.client.send(peer.left[: 2**20])
        except (BlockingIOError, ssl.SSLWantWriteError):
            return
        peer.left = peer.left[sent:]
        if not peer.left:
            self.poll.modify(peer.client.fileno(), select.EPOLLIN)

    def read(self, peer: Peer) -> None:
        step = self.steps[peer.step]
        try:
            data = peer.client.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        if not data:
            raise ConnectionError("the server closed the connection")
        peer.got += data
        if replies_in(peer.got) < step.replies:
            return
        check(peer.got, step.code)
        peer.got = b""
        peer.step += 1
        if peer.step < len(self.steps):
            self.send(peer)
            return
        self.delays.append(time.perf_counter() - peer.began)
        if self.each:
            del self.peers[peer.client.fileno()]
            peer.client.close()
        self.begin(peer)

    def close(self) -> None:
        self.poll.close()
        for peer in self.peers.values():
            peer.client.close()
