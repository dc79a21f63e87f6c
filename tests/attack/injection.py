"""Bytes that want to be something else: another message, a command, a reply, a log record."""

import re
import socket
from contextlib import suppress

from tests.attack.servers import Starter, Victim
from tests.attack.wire import PROXY_HEADER, Attacker, Place, Skipped, untrusting, well_formed

FALSE_ENDS = (
    *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r.\n", b"\n.\r"),
    *(
        b"\n\r.\r\n",
        b"\r\n\x00.\r\n",
        b"\r\n.\x00\r\n",
        b"\r\r\n.\r\r\n",
        b"\n\n.\r\n",
        b"\r\n. \r\n",
    ),
    *(b"\x85.\x85", b"\xe2\x80\xa8.\xe2\x80\xa8", b"\r\n..\r\n", b"\x0b.\x0b", b"\x0c.\x0c"),
)
"""Bytes that other programs have taken for the end of mail data."""

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")

SECOND = b"MAIL FROM:<evil@b.test>\r\nRCPT TO:<victim@d.test>\r\nDATA\r\nSubject: evil\r\n\r\nx"


def _session(place: Place, false_end: bytes) -> int:
    """Send one message with another one hidden in it; return the messages that were taken."""
    with Attacker(place) as client:
        client.transaction()
        client.send(b"Subject: one\r\n\r\nx" + false_end + SECOND + b"\r\n.\r\n")
        taken = int(client.reply().startswith(b"250"))
        client.send(b"NOOP\r\nQUIT\r\n")
        replies = []
        while reply := client.reply():
            replies.append(reply)
        return taken + max(0, len(replies) - 2)


def smuggling(place: Place, _: int) -> float:
    """Return the replies that more than one message has got."""
    return sum(max(0, _session(place, end) - 1) for end in FALSE_ENDS)


def smuggling_through(starter: Starter, _: int) -> float:
    """Send through `Proxy` to a next hop; return the messages that this got too many."""
    with (
        starter.serve("smtp") as hop,
        starter.serve("smtp", handler="proxy", next_hop=hop.place.port) as relay,
    ):
        for end in FALSE_ENDS:
            _session(relay.place, end)
        return float(sum(one["from"] != "a@b.test" for one in hop.delivered()))


def starttls(place: Place, _: int) -> float:
    """Send commands in the clear after STARTTLS; return those that are answered inside."""
    plain = Place(place.host, place.port, "smtp", place.pid)
    with Attacker(plain) as client:
        client.hello()
        client.send(b"STARTTLS\r\nNOOP in the clear\r\nMAIL FROM:<evil@b.test>\r\n")
        client.expect(b"220")
        client.left.clear()
        try:
            client.socket = untrusting().wrap_socket(client.socket)
        except OSError:
            # The session ended: nothing was run.
            return 0
        client.hello()
        client.send(b"QUIT\r\n")
        unasked = 0
        while (reply := client.reply()) and not reply.startswith(b"221"):
            unasked += 1
        return unasked


def response_splitting(place: Place, _: int) -> float:
    """Send control characters that may come back; return the replies that are malformed."""
    wrong = 0
    for command in (
        *(b"NO\x00OP", b"X\rY", b"X\x0b250 OK", b"X\x85250", b"VRFY a\rb", b"VRFY \x1b[2J"),
        *(b"HELP \r250 x", b"EXPN \rx", b"NOOP \r250 x", b"MAIL FROM:<a\rb>", b"RCPT TO:<\rx>"),
        *(b"EHLO a\r250-AUTH PLAIN", b"HELO \xe2\x80\xa8250 x", b"AUTH \r250", b"X" * 400),
    ):
        with Attacker(place) as client:
            client.hello()
            client.send(command + b"\r\nQUIT\r\n")
            while reply := client.reply():
                wrong += not well_formed(reply)
    return wrong


def response_of_hooks(place: Place, _: int) -> float:
    """Have a hook answer with an address that has control characters in it."""
    wrong = 0
    for path in (b'"a\rb"@c.test', b'"a\x00b"@c.test', b'"a\x1b"@c.test', b"<lines@c.test"):
        with Attacker(place) as client:
            client.hello()
            client.ask(b"MAIL FROM:<a@b.test>", b"250")
            client.send(b"RCPT TO:<" + path + b">\r\nQUIT\r\n")
            while reply := client.reply():
                wrong += not well_formed(reply)
    return wrong


