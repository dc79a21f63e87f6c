"""The TLS layer alone: bytes in and out, against the client that the ssl module has."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from shutil import which
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aiosmtpd.engine.tls import PIECE, RECORD, TLS
from tests.conftest import Certificates
from tests.dialogue.tls import PATIENCE, Client

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])


def feed(tls: TLS, data: bytes) -> bytes:
    """Let bytes arrive, and return the plain bytes that they hold."""
    tls.feed(data)
    return tls.receive() if tls.established or tls.shake_hands() else b""


def shake_hands(
    tls: TLS, client: Client, cut: Callable[[bytes], Iterable[bytes]] = lambda data: (data,)
) -> None:
    """Carry the bytes of a handshake; *cut* says in which pieces they come to the server."""
    for _ in range(6):
        for piece in cut(client.shake_hands()):
            assert feed(tls, piece) == b""
            client.feed(tls.output())
        if client.established and tls.established:
            return
    raise AssertionError("the handshake does not end")


Pair = Callable[..., tuple[TLS, Client]]


@pytest.fixture
def pair(certificates: Certificates) -> Pair:
    """Return a function that makes both sides, after their handshake."""

    def make(version: ssl.TLSVersion = V13) -> tuple[TLS, Client]:
        context = certificates.client_context()
        context.maximum_version = version
        tls, client = TLS(certificates.server_context()), Client(context)
        shake_hands(tls, client)
        return tls, client

    return make


# The handshake.


@VERSIONS
def test_a_handshake_has_the_version_of_the_client(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    assert tls.established
    assert not tls.ended
    number = "TLSv1.3" if version is V13 else "TLSv1.2"
    assert client.object.version() == tls.info("ssl_object").version() == number


def test_the_layer_says_nothing_before_its_client(certificates: Certificates) -> None:
    tls = TLS(certificates.server_context())
    assert not tls.shake_hands()
    assert tls.output() == b""
    assert not tls.established


@VERSIONS
def test_a_handshake_may_come_byte_by_byte(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    context = certificates.client_context()
    context.maximum_version = version
    tls, client = TLS(certificates.server_context()), Client(context)
    shake_hands(tls, client, lambda data: (bytes([byte]) for byte in data))
    assert feed(tls, client.write(b"NOOP\r\n")) == b"NOOP\r\n"


def test_commands_may_come_with_the_end_of_a_handshake(certificates: Certificates) -> None:
    tls, client = TLS(certificates.server_context()), Client(certificates.client_context())
    assert feed(tls, client.shake_hands()) == b""
    client.feed(tls.output())
    finished = client.shake_hands()
    assert client.established
    assert feed(tls, finished + client.write(b"EHLO a\r\n") + client.write(b"NOOP\r\n")) == (
        b"EHLO a\r\nNOOP\r\n"
    )
    assert tls.established


def test_the_tickets_leave_with_the_first_reply(pair: Pair) -> None:
    tls, client = pair(V13)
    assert tls.output() == b""
    client.feed(tls.write(b"250 OK\r\n"))
    assert client.read() == b"250 OK\r\n"
    session = client.object.session
    assert session is not None
    assert session.has_ticket


def test_the_tickets_leave_with_a_close_notify_at_last(pair: Pair) -> None:
    tls, client = pair(V13)
    client.feed(tls.close())
    assert client.read() == b""
    session = client.object.session
    assert session is not None
    assert session.has_ticket


# Ciphertext, cut and joined.


@VERSIONS
def test_ciphertext_may_be_cut_at_every_byte(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    text = b"MAIL FROM:<a@b.test>\r\n"
    position, size = 1, 2
    while position < size:
        data = client.write(text[:9]) + client.write(text[9:])
        size = len(data)
        assert feed(tls, data[:position]) + feed(tls, data[position:]) == text
        position += 1
    assert position > 2 * len(text)


@VERSIONS
def test_replies_may_be_cut_at_every_byte(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    # The first one has the tickets too.
    data, text = tls.write(b"250-mx.test\r\n") + tls.write(b"250 HELP\r\n"), b""
    for byte in data:
        client.feed(bytes([byte]))
        text += client.read()
    assert text == b"250-mx.test\r\n250 HELP\r\n"


def pieces_of(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    """Cut *data* into pieces of these sizes; the last one is the rest."""
    position = 0
    for size in sizes:
        yield data[position : position + size]
        position += size
    yield data[position:]


SIZES = st.lists(st.integers(1, 700), max_size=60)


@settings(max_examples=60)
@given(
    version=st.sampled_from([V12, V13]),
    lines=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=8),
    handshake=SIZES,
    there=SIZES,
    back=SIZES,
)
def test_any_cut_and_any_join_give_the_same_bytes(
    certificates: Certificates,
    version: ssl.TLSVersion,
    lines: list[bytes],
    handshake: list[int],
    there: list[int],
    back: list[int],
) -> None:
    context = certificates.client_context()
    context.maximum_version = version
    tls, client = TLS(certificates.server_context()), Client(context)
    shake_hands(tls, client, lambda data: pieces_of(data, handshake))
    sent = b"".join(lines)

    ciphertext = b"".join(map(client.write, lines)) + client.close()
    plain = b"".join(feed(tls, piece) for piece in pieces_of(ciphertext, there))
    assert plain == sent
    assert tls.ended

    ciphertext, plain = b"".join(map(tls.write, lines)) + tls.close(), b""
    for piece in pieces_of(ciphertext, back):
        client.feed(piece)
        plain += client.read()
    assert plain == sent


def test_a_part_of_a_record_gives_nothing(pair: Pair) -> None:
    tls, client = pair()
    data = client.write(b"DATA\r\n")
    assert feed(tls, data[:-1]) == b""
    assert tls.receive() == b""
    assert not tls.ended
    assert feed(tls, data[-1:]) == b"DATA\r\n"
    assert tls.receive() == b""


@VERSIONS
def test_many_records_give_one_piece(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    lines = [b"RCPT TO:<%d@d.test>\r\n" % number for number in range(1000)]
    tls.feed(b"".join(map(client.write, lines)))
    assert tls.receive() == b"".join(lines)
    assert tls.receive() == b""


# Sizes: one byte to a megabyte, at the edges of a record and of a piece.

EDGES = [
    1,
    2,
    *(RECORD + n for n in (-1, 0, 1)),
    *(PIECE + n for n in (-1, 0, 1)),
    *(4 * PIECE + n for n in (-1, 0, 1)),
    *(9 * PIECE + n for n in (-1, 0, 1)),
    1_000_000,
]


def pattern(size: int, seed: int = 0) -> bytes:
    """Return bytes in which a piece that is lost, or comes twice, is seen."""
    return b"".join(b"%d.%07d" % (seed, n) for n in range(size // 9 + 1))[:size]


@VERSIONS
@pytest.mark.parametrize("size", EDGES)
def test_a_feed_of_any_size_gives_one_piece(pair: Pair, version: ssl.TLSVersion, size: int) -> None:
    tls, client = pair(version)
    assert feed(tls, client.write(pattern(size))) == pattern(size)
    assert tls.receive() == b""
    assert feed(tls, client.write(b"QUIT\r\n")) == b"QUIT\r\n"


def test_large_feeds_before_a_read_come_in_order(pair: Pair) -> None:
    tls, client = pair()
    tls.feed(client.write(pattern(100_000)))
    tls.feed(client.write(pattern(100_000, 1)) + client.write(b"QUIT\r\n"))
    assert tls.receive() == pattern(100_000) + pattern(100_000, 1) + b"QUIT\r\n"


@VERSIONS
@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_write_of_any_size_comes_whole(
    pair: Pair, version: ssl.TLSVersion, size: int, kind: Callable[[bytes], Any]
) -> None:
    tls, client = pair(version)
    client.feed(tls.write(kind(pattern(size))))
    assert client.read() == pattern(size)
    assert tls.output() == b""


@VERSIONS
def test_an_empty_write_does_no_harm(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    client.feed(tls.write(b""))
    assert client.read() == b""
    client.feed(tls.write(b"250 OK\r\n"))
    assert client.read() == b"250 OK\r\n"


def test_pieces_that_were_read_stay_as_they_are(pair: Pair) -> None:
    tls, client = pair()
    first = feed(tls, client.write(b"first"))
    second = feed(tls, client.write(b"other"))
    assert (first, second) == (b"first", b"other")


def test_threads_do_not_share_their_buffers(pair: Pair) -> None:
    wrong: list[int] = []
    begin = threading.Barrier(4)

    def read(seed: int, tls: TLS, client: Client) -> None:
        text = pattern(9 * RECORD, seed)
        begin.wait(PATIENCE)
        wrong.extend(seed for _ in range(20) if feed(tls, client.write(text)) != text)

    threads = [threading.Thread(target=read, args=(n, *pair())) for n in range(1, 5)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        sys.setswitchinterval(before)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


# The end.


@VERSIONS
def test_a_close_notify_ends_the_input_alone(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    assert feed(tls, client.write(b"QUIT\r\n") + client.close()) == b"QUIT\r\n"
    assert tls.ended
    assert tls.output() == b""
    client.feed(tls.write(b"221 Bye\r\n") + tls.close())
    assert client.read() == b"221 Bye\r\n"
    client.object.unwrap()


@VERSIONS
def test_the_layer_may_end_first(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    client.feed(tls.write(b"421 Bye\r\n") + tls.close())
    assert client.read() == b"421 Bye\r\n"
    client.object.unwrap()
    assert not tls.ended


@VERSIONS
def test_a_second_close_says_nothing(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    assert tls.close() != b""
    assert tls.close() == b""
    assert feed(tls, client.close()) == b""
    assert tls.close() == b""


def test_a_close_before_the_handshake_says_nothing(certificates: Certificates) -> None:
    tls = TLS(certificates.server_context())
    assert tls.close() == b""
    client = Client(certificates.client_context())
    tls = TLS(certificates.server_context())
    feed(tls, client.shake_hands()[:20])
    assert tls.close() == b""


@VERSIONS
def test_bytes_that_cannot_be_sent_are_dropped(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    context = certificates.client_context()
    context.maximum_version = version
    tls, client = TLS(certificates.server_context()), Client(context)
    assert tls.write(b"220 too early\r\n") == b""
    shake_hands(tls, client)
    client.feed(tls.write(b"221 Bye\r\n") + tls.close())
    assert tls.closed
    assert tls.write(b"250 too late\r\n") == b""
    assert client.read() == b"221 Bye\r\n"


@VERSIONS
def test_bytes_after_a_close_notify_are_ignored(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    other_tls, other = pair(version)
    assert feed(tls, client.close()) == b""
    for late in (b"in the clear\r\n", other.write(b"NOOP\r\n"), other.close()):
        assert feed(tls, late) == b""
        assert tls.ended
    assert not other_tls.ended


def test_a_truncated_stream_has_not_ended(pair: Pair) -> None:
    tls, client = pair()
    whole, half = client.write(b"whole\r\n"), client.write(b"half\r\n")
    assert feed(tls, whole + half[:-3]) == b"whole\r\n"
    assert tls.receive() == b""
    assert not tls.ended


# Errors.


@pytest.mark.parametrize(
    "garbage",
    [
        b"EHLO client.test\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"x" * 99,
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x17\x03\x03\x00\x05hello",
        b"\x00" * 64,
    ],
)
def test_garbage_in_place_of_a_handshake(certificates: Certificates, garbage: bytes) -> None:
    tls = TLS(certificates.server_context())
    tls.feed(garbage)
    with pytest.raises(ssl.SSLError):
        tls.shake_hands()
    assert not tls.established
    alert = tls.output()
    # A client that has begun with TLS gets an alert: RFC 8446 section 6.
    assert alert[:1] in (b"", b"\x15")
    assert tls.close() == b""


@VERSIONS
def test_a_forged_record_is_an_error(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    record = bytearray(client.write(b"RCPT TO:<c@d.test>\r\n"))
    record[-1] ^= 1
    tls.feed(bytes(record))
    with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
        tls.receive()
    assert not tls.ended
    # The client gets the reason, though it has not had a reply yet.
    client.feed(tls.output())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert bad record mac"):
        client.object.read(1)


@VERSIONS
def test_a_record_that_comes_twice_is_an_error(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, client = pair(version)
    record = client.write(b"RSET\r\n")
    assert feed(tls, record) == b"RSET\r\n"
    tls.feed(record)
    with pytest.raises(ssl.SSLError):
        tls.receive()


@VERSIONS
def test_bytes_in_the_clear_after_the_handshake(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, _ = pair(version)
    tls.feed(b"NOOP in the clear\r\n")
    with pytest.raises(ssl.SSLError):
        tls.receive()
    # The layer is of no use after that, and says so again.
    with pytest.raises(ssl.SSLError):
        tls.receive()


def test_a_client_that_does_not_trust_us_says_why(certificates: Certificates) -> None:
    context = ssl.create_default_context()
    tls, client = TLS(certificates.server_context()), Client(context)
    feed(tls, client.shake_hands())
    client.feed(tls.output())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.shake_hands()
    tls.feed(client.alert())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert unknown ca"):
        tls.shake_hands()


def test_no_shared_version_is_an_error_with_an_alert(certificates: Certificates) -> None:
    server = certificates.server_context()
    server.minimum_version = V13
    context = certificates.client_context()
    context.maximum_version = V12
    tls, client = TLS(server), Client(context)
    tls.feed(client.shake_hands())
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported protocol"):
        tls.shake_hands()
    client.feed(tls.output())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        client.shake_hands()


# What s_client alone can ask for.


class Commanded:
    """A client that is s_client, which takes commands from its input: one letter for each."""

    def __init__(self, address: tuple[str, int], *options: str) -> None:
        openssl = which("openssl")
        if openssl is None:
            pytest.skip("openssl is not installed")
        self.program = subprocess.Popen(
            [openssl, "s_client", "-connect", "{}:{}".format(*address), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def type(self, line: bytes) -> None:
        assert self.program.stdin is not None
        self.program.stdin.write(line)
        self.program.stdin.flush()

    def shown(self, text: bytes) -> bytes:
        """Read the program's output up to this text; all of it if it does not come."""
        assert self.program.stdout is not None
        seen = b""
        while text not in seen and (more := self.program.stdout.read1()):  # type: ignore[attr-defined]
            seen += more
        return seen


