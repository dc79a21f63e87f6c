"""Arguments that are hard to parse: figures are the server's time for one command."""

import random
import re
import time

from tests.attack.wire import Attacker, Place, processor_time

INTERNAL = re.compile(rb"451 4\.3\.0|500 Error: \(")


def pathological(octets: int) -> list[bytes]:
    """Return arguments of MAIL and RCPT of about this length."""
    third = octets // 3
    pieces = (
        *(b"(", b'"', b"\\", b"<", b"@", b",", b".", b":", b"[", b" ", b"\t", b"=", b"a", b"\r"),
        *(b'"\\', b"a.", b'"".', b"a@", b"@a,", b"()", b"(\\)", b'"a" ', b"[IPv6:", b"a,", b"<>"),
        *(b"A=B ", b"+", b"=?", b"((a)", b'\\"', b"\xc3\xa9", b"\xff", b"a\x00", b"a-", b".."),
    )
    found = [b"<" + piece * (octets // len(piece)) + b">" for piece in pieces]
    found += [piece * (octets // len(piece)) for piece in pieces]
    found += [b"<a@b.test> " + piece * (octets // len(piece)) for piece in pieces]
    found.append(b"<" + b"(" * third + b"a" * third + b")" * third + b"@b.test>")
    found.append(b'"' + b"\\" * third * 2 + b'"@b.test')
    found.append(b"<@" + b"a.b,@" * (octets // 5) + b"c:d@e.test>")
    return found


def _ask(client: Attacker, command: bytes) -> tuple[float, bytes]:
    """Return the seconds that the server needs, of its processor if it can be, and its reply."""
    used, began = processor_time(client.place), time.monotonic()
    client.send(command + b"\r\n")
    reply = client.reply()
    waited, after = time.monotonic() - began, processor_time(client.place)
    # Others may use the machine: then the time of waiting measures nothing.
    return (waited if used is None or after is None else min(waited, after - used)), reply


def slowest(place: Place, octets: int) -> float:
    """Return the milliseconds of the slowest argument, each at its best of three."""
    slowest = 0.0
    for argument in pathological(octets):
        for verb in (b"MAIL FROM:", b"RCPT TO:", b"VRFY "):
            best = 1e9
            for _ in range(3):
                with Attacker(place) as client:
                    client.hello()
                    if verb[:1] == b"R":
                        client.ask(b"MAIL FROM:<a@b.test>", b"250")
                    best = min(best, _ask(client, verb + argument)[0])
                if best < 0.005:
                    break
            slowest = max(slowest, best)
    return 1000 * slowest


def internal_exceptions(place: Place, commands: int) -> float:
    """Send random and pathological arguments; return the replies that tell of an exception."""
    chance = random.Random(5321)
    words = [
        b"<",
        b">",
        b"@",
        b'"',
        b"\\",
        b"a",
        b".",
        b"(",
        b" ",
        b"SIZE=",
        b"BODY=",
        b"9",
        b"\xff",
    ]
    words += [b"[", b"IPv6:", b"]", b"=", b"\x00", b"AUTH=", b"+2B", b"NOTIFY=", b"ORCPT=", b";"]
    arguments = pathological(200)
    arguments += [b"".join(chance.choices(words, k=chance.randrange(30))) for _ in range(commands)]
    verbs = (b"MAIL FROM:", b"RCPT TO:", b"VRFY ", b"EHLO ", b"AUTH ", b"HELP ", b"BDAT ", b"EXPN ")
    found, client = 0, Attacker(place)
    client.hello()
    for argument in arguments:
        reply = _ask(client, chance.choice(verbs) + argument)[1]
        found += bool(INTERNAL.match(reply))
        if reply[:3] in (b"", b"421", b"502", b"354", b"334", b"552"):
            client.close()
            client = Attacker(place)
            client.hello()
            if chance.random() < 0.5:
                client.ask(b"MAIL FROM:<a@b.test>", b"250")
    client.close()
    return found
