"""A worker that gets mail from NATS JetStream, 20 at a time, until SIGINT or SIGTERM."""

import asyncio
import contextlib
import os
import signal
import sys

from aiosmtpd.delivery import ConsumedMail, Misconfigured, Never, consume

URL = os.environ.get("MAIL_URL", "nats://127.0.0.1/mail.in")


async def handle(mail: ConsumedMail) -> None:
    async with mail:
        subject = mail.message["subject"]
        if subject is None:
            raise Never("554 5.6.0 A ticket needs a subject")
        print(f"{mail.id}: {subject}", flush=True)


async def work() -> str | None:
    """Return None, or one line that says what is wrong with the stream."""
    async with asyncio.TaskGroup() as group:
        try:
            async for mail in consume(URL, durable="tickets", concurrency=20):
                group.create_task(handle(mail))
        except Misconfigured as error:
            return f"worker: {error}"
    return None


async def main() -> str | None:
    working = asyncio.create_task(work())
    for number in signal.SIGINT, signal.SIGTERM:
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        return await working
    return None


# A line ends the process with exit code 1.
sys.exit(asyncio.run(main()))