class Serving(threading.Thread):
    """Serves one connection by the layer: a reply to each piece."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__()
        self._listener, self._context = listener, context
        self.pieces: list[bytes] = []
        self.error: ssl.SSLError | None = None

    def run(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        tls = TLS(self._context)
        with connection:
            try:
                while not tls.ended and (data := connection.recv(65_536)):
                    plain = feed(tls, data)
                    if plain:
                        self.pieces.append(plain)
                        connection.sendall(tls.write(b"heard " + plain))
                    connection.sendall(tls.output())
            except ssl.SSLError as error:
                self.error = error
                connection.sendall(tls.output())


def served(certificates: Certificates, letter: bytes, *options: str) -> tuple[Serving, bytes]:
    """Let s_client run one of its commands; return what came of it, and what it printed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        serving = Serving(listener, certificates.server_context())
        client = Commanded(listener.getsockname(), *options)
        serving.start()
        client.type(b"before\n")
        text = client.shown(b"heard before")
        client.type(letter + b"\n")
        text += client.shown({b"R": b"no renegotiation"}.get(letter, b"KEYUPDATE"))
        if letter != b"R":
            client.type(b"after\n")
            text += client.shown(b"heard after")
            client.type(b"Q\n")
        with client.program as program:
            text += program.communicate(timeout=PATIENCE)[0]
        serving.join(PATIENCE)
        assert not serving.is_alive()
    return serving, text


