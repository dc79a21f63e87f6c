"""A process that uses a spool as hard as it can, to be killed: see test_spool_kill.py.

Its output is one line for each fact, written at once: ``put ID``, ``kept ID``, ``taken ID``,
``ended ID``.
"""

import hashlib
import os
import sys
from pathlib import Path

from aiosmtpd.delivery.ids import new_queue_id
from aiosmtpd.delivery.outcome import Outcome
from aiosmtpd.delivery.spool import Spool
from tests.delivery.spooling import due, large, put

WAVE = 30


def content_of(queue_id: str) -> bytes:
    """Return the message of an id: small, medium or in a file."""
    digest = hashlib.sha256(queue_id.encode()).digest()
    repeat = (10, 10, 10, 10, 100, 100, 1000, 10_000)[digest[0] % 8]
    return digest * repeat


def say(word: str, queue_id: str) -> None:
    os.write(1, f"{word} {queue_id}\n".encode())


def put_one(spool: Spool, queue_id: str) -> Outcome[None]:
    content = content_of(queue_id)
    say("put", queue_id)
    if len(content) > 256 * 1024:
        return put(spool, queue_id, large(spool, queue_id, content))
    return put(spool, queue_id, content)


def deliver_some(spool: Spool) -> None:
    for job in due(spool, limit=WAVE // 3):
        say("taken", job.item.id)
        spool.done(job)


def run(spool: Spool, waves: int) -> None:
    for _ in range(waves):
        futures = {put_one(spool, name): name for name in [new_queue_id() for _ in range(WAVE)]}
        for future, name in futures.items():
            future.result()
            say("kept", name)
        deliver_some(spool)


def put_equal(spool: Spool, waves: int) -> None:
    """Put small messages only, and say when a wave begins and when it is kept."""
    for wave in range(waves):
        say("put", str(wave))
        futures = [put(spool, f"w{wave}-{number}", bytes(4096)) for number in range(WAVE)]
        for future in futures:
            future.result()
        say("kept", str(wave))


def put_and_end(spool: Spool, waves: int) -> None:
    """Put a message and remove it, wave by wave; every second one is in a file."""
    for wave in range(waves):
        name = new_queue_id()
        say("put", str(wave))
        content = large(spool, name, b"x") if wave % 2 else bytes(4096)
        put(spool, name, content, due=1.0).result()
        say("kept", str(wave))
        job = spool.fresh.take("main")
        assert job is not None
        spool.done(job).result()
        say("ended", str(wave))


def main(folder: str, what: str, waves: str) -> None:
    spool = Spool(Path(folder))
    spool.open()
    say("open", folder)
    {"run": run, "equal": put_equal, "ends": put_and_end}[what](spool, int(waves))
    spool.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
