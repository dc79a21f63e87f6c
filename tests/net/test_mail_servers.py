"""Mail servers of Debian hand their mail on to us: Postfix and Exim, each in a place of its own."""

import os
import shutil
import smtplib
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import attrs
import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import ALL, SMTP, Envelope, OriginalRecipient, Session, xforward
from tests.net.support import free_port

pytestmark = pytest.mark.engines

DEADLINE = 90.0
"""Seconds until a program that must do something has failed to: some of them start slowly."""

SUBMISSION = "/usr/sbin:/usr/lib/postfix/sbin:" + os.environ.get("PATH", "")
POSTFIX = shutil.which("postfix", path=SUBMISSION)
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

BODY = b"hello\n.\n..two dots\n\xc3\xa9 and \xff\nend\n"
"""Lines that are changed on the wire, or by a program that takes them for seven-bit text."""


@attrs.frozen
class Arrived:
    """A message, and what its client sent for it: one item for each read."""

    session: Session
    envelope: Envelope
    reads: list[bytes]

    @property
    def body(self) -> bytes:
        content = bytes(self.envelope.original_content or b"")
        return content.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n")

    def read_with(self, word: bytes) -> bytes:
        """Return the bytes that came at once with this word in them."""
        return next(read for read in self.reads if word in read)


class Listening:
    """Notes what each read brings."""

    reads: list[bytes]

    def note(self, data: bytes) -> None:
        self.__dict__.setdefault("reads", []).append(bytes(data))


class ListeningSMTP(SMTP, Listening):
    def data_received(self, data: bytes) -> None:
        self.note(data)
        super().data_received(data)


class ListeningLMTP(LMTP, Listening):
    def data_received(self, data: bytes) -> None:
        self.note(data)
        super().data_received(data)


class Office:
    """Takes all mail, but nothing for ``nobody``."""

    def __init__(self) -> None:
        self.arrived: Queue[Arrived] = Queue()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> Any:
        reads, server.reads = server.reads, []
        self.arrived.put(Arrived(session, envelope, reads))
        if isinstance(server, LMTP):
            full = "552 5.2.2 mailbox full"
            return [full if to.startswith("full@") else "250 OK" for to in envelope.rcpt_tos]
        return "250 OK"

    def next(self) -> Arrived:
        return self.arrived.get(timeout=DEADLINE)


@contextmanager
def office(kind: type[SMTP] = ListeningSMTP, extensions: Any = None) -> Iterator[Controller]:
    """Serve on a free port, with all that the client may ask for unless told otherwise."""
    handler = Office()
    controller = Controller(handler, hostname="127.0.0.1", port=0)
    offered = [*ALL, xforward("127.0.0.1")] if extensions is None else extensions
    controller.factory = lambda: kind(  # type: ignore[method-assign]
        handler, hostname="mx.test", enable_SMTPUTF8=True, extensions=offered
    )
    with controller:
        yield controller


@contextmanager
def public_folder() -> Iterator[Path]:
    """Give a folder that servers which have dropped root's rights can enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(*command: str, data: bytes = b"", environment: dict[str, str] | None = None) -> bytes:
    """Run a program, which must succeed; return its output."""
    done = subprocess.run(
        command,
        input=data,
        capture_output=True,
        timeout=DEADLINE,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout


# Postfix.

MAIN_CF = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = /dev/stdout
myhostname = client.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:{relay}
transport_maps = inline:{{ {{ lmtp.test = lmtp:inet:127.0.0.1:{lmtp} }} }}
smtpd_relay_restrictions = permit_mynetworks, reject
alias_maps =
alias_database =
smtputf8_enable = yes
smtp_send_xforward_command = yes
"""

MASTER_CF = """
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
showq unix n - n - - showq
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
"""


