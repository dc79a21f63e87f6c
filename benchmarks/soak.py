"""Run good and bad clients against one process: ``python benchmarks/soak.py``.

It checks that memory does not grow after the first minute, that descriptors and tasks return to
their first numbers, and that each acknowledged message was taken exactly once. It needs the
extra ``test``.
"""

import argparse
import base64
import hashlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.attack.mutations import hold, mutation  # noqa: E402
from tests.attack.servers import Starter  # noqa: E402
from tests.attack.wire import Attacker, Place, descriptors, memory  # noqa: E402

GROWTH = 2.0
"""MiB by which memory may grow after the first minute.

The least memory of each minute is compared, because large messages come and go.
"""

MINUTE = 60.0

GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Make glibc return large blocks at once, or the gaps between them would look like a leak."""

CREDENTIALS = base64.b64encode(b"\x00user\x00pass")
ENCRYPTED = ("starttls", "smtps")


@attrs.define
class Soak:
    """The state that all clients share: the servers, the end time, the acknowledged messages."""

    places: dict[str, Place]
    until: float
    acknowledged: list[str] = attrs.field(factory=list)
    refused: Counter[str] = attrs.field(factory=Counter)
    times: dict[str, list[float]] = attrs.field(factory=dict)
    attacks: Counter[str] = attrs.field(factory=Counter)
    failures: list[str] = attrs.field(factory=list)

    def goes_on(self) -> bool:
        return time.monotonic() < self.until


def content(name: str, number: int) -> bytes:
    """Return a new message: most are small, some have 100 KB, few 1 MB."""
    lines = 10_000 if number % 500 == 499 else 1_000 if number % 50 == 49 else 10
    mark = f"{name} {number}".encode()
    return b"Subject: " + mark + b"\r\n\r\n" + (b".x" + mark.ljust(90, b"y") + b"\r\n") * lines


def by_data(client: Attacker, message: bytes) -> bytes:
    client.begin()
    client.ask(b"DATA", b"354")
    client.send(message.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return client.reply()


def by_chunks(client: Attacker, message: bytes) -> bytes:
    client.begin()
    half = len(message) // 2
    client.send(b"BDAT %d\r\n" % half + message[:half])
    client.expect(b"250")
    client.send(b"BDAT %d LAST\r\n" % (len(message) - half) + message[half:])
    return client.reply()


def in_one_write(client: Attacker, message: bytes) -> bytes:
    client.send(
        b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT %d LAST\r\n" % len(message) + message
    )
    client.expect(b"250")
    client.expect(b"250")
    return client.reply()


def good(
    soak: Soak,
    kind: str,
    mode: str,
    deliver: Callable[[Attacker, bytes], bytes],
    messages: int,
    auth: bool = False,
) -> None:
    """Send messages, several in each connection; note the acknowledged ones and their times."""
    number = 0
    times = soak.times.setdefault(kind, [])
    name = f"{kind} {threading.get_ident()}"
    while soak.goes_on():
        with Attacker(soak.places[mode]) as client:
            client.hello()
            if auth:
                client.ask(b"AUTH PLAIN " + CREDENTIALS, b"235")
            for _ in range(messages):
                number += 1
                message = content(name, number)
                began = time.monotonic()
                reply = deliver(client, message)
                times.append(time.monotonic() - began)
                if reply.startswith(b"250"):
                    soak.acknowledged.append(hashlib.sha256(message).hexdigest())
                else:
                    soak.refused[reply[:40].decode("latin-1")] += 1
            client.ask(b"QUIT", b"221")


# Bad clients: their replies do not matter.


def resets(soak: Soak, chance: random.Random) -> None:
    client = Attacker(soak.places[chance.choice(list(soak.places))])
    client.hello()
    steps = (b"MAIL FROM:<a@b.test>\r\n", b"RCPT TO:<c@d.test>\r\n", b"DATA\r\n", b"x\r\n" * 1000)
    client.send(b"".join(steps[: chance.randrange(5)]))
    client.reset()


def garbage(soak: Soak, chance: random.Random) -> None:
    place = soak.places[chance.choice(("smtp", "lmtp"))]
    with Attacker(place) as client:
        hold(client, mutation(chance, place.hello.partition(b" ")[0]), chance)


def never_reads(soak: Soak, chance: random.Random) -> None:
    with Attacker(soak.places["smtp"], receive_buffer=4096) as client:
        client.push(b"HELP\r\n" * 100_000, 1.0)


def dribbles(soak: Soak, chance: random.Random) -> None:
    with Attacker(soak.places[chance.choice(("smtp", "smtps"))]) as client:
        client.hello()
        client.closed_within(10, b"NOOP and so on", 0.1)


def no_handshake(soak: Soak, chance: random.Random) -> None:
    with Attacker(soak.places["smtps"], greet=False) as client:
        client.send(os.urandom(chance.randrange(1, 400)))
        client.closed_within(0.2)


def guesses(soak: Soak, chance: random.Random) -> None:
    with Attacker(soak.places["smtp"]) as client:
        client.hello()
        wrong = base64.b64encode(b"\x00user\x00%d" % chance.randrange(1000))
        while client.ask(b"AUTH PLAIN " + wrong).startswith(b"535"):
            pass


def vanishes_in_data(soak: Soak, chance: random.Random) -> None:
    with Attacker(soak.places[chance.choice(("smtp", "starttls"))]) as client:
        client.transaction()
        client.send(b"x" * chance.randrange(200_000))


BAD = (resets, garbage, never_reads, dribbles, no_handshake, guesses, vanishes_in_data)


def bad(soak: Soak, attack: Callable[[Soak, random.Random], None], seed: int) -> None:
    chance = random.Random(seed)
    while soak.goes_on():
        with suppress(OSError, EOFError):
            attack(soak, chance)
        soak.attacks[attack.__name__] += 1


GOOD: tuple[tuple[str, str, Callable[[Attacker, bytes], bytes], int, bool], ...] = (
    ("plain", "smtp", by_data, 100, False),
    ("plain", "smtp", by_data, 1, False),
    ("auth", "smtp", by_data, 10, True),
    ("chunks", "smtp", by_chunks, 50, False),
    ("one write", "smtp", in_one_write, 50, False),
    ("STARTTLS", "starttls", by_data, 5, False),
    ("TLS", "smtps", by_data, 20, False),
    ("LMTP", "lmtp", by_data, 20, False),
)


def threads_of(soak: Soak) -> list[threading.Thread]:
    def guarded(work: Callable[..., None], *args: object) -> None:
        try:
            work(soak, *args)
        except Exception as error:
            soak.failures.append(f"{args[0]}: {type(error).__name__}: {error}")

    clients = [threading.Thread(target=guarded, args=(good, *one)) for one in GOOD]
    return clients + [
        threading.Thread(target=guarded, args=(bad, attack, seed))
        for seed, attack in enumerate(BAD)
    ]


def tasks(process: "subprocess.Popen[bytes]") -> int:
    assert process.stdout is not None
    process.send_signal(signal.SIGUSR1)
    return int(process.stdout.readline())


def quiet(
    place: Place, process: "subprocess.Popen[bytes]", enough: tuple[int, int]
) -> tuple[int, int]:
    """Return descriptors and tasks as soon as they are *enough*, or stay the same for 5 s."""
    last, changed = (-2, -2), time.monotonic()
    while last != enough and time.monotonic() < changed + 5:
        now = descriptors(place), tasks(process)
        if now != last:
            last, changed = now, time.monotonic()
        time.sleep(0.2)
    return last


def watch(soak: Soak, place: Place, threads: list[threading.Thread]) -> list[tuple[float, float]]:
    """Note the memory each second until all clients have ended."""
    began = time.monotonic()
    samples = []
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(1)
            samples.append((time.monotonic() - began, memory(place)))
    return samples


def report(soak: Soak, samples: list[tuple[float, float]], path: Path) -> bool:
    """Print the figures; return True if all conditions hold."""
    taken = Counter(path.read_text(encoding="ascii").split())
    lost = [digest for digest in soak.acknowledged if taken[digest] != 1]
    last = samples[-1][0]
    floors = [
        min(mib for at, mib in samples if at // MINUTE == minute)
        for minute in range(max(1, int(last // MINUTE)))
    ]
    growth = floors[-1] - floors[min(1, len(floors) - 1)]
    print(f"{len(soak.acknowledged)} messages of good clients acknowledged in {last:.0f} s")
    print(f"  not taken exactly once: {len(lost)}, refused: {dict(soak.refused)}")
    for kind, times in soak.times.items():
        p50, p99 = (statistics.quantiles(times, n=100)[at] * 1000 for at in (49, 98))
        worst = max(times) * 1000
        print(
            f"  {kind:10} {len(times):8} messages, p50 {p50:.1f}, p99 {p99:.1f}, max {worst:.0f} ms"
        )
    print(f"  bad clients: {dict(soak.attacks)}")
    highest = max(mib for _, mib in samples)
    print(f"  memory: {growth:+.2f} MiB after the first minute, {highest:.1f} MiB at most")
    print(f"    least in each minute: {' '.join(f'{mib:.1f}' for mib in floors)}")
    for failure in soak.failures[:5]:
        print(f"  a good client failed: {failure}")
    return not (lost or soak.refused or soak.failures) and growth <= GROWTH


def run(minutes: float, folder: Path, pem: Path) -> bool:
    path = folder / "digests"
    command = [sys.executable, str(Path(__file__).with_name("soak_server.py")), str(pem), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **GIVES_BACK}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout is not None
        smtp, smtps, lmtp = map(int, process.stdout.readline().split())
        ports = {"smtp": smtp, "starttls": smtp, "smtps": smtps, "lmtp": lmtp}
        places = {mode: Place("127.0.0.1", port, mode, process.pid) for mode, port in ports.items()}
        for place in places.values():
            with Attacker(place) as client:
                by_data(client, b"x") if client.hello() else None
        before = quiet(places["smtp"], process, (-1, -1))
        soak = Soak(places, time.monotonic() + minutes * 60)
        samples = watch(soak, places["smtp"], threads_of(soak))
        after = quiet(places["smtp"], process, before)
        holds = report(soak, samples, path)
        print(f"  descriptors {before[0]} -> {after[0]}, tasks {before[1]} -> {after[1]}")
        process.terminate()
        return holds and after <= before and process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    settings = parser.parse_args()
    with Starter() as starter, tempfile.TemporaryDirectory() as folder:
        return int(not run(settings.minutes, Path(folder), starter.pem()))


if __name__ == "__main__":
    sys.exit(main())
