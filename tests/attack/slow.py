"""Clients that send a byte now and then: the server's limit is half a second here."""

import select
import ssl
import time

from tests.attack.wire import PROXY_HEADER, Attacker, Place, Skipped, untrusting

GIVE_UP = 12.0
"""Seconds after which a dribbling client has won."""


def command(place: Place, _: int) -> float:
    with Attacker(place) as client:
        return client.closed_within(GIVE_UP, b"NOOP and more of it ")


def unknown_commands(place: Place, _: int) -> float:
    """Keep a connection open with lines that are not commands."""
    with Attacker(place) as client:
        return client.closed_within(GIVE_UP, b"\r\n", 0.2)


def data(place: Place, _: int) -> float:
    with Attacker(place) as client:
        client.transaction()
        return client.closed_within(GIVE_UP, b"one line\r\n", 0.1)


def auth(place: Place, _: int) -> float:
    with Attacker(place) as client:
        client.hello()
        client.ask(b"AUTH PLAIN", b"334")
        return client.closed_within(GIVE_UP, b"QUJD")


def chunk(place: Place, _: int) -> float:
    with Attacker(place) as client:
        if b"CHUNKING" not in client.hello():
            raise Skipped("no CHUNKING")
        client.begin()
        client.send(b"BDAT 100000 LAST\r\n")
        return client.closed_within(GIVE_UP, b"x", 0.1)


def proxy_header(place: Place, _: int) -> float:
    with Attacker(place, greet=False) as client:
        return client.closed_within(GIVE_UP, PROXY_HEADER[:-2] * 9)


def _hello_of_tls() -> bytes:
    """Return the first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = untrusting().wrap_bio(incoming, outgoing)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def starttls(place: Place, _: int) -> float:
    plain = Place(place.host, place.port, "smtp", place.pid)
    with Attacker(plain) as client:
        client.hello()
        client.ask(b"STARTTLS", b"220")
        return client.closed_within(GIVE_UP, _hello_of_tls())


def implicit_tls(place: Place, _: int) -> float:
    with Attacker(place, greet=False) as client:
        return client.closed_within(GIVE_UP, _hello_of_tls())


def silent_tls(place: Place, _: int) -> float:
    with Attacker(place, greet=False) as client:
        return client.closed_within(GIVE_UP)


def honest(place: Place, tenths: int) -> float:
    """Send 1,000 bytes a second for longer than the limit; return 1 if the message is lost."""
    with Attacker(place) as client:
        client.transaction()
        for _ in range(tenths):
            client.send(b"x" * 98 + b"\r\n")
            # The pace of a slow line: a reply now would be one too early.
            if select.select([client.socket], [], [], 0.1)[0]:
                return 1
        client.send(b".\r\n")
        return float(not client.reply().startswith(b"250"))


def honest_chunk(place: Place, tenths: int) -> float:
    """Send a chunk with 1,000 bytes a second; return 1 if the message is lost."""
    with Attacker(place) as client:
        if b"CHUNKING" not in client.hello():
            raise Skipped("no CHUNKING")
        client.begin()
        client.send(b"BDAT %d LAST\r\n" % (tenths * 100))
        for left in range(tenths, 0, -1):
            client.send(b"x" * 98 + b"\r\n")
            if left > 1 and select.select([client.socket], [], [], 0.1)[0]:
                return 1
        return float(not client.reply().startswith(b"250"))


def honest_commands(place: Place, commands: int) -> float:
    """Send each command well within the limit; return the number that were not answered."""
    unanswered = 0
    with Attacker(place) as client:
        for _ in range(commands):
            until = time.monotonic() + 0.2
            while (left := until - time.monotonic()) > 0:
                select.select([client.socket], [], [], left)
            client.send(b"NOOP\r\n")
            unanswered += not client.reply().startswith(b"250")
    return unanswered


def chatty(place: Place, _: int) -> float:
    """Send commands, each in time, until the server has had enough."""
    began = time.monotonic()
    with Attacker(place) as client:
        while time.monotonic() - began < GIVE_UP:
            client.send(b"NOOP\r\n")
            if not client.reply().startswith(b"250"):
                return time.monotonic() - began
    return float("inf")


def tls_on_a_plain_port(place: Place, _: int) -> float:
    """Begin a TLS handshake on a port without TLS; return the seconds until that is over."""
    with Attacker(place) as client:
        client.send(_hello_of_tls())
        return client.closed_within(GIVE_UP)