class Journal:
    """The output of a program, line by line, while it runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, *words: str) -> str:
        """Return the first line with these words in it."""

        def found() -> list[str]:
            return [line for line in self._lines if all(word in line for word in words)]

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, DEADLINE)
            assert found(), "".join(self._lines)
            return found()[0]

    def close(self) -> None:
        self._thread.join(DEADLINE)


@attrs.frozen
class Running:
    """A Postfix that runs."""

    configuration: str
    journal: Journal

    def submit(self, *arguments: str, data: bytes) -> None:
        program = shutil.which("sendmail", path=SUBMISSION)
        assert program is not None
        command = (program, "-C", self.configuration, "-i", "-f", "a@b.test", *arguments)
        run(*command, data=b"Subject: from Postfix\n\n" + data)


@contextmanager
def running_postfix(folder: Path, main: str, master: str) -> Iterator[Running]:
    """Run Postfix with these files in a folder; skip the test if it cannot run."""
    if POSTFIX is None:
        pytest.skip("postfix is not installed")
    if not IS_ROOT:
        pytest.skip("only root can run Postfix")
    for name in ("etc", "queue", "data"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    (folder / "etc/main.cf").write_text(main)
    (folder / "etc/master.cf").write_text(master)
    configuration = str(folder / "etc")
    with subprocess.Popen(
        [POSTFIX, "-c", configuration, "start-fg"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        journal = Journal(process)
        try:
            journal.wait_for("daemon started")
            yield Running(configuration, journal)
        finally:
            run(POSTFIX, "-c", configuration, "stop")
            process.wait(DEADLINE)
            journal.close()


@attrs.frozen
class Postfix(Running):
    """Debian's Postfix, which hands all mail on: to ``office``, or to ``lmtp`` for that domain."""

    port: int
    office: Office
    lmtp: Office


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with (
        office() as relay,
        office(ListeningLMTP) as lmtp,
        public_folder() as folder,
    ):
        port = free_port()
        main = MAIN_CF.format(folder=folder, relay=relay.port, lmtp=lmtp.port)
        with running_postfix(folder, main, MASTER_CF.format(port=port)) as own:
            yield Postfix(own.configuration, own.journal, port, relay.handler, lmtp.handler)


def test_postfix_asks_for_notifications(postfix: Postfix) -> None:
    """DSN (RFC 3461) and SMTPUTF8 (RFC 6531), pipelined (RFC 2920), after XFORWARD."""
    asked = ("-N", "success,failure", "-V", "order+17", "-R", "hdrs")
    postfix.submit(*asked, "cé@d.test", data=b"hello\n")
    came = postfix.office.next()
    assert came.envelope.mail_params["ENVID"] == "order+17"
    assert came.envelope.mail_params["RET"] == "HDRS"
    assert came.envelope.mail_params["SMTPUTF8"] is True
    assert "ENVID=order+2B17" in came.envelope.mail_options
    (recipient,) = came.envelope.recipients
    assert recipient.address == "cé@d.test"
    assert recipient.params == {
        "NOTIFY": ("SUCCESS", "FAILURE"),
        "ORCPT": OriginalRecipient("utf-8", "c\\x{E9}@d.test"),
    }
    assert came.envelope.xforward == {"SOURCE": "LOCAL"}
    commands = came.read_with(b"MAIL FROM").split(b"\r\n")
    assert [one[:4] for one in commands] == [b"XFOR", b"MAIL", b"RCPT", b"DATA", b""]
    postfix.journal.wait_for("to=<cé@d.test>", "status=sent (250 2.0.0 OK)")


def test_postfix_speaks_for_its_client(postfix: Postfix) -> None:
    """XFORWARD as Postfix documents it, and a message that is changed on the wire."""
    with smtplib.SMTP("127.0.0.1", postfix.port, "real.test", timeout=DEADLINE) as client:
        assert client.sock is not None
        port = client.sock.getsockname()[1]
        options = {"mail_options": ["RET=FULL", "BODY=8BITMIME"], "rcpt_options": ["NOTIFY=NEVER"]}
        message = (b"Subject: from a client\n\n" + BODY).replace(b"\n", b"\r\n")
        assert client.sendmail("a@b.test", ["c@d.test", "e@f.test"], message, **options) == {}
    came = postfix.office.next()
    said = came.envelope.xforward or {}
    assert (said["ADDR"], said["PORT"], said["HELO"]) == ("127.0.0.1", str(port), "real.test")
    assert (said["PROTO"], said["SOURCE"]) == ("ESMTP", "LOCAL")
    assert came.envelope.mail_params["BODY"] == "8BITMIME"
    assert [one.params["NOTIFY"] for one in came.envelope.recipients] == [("NEVER",)] * 2
    assert came.body == BODY


