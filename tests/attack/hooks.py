"""Handlers that misbehave: the client still gets one well-formed reply, and others theirs."""

from tests.attack.servers import Victim
from tests.attack.target import GARBAGE
from tests.attack.wire import Attacker, Place, well_formed


def _one_reply(client: Attacker) -> bool:
    """Tell whether exactly one well-formed reply comes, before that to NOOP."""
    client.send(b"NOOP\r\n")
    first = client.reply()
    return well_formed(first) and client.reply().startswith(b"250")


def garbage_of_rcpt(place: Place, _: int) -> float:
    """Return the wrong answers to RCPT whose hook returned garbage or raised."""
    wrong = 0
    for how in (*GARBAGE, "raise"):
        with Attacker(place) as client:
            client.hello()
            client.ask(b"MAIL FROM:<a@b.test>", b"250")
            client.send(b"RCPT TO:<%s@d.test>\r\n" % how.encode())
            wrong += not _one_reply(client)
    return wrong


def garbage_of_data(place: Place, _: int) -> float:
    """Return the wrong answers to DATA whose hook returned garbage or raised."""
    wrong = 0
    for how in (*GARBAGE, "raise"):
        with Attacker(place) as client:
            client.hello()
            client.begin(b"%s@b.test" % how.encode())
            client.ask(b"DATA", b"354")
            client.send(b"x\r\n.\r\n")
            wrong += not _one_reply(client)
    return wrong


def faults_are_temporary(place: Place, _: int) -> float:
    """Return the replies that blame the message, or tell the client, for a hook's fault."""
    wrong = 0
    # In LMTP a list is one reply for each recipient.
    for how in ("raise", "none", "number", *(["list"] if place.mode != "lmtp" else [])):
        with Attacker(place) as client:
            client.hello()
            client.begin(b"%s@b.test" % how.encode())
            reply = client.deliver(b"x")
            wrong += not reply.startswith(b"4") or b"two" in reply or b"Error" in reply
    return wrong


def hanging(place: Place, commands: int) -> float:
    """Have a hook wait; return the longest wait of another client."""
    from tests.attack.floods import _longest_wait

    with Attacker(place) as busy:
        busy.hello()
        busy.ask(b"MAIL FROM:<a@b.test>", b"250")
        busy.send(b"RCPT TO:<hang@d.test>\r\n")
        return _longest_wait(place, commands)


def failed_data_leaks(victim: Victim, _: int) -> float:
    """Return the recipients of a failed message that get the next one."""
    for failure in (b"raise@b.test", b"none@b.test", b"big@b.test", b"line@b.test"):
        with Attacker(victim.place) as client:
            client.hello()
            client.begin(failure, b"secret@d.test")
            content = b"x"
            if failure.startswith(b"big"):
                content = (b"x" * 70 + b"\r\n") * 200
            if failure.startswith(b"line"):
                content = b"x" * 2000
            client.deliver(content)
            client.begin(b"next@b.test", b"open@d.test")
            client.deliver(b"y")
    messages = [one for one in victim.delivered() if one["from"] == "next@b.test"]
    if len(messages) != 4:
        raise ConnectionError(f"{len(messages)} of 4 next messages came")
    return float(sum(name.startswith("secret") for one in messages for name in one["to"]))
