"""Start and end of servers: figures are seconds, or complaints of the process."""

import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.attack.servers import Starter, Victim
from tests.attack.wire import PATIENCE, TLS, Attacker

RESTARTS = """
import sys
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from smtplib import SMTP
import socket
with socket.create_server(("127.0.0.1", 0)) as sock:
    port = sock.getsockname()[1]
controller = Controller(Sink(), hostname="127.0.0.1", port=port)
for number in range(int(sys.argv[1])):
    # Releases that cannot be started again are made again.
    controller = Controller(Sink(), hostname="127.0.0.1", port=port)
    controller.start()
    if number % 10 == 0:
        with SMTP("127.0.0.1", port) as client:
            client.sendmail("a@b.test", ["c@d.test"], "Subject: x\\n\\nx")
        idle = socket.create_connection(("127.0.0.1", port))
        idle.recv(100)
    controller.stop()
    if number % 10 == 0:
        idle.close()
"""


def stop_with_open_connections(victim: Victim, number: int) -> float:
    """Return the seconds from SIGTERM to the end of a server with idle clients."""
    clients = [Attacker(victim.place) for _ in range(number)]
    for client in clients:
        client.hello()
    began = time.monotonic()
    code = victim.end(signal.SIGTERM)
    took = time.monotonic() - began
    for client in clients:
        client.close()
    if code:
        raise ConnectionError(f"exit code {code}")
    return took


def clients_that_are_not_told(victim: Victim, number: int) -> float:
    """Return the idle clients that see no 421 when the server is stopped."""
    clients = [Attacker(victim.place) for _ in range(number)]
    for client in clients:
        client.hello()
    victim.end(signal.SIGTERM)
    untold = sum(not client.reply().startswith(b"421") for client in clients)
    for client in clients:
        client.close()
    return untold


def stop_with_messages_in_flight(victim: Victim, number: int) -> float:
    """Stop while hooks work on messages; return those that are not both kept and answered."""
    clients = [Attacker(victim.place) for _ in range(number)]
    for client in clients:
        client.hello()
        client.begin(b"slow@b.test")
        client.ask(b"DATA", b"354")
        client.send(b"x\r\n.\r\n")
    # A later command of another client is answered: the messages were read before it.
    with Attacker(victim.place) as client:
        client.ask(b"NOOP", b"250")
    replies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda client=client: replies.append(client.reply()))
        for client in clients
    ]
    for thread in threads:
        thread.start()
    victim.end(signal.SIGTERM)
    for thread in threads:
        thread.join(PATIENCE)
    for client in clients:
        client.close()
    answered = sum(reply.startswith(b"250") for reply in replies)
    return number - min(answered, len(victim.delivered()))


def _vanish(victim: Victim, sender: bytes, number: int) -> None:
    """Send messages whose hooks take their time, and reset the connections."""
    for _ in range(number):
        client = Attacker(victim.place)
        client.hello()
        client.begin(sender)
        client.ask(b"DATA", b"354")
        client.send(b"x\r\n.\r\n")
        # Whether the hook has begun, only its work tells: there is nothing to wait for.
        with Attacker(victim.place) as other:
            other.ask(b"NOOP", b"250")
        client.reset()


def hooks_left(victim: Victim, number: int) -> float:
    """Vanish while hooks wait for a minute; return the tasks that are left of them."""
    before = victim.tasks()
    _vanish(victim, b"slow@b.test", number)
    return max(0, victim.tasks() - before)


def committed_hooks(victim: Victim, number: int) -> float:
    """Vanish while hooks have committed; return the messages that are lost."""
    _vanish(victim, b"commit@b.test", number)
    # Waits for all tasks.
    victim.tasks()
    return number - len(victim.delivered())


def restarts(starter: Starter, number: int) -> float:
    """Start and stop again and again under -X dev -W error; return the lines of complaint."""
    command = [starter.python, "-X", "dev", "-W", "error", "-c", RESTARTS, str(number)]
    done = subprocess.run(
        command, capture_output=True, timeout=20 * PATIENCE, env=starter.environment()
    )
    return done.stderr.count(b"\n") + (done.returncode != 0)


def developers_mode(starter: Starter, rounds: int) -> float:
    """Mistreat servers under -X dev -W error; return the lines that they complain in."""
    strict = starter.strict()
    modes = ("smtp", "lmtp", "proxy", *TLS)
    # Side by side: each of them waits for a start and an end most of the time.
    with ThreadPoolExecutor(len(modes)) as pool:
        return sum(pool.map(partial(_complaints, strict, rounds=rounds), modes))


def _complaints(strict: Starter, mode: str, rounds: int) -> int:
    with strict.serve(mode, handler="wild", seconds=0.1) as victim:
        for _ in range(rounds):
            for goodbye in (b"QUIT\r\n", b"", b"NOOP"):
                with Attacker(victim.place) as client:
                    client.hello()
                    client.begin()
                    client.deliver(b"x")
                    client.send(goodbye)
            client = Attacker(victim.place)
            client.transaction()
            client.reset()
            Attacker(victim.place, greet=False).reset()
            with Attacker(victim.place, greet=False) as client:
                client.send(b"\x16\x03\x01")
        idle = Attacker(victim.place)
        idle.hello()
        code = victim.end(signal.SIGTERM)
        idle.close()
        return victim.errors().count("\n") + (code != 0)