def test_postfix_bounces_refused_recipients(postfix: Postfix) -> None:
    postfix.submit("nobody@d.test", "c@d.test", data=BODY)
    came = postfix.office.next()
    assert came.envelope.rcpt_tos == ["c@d.test"]
    assert came.body == BODY
    bounce = postfix.office.next()
    assert bounce.envelope.mail_from == "<>"
    assert bounce.envelope.rcpt_tos == ["a@b.test"]
    assert b"no such mailbox" in (bounce.envelope.original_content or b"")
    postfix.journal.wait_for("to=<nobody@d.test>", "dsn=5.1.1, status=bounced")


def test_postfix_speaks_lmtp(postfix: Postfix) -> None:
    """RFC 2033 section 4.2: one reply for each recipient."""
    postfix.submit("c@lmtp.test", "full@lmtp.test", data=BODY)
    came = postfix.lmtp.next()
    assert came.envelope.rcpt_tos == ["c@lmtp.test", "full@lmtp.test"]
    assert came.body == BODY
    commands = came.read_with(b"MAIL FROM").split(b"\r\n")
    assert [one[:4] for one in commands] == [b"MAIL", b"RCPT", b"RCPT", b"DATA", b""]
    postfix.journal.wait_for("to=<c@lmtp.test>", "status=sent (250 2.0.0 OK)")
    postfix.journal.wait_for("to=<full@lmtp.test>", "dsn=5.2.2, status=bounced")
    bounce = postfix.office.next()
    assert (bounce.envelope.mail_from, bounce.envelope.rcpt_tos) == ("<>", ["a@b.test"])


# Exim. Debian's cannot be installed beside Postfix: EXIM_FOLDER is where its packages were
# unpacked, with libnss-wrapper, which lends it the user that it insists on.

EXIM_CONF = """
primary_hostname = client.test
spool_directory = {folder}/spool
log_file_path = {folder}/log/%s
deliver_drop_privilege = true
keep_environment =
tls_advertise_hosts =
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
acl_not_smtp = accept
acl_smtp_rcpt = accept
begin acl
begin routers
relay:
  driver = manualroute
  transport = relay
  route_list = * 127.0.0.1
  self = send
begin transports
relay:
  driver = smtp
  port = {port}
  hosts_try_chunking = *
begin retry
begin rewrite
"""


@attrs.frozen
class Exim:
    """Debian's Exim, which hands all mail on as soon as it has it."""

    program: str
    environment: dict[str, str]
    folder: Path

    def configure(self, port: int) -> str:
        configuration = self.folder / "exim.conf"
        configuration.write_text(EXIM_CONF.format(folder=self.folder, port=port))
        return str(configuration)

    def submit(self, port: int, *transactions: bytes) -> None:
        """Have it take these messages, and deliver them."""
        command = (self.program, "-C", self.configure(port), "-odi", "-bs")
        session = b"EHLO real.test\n" + b"".join(transactions) + b"QUIT\n"
        said = run(*command, data=session.replace(b"\n", b"\r\n"), environment=self.environment)
        assert said.count(b"250 OK id=") == len(transactions), said.decode()

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("log/*")))