def test_a_renegotiation_is_refused(certificates: Certificates) -> None:
    """RFC 5746 section 4.5: it costs a server much more than its client."""
    serving, text = served(certificates, b"R", "-tls1_2")
    assert b"RENEGOTIATING" in text
    # The client gets a warning, and decides that it does not go on.
    assert b"no renegotiation" in text
    assert serving.pieces == [b"before\n"]
    assert "alert handshake failure" in str(serving.error)


@pytest.mark.parametrize("letter", [b"k", b"K"])
def test_new_keys_change_nothing(certificates: Certificates, letter: bytes) -> None:
    """RFC 8446 section 4.6.3: a client may ask for them at any time."""
    serving, text = served(certificates, letter, "-tls1_3")
    assert b"heard after" in text
    assert serving.pieces == [b"before\n", b"after\n"]
    assert serving.error is None


# Facts about a connection.

KEYS = {"peercert", "cipher", "compression", "ssl_object", "sslcontext"}


@VERSIONS
def test_info_has_the_five_keys_of_asyncio(pair: Pair, version: ssl.TLSVersion) -> None:
    tls, _ = pair(version)
    known = {name: tls.info(name) for name in KEYS}
    assert known["cipher"] == known["ssl_object"].cipher()
    assert known["sslcontext"] is known["ssl_object"].context
    assert known["compression"] is None
    # The server has not asked for one.
    assert known["peercert"] is None
    assert tls.info("peername") is None
    assert tls.info("socket") is None


