"""Many clients, or greedy ones: most figures tell how long another client waits."""

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.attack.servers import Victim
from tests.attack.wire import (
    PATIENCE,
    Attacker,
    Place,
    Skipped,
    descriptors,
    untrusting,
    wait_for_descriptors,
)

PATIENT = 50
"""Attempts to connect until it is said that it cannot be done."""

DIALOGUE = (
    b"MAIL FROM:<a@b.test>\r\n",
    b"RCPT TO:<c@d.test>\r\n",
    b"DATA\r\n",
    b"Subject: hi\r\n\r\nhello\r\n",
)


def _allow_descriptors(number: int) -> None:
    try:
        import resource
    except ImportError as error:
        raise Skipped("no limit of descriptors to raise") from error
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number + 100:
        if hard != resource.RLIM_INFINITY and hard < number + 100:
            raise Skipped(f"only {hard} descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + 100, hard))


def connections(place: Place, number: int) -> float:
    """Return how long a client waits, from connecting to a reply, beside so many others."""
    _allow_descriptors(number)
    clients = []
    try:
        for _ in range(number):
            clients.append(Attacker(place))
        began = time.monotonic()
        with Attacker(place) as client:
            client.ask(b"NOOP", b"250")
            return time.monotonic() - began
    finally:
        for client in clients:
            client.close()


def served_at_a_time(place: Place, number: int) -> float:
    """Return how many of these connections are served; then none counts any more."""
    clients: list[Attacker] = []
    served = 0
    try:
        for _ in range(number):
            client = Attacker(place, greet=False)
            clients.append(client)
            served += client.reply().startswith(b"220")
    finally:
        for client in clients:
            client.reset()
    # Resets are seen in their order: the first clients of the next round may come too early.
    for _ in range(PATIENT):
        with Attacker(place, greet=False) as client:
            if client.reply().startswith(b"220"):
                return served
    raise ConnectionError("no client is served any more")


def room_for_others(place: Place, number: int) -> float:
    """Keep all connections that one host can get; return 1 if another host gets none then."""
    kept: list[Attacker] = []
    try:
        for _ in range(number):
            with suppress(OSError):
                client = Attacker(place, greet=False)
                kept.append(client)
                if place.mode == "smtps":
                    client.socket = untrusting().wrap_socket(client.socket)
                client.reply()
        try:
            with Attacker(place, source="127.0.0.2"):
                return 0
        except ConnectionError:
            return 1
        except OSError as error:
            raise Skipped("this machine has one address only") from error
    finally:
        for client in kept:
            client.close()


def handshakes_at_a_time(place: Place, number: int) -> float:
    """Return how many connections may wait before their TLS handshake."""
    clients: list[Attacker] = []
    try:
        for _ in range(number):
            clients.append(Attacker(place, greet=False))
        kept = [client.socket for client in clients]
        # The server says nothing before a handshake: a socket that can be read has ended.
        while kept and (gone := select.select(kept, [], [], 0.5)[0]):
            kept = [sock for sock in kept if sock not in gone]
        return len(kept)
    finally:
        for client in clients:
            client.close()


def served_in_a_row(place: Place, number: int) -> float:
    """Return how many connections are served, one after the other."""
    served = 0
    for _ in range(number):
        with Attacker(place, greet=False) as client:
            served += client.reply().startswith(b"220")
    return served


def endless_errors(place: Place, commands: int) -> float:
    """Return how many wrong commands a session may send."""
    with Attacker(place) as client:
        client.hello()
        for number in range(commands):
            client.send(b"RCPT TO:<nobody@d.test>\r\n")
            if not client.reply().startswith(b"5"):
                return number
    return commands


def endless_junk(place: Place, commands: int) -> float:
    """Return how many commands a session may send that lead to nothing."""
    with Attacker(place) as client:
        for number in range(commands):
            client.send((b"NOOP\r\n", b"RSET\r\n", b"VRFY a\r\n")[number % 3])
            if not client.reply().startswith(b"2"):
                return number
    return commands


def resets(place: Place, rounds: int) -> float:
    """Reset connections at every stage; return the descriptors that this leaves behind."""
    with Attacker(place) as client:
        client.ask(b"NOOP", b"250")
    before = descriptors(place)
    for _ in range(rounds):
        for stage in range(len(DIALOGUE) + 1):
            with suppress(ConnectionError):
                client = Attacker(place)
                client.hello()
                client.send(b"".join(DIALOGUE[:stage]))
                client.reset()
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01", b"PROXY TCP4 192"):
            bare = Attacker(place, greet=False)
            bare.send(begun)
            bare.reset()
    return max(0, wait_for_descriptors(place, before) - before)


def exhausted_descriptors(victim: Victim, number: int) -> float:
    """Take all descriptors, let go; return the log records that the burst has cost.

    Raises TimeoutError if the server does not recover.
    """
    place = victim.place
    clients = []
    for _ in range(number):
        clients.append(Attacker(place, greet=False))
    served = 0
    for client in clients:
        client.socket.settimeout(0.02)
        with suppress(TimeoutError):
            served += bool(client.socket.recv(1000))
    if served == number:
        raise Skipped("the descriptors were enough")
    for client in clients:
        client.close()
    with Attacker(place) as client:
        client.ask(b"NOOP", b"250")
    return victim.log().count("LOG ")


@contextmanager
def _pipelining(place: Place, clients: int, burst: bytes) -> Iterator[None]:
    """Let clients send these commands again and again and read what is answered."""
    over = threading.Event()

    def read(client: Attacker) -> None:
        with suppress(OSError):
            while client.socket.recv(1 << 20):
                pass

    def write(client: Attacker) -> None:
        with suppress(OSError):
            while not over.is_set():
                client.send(burst)

    greedy = [Attacker(place) for _ in range(clients)]
    threads = []
    for client in greedy:
        client.hello()
        threads += [threading.Thread(target=job, args=(client,)) for job in (read, write)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for client in greedy:
            with suppress(OSError):
                client.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(PATIENCE)
        for client in greedy:
            client.close()


def _longest_wait(place: Place, commands: int) -> float:
    """Return the longest time until another client is greeted, or a command of it answered."""
    began = time.monotonic()
    with Attacker(place) as client:
        longest = time.monotonic() - began
        for _ in range(commands):
            began = time.monotonic()
            client.ask(b"NOOP", b"250")
            longest = max(longest, time.monotonic() - began)
    return longest


def pipeline_starvation(place: Place, commands: int) -> float:
    with _pipelining(place, 2, b"NOOP\r\n" * 100_000):
        return _longest_wait(place, commands)


def parser_starvation(place: Place, commands: int) -> float:
    """Pipeline addresses that are hard to parse."""
    hard = b"MAIL FROM:<" + b'"\\"' * 80 + b"((((@" + b"a." * 100 + b">\r\n"
    with _pipelining(place, 2, hard * 5_000):
        return _longest_wait(place, commands)


def _wait_beside(place: Place, send: Callable[[Attacker], None], commands: int) -> float:
    """Return the longest wait of another client while one has sent slow commands."""
    with Attacker(place) as busy:
        busy.transaction()
        send(busy)
        return _longest_wait(place, commands)


def blocking_handler(place: Place, commands: int) -> float:
    """Let a handler's plain code work on a message for two seconds."""
    return _wait_beside(place, lambda busy: busy.send(b"Subject: x\r\n\r\nx\r\n.\r\n"), commands)


def silent_next_hop(starter: "object", commands: int) -> float:
    """Have `Proxy` wait for a next hop that takes connections and says nothing."""
    from tests.attack.servers import Starter

    assert isinstance(starter, Starter)
    with socket.create_server(("127.0.0.1", 0)) as hop:
        next_hop = hop.getsockname()[1]
        with starter.serve("smtp", handler="proxy", next_hop=next_hop) as victim:
            hop.settimeout(PATIENCE)
            with Attacker(victim.place) as busy:
                busy.transaction()
                busy.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
                silent, _ = hop.accept()
                with silent:
                    return _longest_wait(victim.place, commands)


def large_message(place: Place, mib: int) -> float:
    """Send a large message of short lines; return the longest wait of another client."""
    body = b"x\r\n" * (mib * 2**20 // 3) + b".\r\n"
    with Attacker(place) as busy:
        busy.transaction()
        sender = threading.Thread(target=busy.push, args=(body, PATIENCE))
        sender.start()
        longest = 0.0
        while sender.is_alive():
            longest = max(longest, _longest_wait(place, 1))
        sender.join(PATIENCE)
        busy.expect(b"250")
        return longest