def log_forging(victim: Victim, _: int) -> float:
    """Return the lines and control characters of the log, at DEBUG, that a client wrote."""
    forged = b"\rLOG forged", b"\x1b[2Jforged", b"\x0bforged", b"\x85forged", b"\x00forged"
    for command in (b"NOOP ", b"EHLO ", b"MAIL FROM:", b"VRFY ", b"X"):
        with Attacker(victim.place) as client:
            client.hello()
            for text in forged[: 4 if command == b"X" else 5]:
                client.send(command + text + b"\r\n")
                client.reply()
    log = victim.log()
    if "NOOP" not in log:
        raise Skipped("it logs no commands")
    lines = [line for line in log.split("\n") if "forged" in line]
    return sum(not line.startswith("LOG ") for line in lines) + len(CONTROLS.findall(log))


def header_forging(victim: Victim, _: int) -> float:
    """Return the header fields of the client's that pass for the server's own."""
    forged = b"".join(
        name + b": forged\r\n" for name in (b"X-Peer", b"X-MailFrom", b"X-RcptTo", b"x-mailfrom")
    )
    with Attacker(victim.place) as client:
        client.hello()
        client.begin()
        client.deliver(forged + b"Subject: x\r\n\r\nx")
    (told,) = victim.delivered()
    return float(sum("forged" in value for values in told.values() for value in values))


def http(place: Place, _: int) -> float:
    """Post a form that holds a mail transaction; return the commands of it that succeed."""
    succeeded = 0
    for verb in (b"POST", b"PUT", b"OPTIONS"):
        with Attacker(place) as client:
            client.send(
                verb + b" / HTTP/1.1\r\nHost: mx.test\r\nContent-Type: text/plain\r\n\r\n"
                b"EHLO web.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"
                b"Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n"
            )
            while reply := client.reply():
                succeeded += reply[:1] in b"23" and not reply.startswith(b"221")
    return succeeded


def spoofed_proxy(place: Place, _: int) -> float:
    """Send PROXY headers to a server that has no proxy; return how many it takes."""
    taken = 0
    for header in (b"PROXY TCP4 192.0.2.7 192.0.2.1 50025 25", b"PROXY UNKNOWN"):
        with Attacker(place) as client:
            taken += client.ask(header)[:1] in b"23"
    return taken


def malformed_proxy(place: Place, _: int) -> float:
    """Return the malformed PROXY headers after which a session is opened."""
    opened = 0
    for header in (
        *(b"PROXY TCPxx4 1.2.3.4 1.2.3.4 1 1", b"PROXY TCP44 1.2.3.4 1.2.3.4 1 1", b"PROXY TCP4"),
        *(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536", b"PROXY TCP4 ::1 ::1 1 1", b"EHLO x"),
        *(b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1", b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1", b""),
        *(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1", b"proxy TCP4 1.2.3.4 1.2.3.4 1 1"),
        *(b"\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x00", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x01\x00"),
    ):
        with Attacker(place, greet=False) as client:
            client.send(header + b"\r\n")
            with suppress(OSError):
                client.socket.shutdown(socket.SHUT_WR)
            opened += client.reply().startswith(b"220")
    return opened


def spoofed_xclient(place: Place, _: int) -> float:
    """Return the attempts to be another client that succeed."""
    taken = 0
    for command in (b"XCLIENT ADDR=127.0.0.1 NAME=localhost", b"XFORWARD ADDR=127.0.0.1 NAME=x"):
        with Attacker(place) as client:
            client.hello()
            taken += client.ask(command)[:1] == b"2"
    return taken


def proxy_of_a_stranger(place: Place, _: int) -> float:
    """Send a fine PROXY header from a host that is not trusted; return the sessions it opens."""
    with Attacker(place, greet=False) as client:
        client.send(PROXY_HEADER)
        # The server may have closed the connection before this.
        with suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        try:
            return float(client.reply().startswith(b"220"))
        except ConnectionError:
            return 0.0
