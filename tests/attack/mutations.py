"""Dialogues that go wrong somewhere: the server answers in order, or goes, and stays whole."""

import random
import socket
from collections.abc import Callable

from tests.attack.servers import Victim
from tests.attack.wire import Attacker, descriptors, wait_for_descriptors, well_formed

DIALOGUES = (
    b"{HELLO} client.test\r\nMAIL FROM:<a@b.test> SIZE=100\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"
    b"Subject: x\r\n\r\n..x\r\n.\r\nRSET\r\nNOOP\r\nVRFY a\r\nHELP\r\nQUIT\r\n",
    b"{HELLO} client.test\r\nAUTH PLAIN AGdvb2QAcGFzcw==\r\nMAIL FROM:<a@b.test>\r\n"
    b'RCPT TO:<"c d"@[192.0.2.1]>\r\nRCPT TO:<@x:c@d.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n',
    b"{HELLO} client.test\r\nAUTH LOGIN\r\nZ29vZA==\r\ncGFzcw==\r\nMAIL FROM:<> BODY=8BITMIME\r\n"
    b"RCPT TO:<c@d.test>\r\nBDAT 5\r\nhelloBDAT 5 LAST\r\nworldMAIL FROM:<a@b.test>\r\nQUIT\r\n",
    b"{HELLO} client.test\r\nMAIL FROM:<a@b.test> RET=HDRS ENVID=x+2B BODY=BINARYMIME\r\n"
    b"RCPT TO:<c@d.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c+40d.test\r\n"
    b"BDAT 3 LAST\r\nabcQUIT\r\n",
    b"HELO client.test\r\nEXPN x\r\nSTARTTLS\r\nAUTH\r\nMAIL FROM:a@b.test\r\nRCPT TO:c@d.test\r\n"
    b"DATA\r\n.\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
)
PIECES = (
    *(b"\r\n", b"\n", b"\r", b".", b"\r\n.\r\n", b"<", b">", b"@", b'"', b"\\", b" ", b"\x00"),
    *(b"DATA\r\n", b"RSET\r\n", b"BDAT 4\r\n", b"BDAT 99999999999 LAST\r\n", b"AUTH PLAIN\r\n"),
    *(b"*\r\n", b"=", b"QUIT\r\n", b"\xff\xfe", b"\xc3\xa9", b"x" * 600, b"x" * 70_000, b"SIZE="),
    *(
        b"XCLIENT ADDR=192.0.2.9 NAME=x LOGIN=",
        b"XFORWARD PROTO=",
        b"[UNAVAILABLE]\r\n",
        b" LAST\r\n",
    ),
    *(b"EHLO x\r\n", b"HELO x\r\n", b"LHLO x\r\n", b"STARTTLS\r\n", b"(", b"[", b"IPv6:", b"-1"),
)
INTERNAL = (b"451 4.3.0", b"500 Error: (")


def _cut_out(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at + chance.randrange(20) :]


def _double(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[: at + chance.randrange(60)] + data[at:]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(PIECES) + data[at:]


def _change(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _shuffle(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines)


def _break_off(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_cut_out, _double, _insert, _insert, _change, _change, _shuffle, _break_off),
)


def mutation(chance: random.Random, hello: bytes = b"EHLO") -> bytes:
    """Return a dialogue in which something is wrong, perhaps."""
    data = chance.choice(DIALOGUES).replace(b"{HELLO}", hello)
    for _ in range(chance.randrange(1, 6)):
        data = chance.choice(MUTATIONS)(data, chance)
    return data


def faults_of(replies: bytes) -> int:
    """Return the malformed replies and those that tell of an exception."""
    faults, reply = 0, b""
    for line in replies.splitlines(keepends=True):
        reply += line
        if line[3:4] != b"-":
            faults += not well_formed(reply) or reply.startswith(INTERNAL)
            reply = b""
    return faults + bool(reply)


def hold(client: Attacker, data: bytes, chance: random.Random) -> bytes:
    """Send it all, in one or two pieces; return all replies of the server."""
    at = chance.randrange(len(data) + 1) if chance.random() < 0.3 else len(data)
    try:
        client.send(data[:at])
        client.send(data[at:])
        client.socket.shutdown(socket.SHUT_WR)
    except OSError:
        # The server has gone already; its replies can still be read.
        pass
    replies = b""
    while reply := client.reply():
        replies += reply
    return replies


def mutated(victim: Victim, number: int) -> float:
    """Hold so many mutated dialogues; return the faults, tasks and descriptors left included."""
    chance = random.Random(number)
    place = victim.place
    hello = place.hello.partition(b" ")[0]
    with Attacker(place) as client:
        client.ask(b"NOOP", b"250")
    before = descriptors(place), victim.tasks()
    faults = 0
    for _ in range(number):
        with Attacker(place) as client:
            faults += faults_of(hold(client, mutation(chance, hello), chance))
    left = max(0, wait_for_descriptors(place, before[0]) - before[0] - 1)
    return faults + left + max(0, victim.tasks() - before[1]) + victim.log().count("LOG ERROR")
