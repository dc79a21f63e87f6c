"""Attacks on AUTH: guessing passwords, and secrets that show up in the log."""

import base64

from tests.attack.servers import Starter, Victim
from tests.attack.wire import Attacker, Place, Skipped

SECRETS = (b"tr0ub4dor", b"c0rrecth0rse", b"\x00us3r\x00tr0ub4dor", b"us3r")


def _b64(text: bytes) -> bytes:
    return base64.b64encode(text)


def brute_force(place: Place, guesses: int) -> float:
    """Return the guesses that one connection gets an answer to."""
    answered = 0
    with Attacker(place) as client:
        client.hello()
        for guess in range(guesses):
            client.send(b"AUTH PLAIN " + _b64(b"\x00good\x00guess%d" % guess) + b"\r\n")
            if not client.reply().startswith(b"535"):
                break
            answered += 1
    return answered


def aborts(place: Place, rounds: int) -> float:
    """Begin AUTH and abort it; return how often that works in one connection."""
    done = 0
    with Attacker(place) as client:
        client.hello()
        for _ in range(rounds):
            client.send(b"AUTH LOGIN\r\n")
            if not client.reply().startswith(b"334"):
                break
            client.send(b"*\r\n")
            if not client.reply().startswith(b"501"):
                break
            done += 1
    return done


def long_answers(place: Place, octets: int) -> float:
    """Return the over-long answers of AUTH that are taken, or taken for commands."""
    taken = 0
    for mechanism in (b"PLAIN", b"LOGIN"):
        with Attacker(place) as client:
            client.hello()
            client.ask(b"AUTH " + mechanism, b"334")
            client.send(b"QUJD" * (octets // 4) + b"\r\nNOOP\r\n")
            first, second = client.reply(), client.reply()
            taken += first[:1] != b"5" and first[:3] != b"421"
            taken += second[:3] not in (b"250", b"")
    return taken


def in_the_clear(starter: Starter, _: int) -> float:
    """Return the AUTH commands that are taken without TLS, where TLS is asked for."""
    with starter.serve("starttls", auth=True) as victim:
        plain = Place(victim.place.host, victim.place.port)
        with Attacker(plain) as client:
            if b"AUTH" in client.hello():
                return 1
            return float(client.ask(b"AUTH PLAIN " + _b64(b"\x00good\x00pass"))[:1] != b"5")


def bypass(place: Place, _: int) -> float:
    """Return the commands that are done for a client that has not authenticated."""
    done = 0
    with Attacker(place) as client:
        client.hello()
        for command in (b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>", b"DATA", b"VRFY a@b.test"):
            done += client.ask(command)[:1] in b"23"
        client.ask(b"AUTH PLAIN " + _b64(b"\x00good\x00wrong"))
        done += client.ask(b"MAIL FROM:<a@b.test>")[:1] == b"2"
    return done


def _exchanges() -> list[list[bytes]]:
    plain, user, password = _b64(SECRETS[2]), _b64(b"us3r"), _b64(b"tr0ub4dor")
    return [
        [b"AUTH PLAIN " + plain],
        [b"auth plain " + plain],
        [b"AUTH  PLAIN  " + plain],
        [b"AUTH PLAIN", plain],
        [b"AUTH PLAIN", b"*", plain],
        [b"AUTH PLAIN", b"tr0ub4dor!", plain],
        [b"AUTH PLAIN " + _b64(b"tr0ub4dor")],
        [b"AUTH LOGIN", user, password],
        [b"AUTH LOGIN " + user, password],
        [b"AUTH LOGIN", user, b"*", password],
        [b"AUTH LOGIN", b"*", user, password],
        [b"AUTH LOGIN", user, b"tr0ub4dor"],
        [b"AUTH NOSUCH " + plain],
        [b"AUTH CRAM-MD5", plain, password],
        [b"AUTH " + plain],
        [b"AUTH PLAIN " + plain + b" more"],
        [b"AUTH XOAUTH2 " + plain, password],
    ]


def secrets_in_the_log(victim: Victim, _: int) -> float:
    """Return the secrets that the log shows at DEBUG, in the clear or in base64."""
    shown = [*SECRETS, *map(_b64, SECRETS)]
    for exchange in _exchanges():
        with Attacker(victim.place) as client:
            client.hello()
            for line in exchange:
                client.send(line + b"\r\n")
                if not client.reply():
                    break
            client.send(b"QUIT\r\n")
            client.reply()
    log = victim.log()
    if "EHLO" not in log:
        raise Skipped("it logs no commands")
    return sum(log.count(secret.decode().replace("\x00", "\\x00")) for secret in shown)
