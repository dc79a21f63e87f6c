"""Input without an end, which must not be kept: figures are the memory of the server's process."""

from tests.attack.wire import MIB, PROXY_HEADER, Attacker, Growth, Place, Skipped, memory

STALL = 0.5
"""Seconds without progress after which the server does not take any more."""


def never_reads(place: Place, mib: int) -> float:
    """Pipeline commands with long replies and read none of these."""
    growth = Growth(place)
    with Attacker(place, receive_buffer=4096) as client:
        client.hello()
        client.push(b"HELP\r\n" * (mib * MIB // 6), STALL)
        return growth.mib()


def endless_command(place: Place, mib: int) -> float:
    growth = Growth(place)
    with Attacker(place) as client:
        client.push(b"NOOP " + b"x" * (mib * MIB), STALL)
        return growth.mib()


def endless_line(place: Place, mib: int) -> float:
    """Send mail data without a line end, but for the last one."""
    growth = Growth(place)
    with Attacker(place) as client:
        client.transaction()
        client.push(b"x" * (mib * MIB) + b"\r\n.\r\n", STALL)
        return growth.mib()


def endless_data(place: Place, mib: int) -> float:
    growth = Growth(place)
    with Attacker(place) as client:
        client.transaction()
        client.push((b"x" * 70 + b"\r\n") * (mib * MIB // 72), STALL)
        return growth.mib()


def short_lines(place: Place, mib: int) -> float:
    """Return the bytes of memory, beside one MiB, for each byte of a message of empty lines."""
    growth = Growth(place)
    with Attacker(place) as client:
        client.transaction()
        client.send(b"\r\n" * (mib * MIB // 2) + b".\r\n")
        client.expect(b"250")
        return max(0.0, growth.mib() - 1) / mib


def recipients(place: Place, number: int) -> float:
    """Return how many recipients of one message are accepted."""
    accepted = 0
    with Attacker(place) as client:
        client.hello()
        client.ask(b"MAIL FROM:<a@b.test>", b"250")
        for at in range(0, number, 100):
            names = range(at, min(number, at + 100))
            client.send(b"".join(b"RCPT TO:<r%d@d.test>\r\n" % one for one in names))
            for _ in names:
                reply = client.reply()
                accepted += reply.startswith(b"250")
                if not reply or reply.startswith(b"421"):
                    return accepted
    return accepted


def idle_connections(place: Place, number: int) -> float:
    """Return the KiB that each idle connection takes."""
    before = memory(place)
    clients = []
    try:
        clients = [Attacker(place) for _ in range(number)]
        for client in clients:
            client.hello()
        return max(0.0, memory(place) - before) * 1024 / number
    finally:
        for client in clients:
            client.close()


def endless_auth(place: Place, mib: int) -> float:
    growth = Growth(place)
    with Attacker(place) as client:
        client.hello()
        client.ask(b"AUTH PLAIN", b"334")
        client.push(b"x" * (mib * MIB), STALL)
        return growth.mib()


def endless_chunk(place: Place, mib: int) -> float:
    """Announce a chunk far over the size limit."""
    growth = Growth(place)
    with Attacker(place) as client:
        if b"CHUNKING" not in client.hello():
            raise Skipped("no CHUNKING")
        client.begin()
        client.push(b"BDAT 4294967295 LAST\r\n" + b"x" * (mib * MIB), STALL)
        return growth.mib()


def tiny_chunks(place: Place, bursts: int) -> float:
    """Send one message in bursts of 1,000 chunks of one byte; return MiB of memory."""
    growth = Growth(place)
    with Attacker(place) as client:
        if b"CHUNKING" not in client.hello():
            raise Skipped("no CHUNKING")
        client.begin()
        burst = b"BDAT 1\r\nx" * 1000
        for _ in range(bursts):
            client.send(burst)
            for _ in range(1000):
                client.expect(b"250")
        return growth.mib()


def endless_proxy_header(place: Place, mib: int) -> float:
    growth = Growth(place)
    with Attacker(place, greet=False) as client:
        client.push(PROXY_HEADER[:-2] + b"x" * (mib * MIB), STALL)
        return growth.mib()