@pytest.fixture
def exim() -> Iterator[Exim]:
    if not IS_ROOT:
        pytest.skip("only root can run Exim")
    unpacked = Path(os.environ.get("EXIM_FOLDER", "/nonexistent"))
    program = shutil.which("exim4", path=f"{unpacked / 'usr/sbin'}:/usr/sbin")
    if program is None:
        pytest.skip("exim4 is not installed, nor unpacked in EXIM_FOLDER")
    with public_folder() as folder:
        (folder / "log").mkdir()
        # For the user that Exim becomes.
        (folder / "log").chmod(0o777)
        environment = {}
        for wrapper in unpacked.glob("usr/lib/*/libnss_wrapper.so"):
            (folder / "passwd").write_text("root:x:0:0::/:\nDebian-exim:x:65534:65534::/:\n")
            (folder / "group").write_text("root:x:0:\nmail:x:8:\nDebian-exim:x:65534:\n")
            environment = {
                "LD_PRELOAD": str(wrapper),
                "NSS_WRAPPER_PASSWD": str(folder / "passwd"),
                "NSS_WRAPPER_GROUP": str(folder / "group"),
            }
        ready = Exim(program, environment, folder)
        tried = subprocess.run(
            [program, "-C", ready.configure(25), "-bV"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        if tried.returncode:
            pytest.skip(f"exim4 does not run here: {tried.stderr.strip()}")
        yield ready


def transaction(
    body: bytes, *recipients: bytes, options: bytes = b"", rcpt_options: bytes = b""
) -> bytes:
    to = b"".join(b"RCPT TO:<%b>%b\n" % (one, rcpt_options) for one in recipients)
    stuffed = (b"\n" + body).replace(b"\n.", b"\n..")
    return b"MAIL FROM:<a@b.test>%b\n%bDATA\nSubject: from Exim\n%b.\n" % (options, to, stuffed)


def test_exim_asks_for_notifications(exim: Exim) -> None:
    """DSN (RFC 3461), SMTPUTF8 (RFC 6531) and CHUNKING (RFC 3030), pipelined (RFC 2920)."""
    with office() as relay:
        options = b" RET=HDRS ENVID=order+2B17 SMTPUTF8"
        rcpt_options = b" NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;z+2Bx@d.test"
        to = "cé@d.test".encode()
        sent = transaction(BODY, to, options=options, rcpt_options=rcpt_options)
        exim.submit(relay.port, sent)
        came = relay.handler.next()
    assert came.envelope.mail_params["ENVID"] == "order+17"
    assert came.envelope.mail_params["RET"] == "HDRS"
    assert came.envelope.mail_params["SMTPUTF8"] is True
    (recipient,) = came.envelope.recipients
    assert recipient.address == "cé@d.test"
    assert recipient.params == {
        "NOTIFY": ("SUCCESS", "FAILURE"),
        "ORCPT": OriginalRecipient("rfc822", "z+x@d.test"),
    }
    assert came.body == BODY
    commands = came.read_with(b"MAIL FROM").split(b"\r\n")[:3]
    assert [one[:4] for one in commands] == [b"MAIL", b"RCPT", b"BDAT"]
    assert "=> cé@d.test" in exim.log
    assert 'C="250 2.0.0 OK"' in exim.log


def test_exim_sends_chunks(exim: Exim) -> None:
    body = BODY + b"x" * 76 + b"\n" + b".\n" * 100_000
    with office() as relay:
        exim.submit(relay.port, transaction(body, b"c@d.test"))
        came = relay.handler.next()
    assert came.body == body
    said = b"".join(came.reads)
    assert said.count(b"BDAT ") > 1
    assert b"\r\nDATA\r\n" not in said


def test_exim_without_chunking(exim: Exim) -> None:
    with office(extensions="classic") as relay:
        exim.submit(relay.port, transaction(BODY, b"c@d.test", b"e@f.test"))
        came = relay.handler.next()
    assert came.envelope.rcpt_tos == ["c@d.test", "e@f.test"]
    assert came.body == BODY
    assert b"DATA\r\n" in came.reads
    assert "=> c@d.test" in exim.log


def test_the_chunk_after_refused_recipients_is_not_a_command(
    exim: Exim, caplog: pytest.LogCaptureFixture
) -> None:
    """Exim does not wait for the replies to RCPT: RFC 2920 section 3.1, RFC 3030 section 2."""
    caplog.set_level("DEBUG", "mail.log")
    refused = transaction(b"NOOP\nQUIT\n", b"nobody@d.test")
    with office() as relay:
        exim.submit(relay.port, refused, transaction(BODY, b"c@d.test"))
        came = relay.handler.next()
    assert came.envelope.rcpt_tos == ["c@d.test"]
    assert came.body == BODY
    assert "** nobody@d.test" in exim.log
    assert "550 5.1.1 no such mailbox" in exim.log
    assert "sent BDAT" in caplog.text
    assert "sent NOOP" not in caplog.text
