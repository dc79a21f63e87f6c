"""Any order of commands, against a simple model of RFC 5321 section 4.1.4."""

import asyncio
import logging
from contextlib import ExitStack

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aiosmtpd.smtp import SMTP, Envelope, Session

from .harness import PATIENCE, all_records, finish
from .transport import MemoryTransport

UNKNOWN_ALLOWED = 4
ERRORS_ALLOWED = 20

names = st.sampled_from([b"a@b.test", b'"a b"@c.test', b"x@[192.0.2.1]", b"somebody"])
bodies = st.lists(st.sampled_from([b"x", b".", b"..", b"", b"QUIT", b"Subject: x"]), max_size=4)


class Keeper:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[tuple[str | None, list[str], bytes]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        self.messages.append((envelope.mail_from, list(envelope.rcpt_tos), content))
        return "250 OK"


class Dialogue(RuleBasedStateMachine):
    """A client that sends any command, and the replies that it should get."""

    transport: MemoryTransport

    def __init__(self) -> None:
        super().__init__()
        self.greeted = self.extended = self.in_chunks = self.over = False
        self.sender: bytes | None = None
        self.recipients: list[bytes] = []
        self.chunks = b""
        self.unknown = self.errors = self.read = 0
        self.expected: list[tuple[str | None, list[str], bytes]] = []
        self.handler = Keeper()
        self.loop = asyncio.new_event_loop()
        # In development mode asyncio logs each step that takes longer: the machine may be busy.
        self.loop.slow_callback_duration = PATIENCE
        self.connected = False
        self.stack = ExitStack()
        self.records = self.stack.enter_context(all_records())

    @initialize()
    def connect(self) -> None:
        async def connect() -> None:
            server = SMTP(self.handler, hostname="mx.test", extensions="modern")
            self.transport = MemoryTransport(asyncio.get_running_loop(), server)

        self.loop.run_until_complete(connect())
        self.connected = True
        assert self._reply().startswith(b"220 mx.test ")

    def teardown(self) -> None:
        async def leave() -> None:
            if not self.transport.is_closing():
                self.transport.feed_eof()
            await finish(self.transport)

        try:
            # An example may end before it has begun.
            if self.connected:
                self.loop.run_until_complete(leave())
        finally:
            self.loop.close()
            self.stack.close()
        assert [one for one in self.records if one.levelno >= logging.WARNING] == []
        assert self.handler.messages == self.expected

    def _reply(self) -> bytes:
        async def reply() -> bytes:
            async with asyncio.timeout(PATIENCE):
                while True:
                    lines = bytes(self.transport.sent[self.read :]).splitlines(keepends=True)
                    for number, line in enumerate(lines, 1):
                        if line.endswith(b"\r\n") and line[3:4] == b" ":
                            whole = b"".join(lines[:number])
                            self.read += len(whole)
                            return whole
                    self.transport.changed.clear()
                    await self.transport.changed.wait()

        return self.loop.run_until_complete(reply())

    def _say(self, octets: bytes, code: int) -> bytes:
        """Send; check the code of the one reply."""

        async def feed() -> None:
            self.transport.feed(octets)

        self.loop.run_until_complete(feed())
        reply = self._reply()
        if self.errors >= ERRORS_ALLOWED and octets != b"QUIT\r\n":
            self.over = True
            code = 421
        self.errors += reply.startswith(b"5")
        assert int(reply[:3]) == code, (octets, reply)
        assert self.read == len(self.transport.sent), "the server sent more than one reply"
        return reply

    def _forget(self) -> None:
        self.sender, self.recipients, self.in_chunks, self.chunks = None, [], False, b""

    def _deliver(self, content: bytes) -> None:
        to = [recipient.decode() for recipient in self.recipients]
        assert self.sender is not None
        self.expected.append((self.sender.decode(), to, content))
        self.errors = 0
        self._forget()

    @precondition(lambda self: not self.over)
    @rule(extended=st.booleans(), name=st.sampled_from([b" client.test", b" ", b""]))
    def hello(self, extended: bool, name: bytes) -> None:
        verb = b"EHLO" if extended else b"HELO"
        if not name.strip():
            self._say(verb + name + b"\r\n", 501)
            return
        self._say(verb + name + b"\r\n", 250)
        self.greeted, self.extended = True, extended
        self._forget()

    @precondition(lambda self: not self.over)
    @rule(sender=names, parameter=st.sampled_from([b"", b" SIZE=9", b" SIZE=x", b" NO=1"]))
    def mail(self, sender: bytes, parameter: bytes) -> None:
        if self.in_chunks or not self.greeted:
            code = 503
        elif parameter and not self.extended:
            code = 501
        elif self.sender is not None:
            code = 503
        else:
            code = {b"": 250, b" SIZE=9": 250, b" SIZE=x": 501, b" NO=1": 555}[parameter]
        self._say(b"MAIL FROM:<" + sender + b">" + parameter + b"\r\n", code)
        if code == 250:
            self.sender = sender

    @precondition(lambda self: not self.over)
    @rule(recipient=names)
    def rcpt(self, recipient: bytes) -> None:
        possible = self.greeted and self.sender is not None and not self.in_chunks
        self._say(b"RCPT TO:<" + recipient + b">\r\n", 250 if possible else 503)
        if possible:
            self.recipients.append(recipient)

    @precondition(lambda self: not self.over)
    @rule(
        command=st.sampled_from([b"MAIL FROM:", b"MAIL <a@b>", b"RCPT", b"RCPT TO:<>", b"DATA x"])
    )
    def malformed(self, command: bytes) -> None:
        needed = {b"R": self.sender is not None, b"D": bool(self.recipients)}
        if self.in_chunks or not self.greeted or not needed.get(command[:1], True):
            code = 503
        else:
            code = 553 if command.endswith(b"TO:<>") else 501
        self._say(command + b"\r\n", code)

    @precondition(lambda self: not self.over)
    @rule(lines=bodies)
    def data(self, lines: list[bytes]) -> None:
        possible = self.greeted and self.recipients and not self.in_chunks
        self._say(b"DATA\r\n", 354 if possible else 503)
        if possible and not self.over:
            stuffed = [b"." + line if line.startswith(b".") else line for line in lines]
            self._say(b"".join(line + b"\r\n" for line in [*stuffed, b"."]), 250)
            self._deliver(b"".join(line + b"\r\n" for line in lines))

    @precondition(lambda self: not self.over)
    @rule(chunk=st.sampled_from([b"", b"x", b"QUIT\r\n", b".\r\n", b"\r"]), last=st.booleans())
    def chunk(self, chunk: bytes, last: bool) -> None:
        possible = self.greeted and self.recipients
        command = b"BDAT %d%s\r\n" % (len(chunk), b" LAST" if last else b"")
        self._say(command + chunk, 250 if possible else 503)
        if possible and not self.over:
            self.in_chunks = True
            self.chunks += chunk
            if last:
                self._deliver(self.chunks)

    @precondition(lambda self: not self.over)
    @rule()
    def rset(self) -> None:
        self._say(b"RSET\r\n", 250)
        self._forget()

    @precondition(lambda self: not self.over)
    @rule(command=st.sampled_from([(b"NOOP x", 250), (b"VRFY a", 252), (b"HELP", 250), (b"", 500)]))
    def no_part_of_it(self, command: tuple[bytes, int]) -> None:
        self._say(command[0] + b"\r\n", command[1])

    @precondition(lambda self: not self.over)
    @rule(verb=st.sampled_from([b"WHAT", b"STARTTLS x", b"AUTH PLAIN", b"EXPN x"]))
    def refused(self, verb: bytes) -> None:
        if verb == b"WHAT":
            self.unknown += 1
            last = self.unknown > UNKNOWN_ALLOWED
            self._say(b"WHAT\r\n", 502 if last else 500)
            self.over = self.over or last
        elif verb.startswith(b"AUTH"):
            after_helo = 503 if not self.greeted else 500
            code = 503 if self.in_chunks else 538 if self.extended else after_helo
            self._say(verb + b"\r\n", code)
        elif verb.startswith(b"STARTTLS"):
            self._say(verb + b"\r\n", 503 if self.in_chunks else 501)
        else:
            self._say(verb + b"\r\n", 502)

    @precondition(lambda self: not self.over and self.read > 1500)
    @rule()
    def quit(self) -> None:
        self._say(b"QUIT\r\n", 221)
        self.over = True

    @precondition(lambda self: self.over)
    @rule(command=st.sampled_from([b"NOOP\r\n", b"QUIT\r\n", b"MAIL FROM:<a@b.test>\r\n"]))
    def too_late(self, command: bytes) -> None:
        self.transport.feed(command)
        assert self.transport.is_closing()
        assert self.read == len(self.transport.sent)


TestDialogue = Dialogue.TestCase
TestDialogue.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