def test_info_before_the_handshake(certificates: Certificates) -> None:
    context = certificates.server_context()
    tls = TLS(context)
    assert tls.info("sslcontext") is context
    assert isinstance(tls.info("ssl_object"), ssl.SSLObject)
    assert {tls.info(name) for name in ("peercert", "cipher", "compression")} == {None}


@VERSIONS
@pytest.mark.parametrize("verify", [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
def test_a_client_certificate_is_known(
    certificates: Certificates, version: ssl.TLSVersion, verify: ssl.VerifyMode
) -> None:
    context = certificates.client_context(own_certificate=True)
    context.maximum_version = version
    tls, client = TLS(certificates.server_context(verify)), Client(context)
    shake_hands(tls, client)
    assert ("email", "client@example.com") in tls.info("peercert")["subjectAltName"]
    assert tls.info("ssl_object").getpeercert(binary_form=True)


@VERSIONS
def test_a_client_certificate_that_is_missing(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    context = certificates.client_context()
    context.maximum_version = version
    tls, client = TLS(certificates.server_context(ssl.CERT_REQUIRED)), Client(context)
    feed(tls, client.shake_hands())
    client.feed(tls.output())
    tls.feed(client.shake_hands())
    with pytest.raises(ssl.SSLError, match=r"(?i)peer did not return a certificate"):
        tls.shake_hands()
    client.feed(tls.output())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert (certificate required|handshake failure)"):
        client.object.read(1)


@VERSIONS
def test_the_name_may_choose_the_context(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    names: list[str | None] = []
    first, second = certificates.server_context(), certificates.server_context()

    def choose(chosen: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        names.append(name)
        chosen.context = second

    first.sni_callback = choose
    context = certificates.client_context()
    context.maximum_version = version
    tls, client = TLS(first), Client(context)
    shake_hands(tls, client)
    assert names == ["localhost"]
    assert tls.info("sslcontext") is second


def test_a_name_may_be_refused(certificates: Certificates) -> None:
    server = certificates.server_context()
    server.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    tls, client = TLS(server), Client(certificates.client_context())
    tls.feed(client.shake_hands())
    with pytest.raises(ssl.SSLError):
        tls.shake_hands()
    client.feed(tls.output())
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized name"):
        client.shake_hands()


@VERSIONS
@pytest.mark.parametrize(
    ("offered", "chosen"),
    # The last client sends 40 KB in its first message.
    [(["smtp"], "smtp"), (["h2"], None), ([*map("{:0200}".format, range(200)), "smtp"], "smtp")],
)
def test_a_protocol_may_be_chosen(
    certificates: Certificates, version: ssl.TLSVersion, offered: list[str], chosen: str | None
) -> None:
    """ALPN, RFC 7301."""
    server = certificates.server_context()
    server.set_alpn_protocols(["smtp", "lmtp"])
    context = certificates.client_context()
    context.maximum_version = version
    context.set_alpn_protocols(offered)
    tls, client = TLS(server), Client(context)
    shake_hands(tls, client)
    assert client.object.selected_alpn_protocol() == chosen
    assert tls.info("ssl_object").selected_alpn_protocol() == chosen


@pytest.mark.parametrize("options", [0, ssl.OP_NO_TICKET], ids=["ticket", "session id"])
@VERSIONS
def test_a_session_may_be_resumed(
    certificates: Certificates, version: ssl.TLSVersion, options: int
) -> None:
    server, context = certificates.server_context(), certificates.client_context()
    server.options |= options
    context.maximum_version = version
    session, reused = None, []
    for _ in range(3):
        tls, client = TLS(server), Client(context, session=session)
        shake_hands(tls, client)
        # The tickets of TLS 1.3 come with it.
        client.feed(tls.write(b"250 OK\r\n"))
        assert client.read() == b"250 OK\r\n"
        assert feed(tls, client.write(b"QUIT\r\n") + client.close()) == b"QUIT\r\n"
        client.feed(tls.close())
        reused.append((client.object.session_reused, tls.info("ssl_object").session_reused))
        session = client.object.session
    assert reused == [(False, False), (True, True), (True, True)]


def test_a_session_goes_on_with_its_first_command(certificates: Certificates) -> None:
    """In TLS 1.2 the client of a resumed session is the last to speak in the handshake."""
    server, context = certificates.server_context(), certificates.client_context()
    context.maximum_version = V12
    tls, client = TLS(server), Client(context)
    shake_hands(tls, client)
    tls, client = TLS(server), Client(context, session=client.object.session)
    feed(tls, client.shake_hands())
    client.feed(tls.output())
    finished = client.shake_hands()
    assert client.established
    assert feed(tls, finished + client.write(b"EHLO a\r\n")) == b"EHLO a\r\n"
