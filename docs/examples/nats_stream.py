"""Make the stream MAIL, which keeps each mail until a worker has acknowledged it."""

import asyncio
import os
from urllib.parse import urlsplit

import nats
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

URL = os.environ.get("MAIL_URL", "nats://127.0.0.1/mail.in")


async def main() -> None:
    subject = urlsplit(URL).path.lstrip("/")
    client = await nats.connect(URL.removesuffix(f"/{subject}"))
    await client.jetstream().add_stream(
        name="MAIL",
        # The mail, its chunks if it is large, and its dead letters.
        subjects=[subject, f"{subject}.>"],
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        retention=RetentionPolicy.WORK_QUEUE,
        max_bytes=10 * 1024**3,
        num_replicas=1,
    )
    await client.close()


asyncio.run(main())
