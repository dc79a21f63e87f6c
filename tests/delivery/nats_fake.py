"""As much of NATS JetStream as the tests need, in memory, in a thread of its own.

Tests run against it on every machine, and against real servers if these are installed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from base64 import b64encode
from collections.abc import Coroutine
from typing import Any

import attrs

from tests.net.support import free_port

Facts = dict[str, Any]
CREATED = "2026-11-28T12:00:00.000000Z"
_NOT_FOUND = {"code": 404, "err_code": 10059, "description": "not found"}


def matches(pattern: str, subject: str) -> bool:
    """Return True if *pattern*, which may have wildcards, takes *subject*."""
    wanted, found = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(found) >= len(wanted) and matches(
            ".".join(wanted[:-1]), ".".join(found[: len(wanted) - 1])
        )
    return len(wanted) == len(found) and all(
        one in ("*", two) for one, two in zip(wanted, found, strict=True)
    )


@attrs.define
class Message:
    subject: str
    headers: bytes
    body: bytes

    def header(self, name: str) -> str:
        for line in self.headers.decode().split("\r\n"):
            key, _, value = line.partition(": ")
            if key == name:
                return value
        return ""


@attrs.define(eq=False)
class Consumer:
    config: Facts
    done: set[int] = attrs.field(factory=set)
    counts: dict[int, int] = attrs.field(factory=dict)
    busy: dict[int, float] = attrs.field(factory=dict)
    """When a message that was given out may be given out again."""
    requests: list[Facts] = attrs.field(factory=list)


@attrs.define(eq=False)
class Stream:
    config: Facts
    messages: dict[int, Message] = attrs.field(factory=dict)
    last: int = 0
    ids: dict[str, int] = attrs.field(factory=dict)
    consumers: dict[str, Consumer] = attrs.field(factory=dict)

    @property
    def facts(self) -> Facts:
        state = {
            "messages": len(self.messages),
            "bytes": 0,
            "first_seq": min(self.messages, default=self.last + 1),
            "last_seq": self.last,
            "consumer_count": 0,
        }
        return {"config": dict(self.config), "state": state, "created": CREATED}

    def fault(self, message: Message) -> Facts | None:
        size = len(message.headers) + len(message.body)
        limits = self.config
        expected = message.header("Nats-Expected-Stream")
        if expected and expected != limits["name"]:
            return {"code": 400, "err_code": 10060, "description": "expected stream does not match"}
        stored = sum(len(one.body) for one in self.messages.values())
        for name, count in ("max_msgs", len(self.messages) + 1), ("max_bytes", stored + size):
            if (limits.get(name) or -1) > 0 and count > limits[name]:
                text = f"maximum {'messages' if name == 'max_msgs' else 'bytes'} exceeded"
                return {"code": 503, "err_code": 10077, "description": text}
        return None

    def store(self, message: Message) -> Facts:
        """Store a message; return the acknowledgement."""
        fault = self.fault(message)
        if fault is not None:
            return {"error": fault}
        message_id = message.header("Nats-Msg-Id")
        if message_id in self.ids:
            return {"stream": self.config["name"], "seq": self.ids[message_id], "duplicate": True}
        self.last += 1
        self.messages[self.last] = message
        if message_id:
            self.ids[message_id] = self.last
        return {"stream": self.config["name"], "seq": self.last}


@attrs.define(eq=False)
class Client:
    writer: asyncio.StreamWriter
    subscriptions: dict[str, str] = attrs.field(factory=dict)

    def deliver(self, subject: str, reply: str, headers: bytes, body: bytes) -> bool:
        for number, pattern in self.subscriptions.items():
            if matches(pattern, subject):
                sizes = f"{len(headers)} {len(headers) + len(body)}" if headers else f"{len(body)}"
                verb = "HMSG" if headers else "MSG"
                line = f"{verb} {subject} {number} {reply} {sizes}\r\n".encode()
                self.writer.write(line + headers + body + b"\r\n")
                return True
        return False


class FakeNats:
    """A server with the surface of ``nats_support.NatsServer``."""

    def __init__(self, max_payload: int = 1 << 20) -> None:
        self.port = free_port()
        self._max_payload = max_payload
        self._streams: dict[str, Stream] = {}
        self._clients: set[Client] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._listening: asyncio.Server | None = None
        self._awake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens = itertools.count()

    def _call(self, doing: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(30)

    def start(self) -> None:
        self._call(self._start())

    async def _start(self) -> None:
        self._awake.set()
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._tasks = {self._loop.create_task(self._tick())}

    def kill(self) -> None:
        """End all connections at once; the streams stay."""
        self._call(self._kill())

    async def _kill(self) -> None:
        listening, self._listening = self._listening, None
        if listening is None:
            return
        listening.close()
        for task in self._tasks:
            task.cancel()
        for client in self._clients:
            client.writer.transport.abort()
        self._clients.clear()
        for stream in self._streams.values():
            for consumer in stream.consumers.values():
                consumer.requests.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """Hang: read nothing, answer nothing."""
        self._call(self._hang(True))

    def go_on(self) -> None:
        self._call(self._hang(False))

    async def _hang(self, hanging: bool) -> None:
        if hanging:
            self._awake.clear()
        else:
            self._awake.set()

    def limit_payload(self, size: int) -> None:
        self._max_payload = size

    def end(self) -> None:
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        client = Client(writer)
        self._clients.add(client)
        try:
            await self._awake.wait()
            facts = {"headers": True, "max_payload": self._max_payload, "version": "2.10.0"}
            writer.write(b"INFO " + json.dumps(facts).encode() + b"\r\n")
            while line := await reader.readline():
                await self._awake.wait()
                await self._command(client, reader, line.decode().split())
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            self._clients.discard(client)
            writer.transport.abort()

    async def _command(
        self, client: Client, reader: asyncio.StreamReader, words: list[str]
    ) -> None:
        verb = words[0]
        if verb == "PING":
            client.writer.write(b"PONG\r\n")
        elif verb == "SUB":
            client.subscriptions[words[-1]] = words[1]
        elif verb == "UNSUB":
            client.subscriptions.pop(words[1], None)
        elif verb in {"PUB", "HPUB"}:
            payload = (await reader.readexactly(int(words[-1]) + 2))[:-2]
            cut = int(words[-2]) if verb == "HPUB" else 0
            reply = words[2] if len(words) == (4 if verb == "PUB" else 5) else ""
            message = Message(words[1], payload[:cut], payload[cut:])
            if len(payload) > self._max_payload:
                client.writer.write(b"-ERR 'Maximum Payload Violation'\r\n")
                raise ConnectionError
            self._publish(message, reply)
            await client.writer.drain()

    def _publish(self, message: Message, reply: str) -> None:
        subject = message.subject
        if subject.startswith("$JS.API.CONSUMER.MSG.NEXT."):
            _, _, _, _, _, stream, name = subject.split(".")
            request = {"inbox": reply, "began": time.monotonic(), **json.loads(message.body)}
            self._streams[stream].consumers[name].requests.append(request)
            self._hand_out()
            return
        if subject.startswith("$JS.ACK."):
            answer: Facts | None = self._acknowledge(subject, message.body.decode())
        elif subject.startswith("$JS.API."):
            answer = self._api(subject.split(".")[2:], json.loads(message.body or b"{}"))
        else:
            stored_in = self._stream_of(subject)
            answer = stored_in.store(message) if stored_in else None
            if stored_in and stored_in.config.get("no_ack"):
                reply = ""
        if reply and answer is not None:
            self._deliver(reply, "", b"", json.dumps(answer).encode() if answer else b"")
        elif reply:
            self._deliver(reply, "", b"NATS/1.0 503\r\n\r\n", b"")
        self._hand_out()

    def _deliver(self, subject: str, reply: str, headers: bytes, body: bytes) -> bool:
        return any(client.deliver(subject, reply, headers, body) for client in self._clients)

    def _stream_of(self, subject: str) -> Stream | None:
        for stream in self._streams.values():
            if any(matches(pattern, subject) for pattern in stream.config["subjects"]):
                return stream
        return None

    # -- the interface for streams and consumers

    def _api(self, words: list[str], request: Facts) -> Facts:
        verb = ".".join(words[:2])
        if verb == "STREAM.NAMES":
            found = self._stream_of(request["subject"])
            return {"streams": [found.config["name"]] if found else []}
        if verb == "STREAM.CREATE":
            self._streams[request["name"]] = Stream(request)
            return self._streams[request["name"]].facts
        if verb == "STREAM.MSG":
            stream = self._streams.get(words[3])
        else:
            name = words[3] if words[1] == "DURABLE" else words[2]
            stream = self._streams.get(name)
        if stream is None:
            return {"error": _NOT_FOUND}
        if words[0] == "CONSUMER":
            return self._consumer_api(stream, words, request)
        return self._stream_api(stream, words, request)

    def _stream_api(self, stream: Stream, words: list[str], request: Facts) -> Facts:
        verb = ".".join(words[1:-1])
        if verb == "UPDATE":
            stream.config.update(request)
        elif verb == "DELETE":
            del self._streams[words[-1]]
            return {"success": True}
        elif verb == "PURGE":
            stream.messages.clear()
            return {"success": True}
        elif verb in {"MSG.GET", "MSG.DELETE"}:
            message = stream.messages.get(request["seq"])
            if message is None:
                return {"error": _NOT_FOUND}
            if verb == "MSG.DELETE":
                del stream.messages[request["seq"]]
                return {"success": True}
            found = {
                "subject": message.subject,
                "seq": request["seq"],
                "data": b64encode(message.body).decode(),
                "hdrs": b64encode(message.headers).decode(),
                "time": CREATED,
            }
            return {"message": found}
        return stream.facts

    def _consumer_api(self, stream: Stream, words: list[str], request: Facts) -> Facts:
        name = words[-1]
        if words[1] == "DURABLE":
            config = request["config"]
            filters = [one.config.get("filter_subject") for one in stream.consumers.values()]
            if stream.config["retention"] == "workqueue" and (
                config.get("filter_subject") in filters or None in filters
            ):
                text = "filtered consumer not unique on workqueue stream"
                return {"error": {"code": 400, "err_code": 10100, "description": text}}
            stream.consumers[name] = Consumer(config)
        consumer = stream.consumers.get(name)
        if consumer is None:
            return {"error": {**_NOT_FOUND, "err_code": 10014}}
        if words[1] == "DELETE":
            del stream.consumers[name]
            for one in consumer.requests:
                self._deliver(one["inbox"], "", b"NATS/1.0 409 Consumer Deleted\r\n\r\n", b"")
            return {"success": True}
        return {
            "stream_name": stream.config["name"],
            "name": name,
            "config": dict(consumer.config),
            "created": CREATED,
        }

    # -- messages for consumers

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            await self._awake.wait()
            for stream in self._streams.values():
                for consumer in stream.consumers.values():
                    for request in consumer.requests:
                        beat = request.get("idle_heartbeat", 10**18) / 1e9
                        if time.monotonic() - request["began"] > beat:
                            request["began"] = time.monotonic()
                            heartbeat = b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"
                            self._deliver(request["inbox"], "", heartbeat, b"")
            self._hand_out()

    def _hand_out(self) -> None:
        for stream in self._streams.values():
            for name, consumer in stream.consumers.items():
                for sequence, message in stream.messages.items():
                    if self._is_free(consumer, sequence, message):
                        self._give(stream, name, consumer, sequence)

    @staticmethod
    def _is_free(consumer: Consumer, sequence: int, message: Message) -> bool:
        pattern = consumer.config.get("filter_subject") or ">"
        return (
            sequence not in consumer.done
            and matches(pattern, message.subject)
            and consumer.busy.get(sequence, 0) <= time.monotonic()
        )

    def _give(self, stream: Stream, name: str, consumer: Consumer, sequence: int) -> None:
        message = stream.messages[sequence]
        while consumer.requests:
            request = consumer.requests[0]
            number = consumer.counts.get(sequence, 0) + 1
            reply = f"$JS.ACK.{stream.config['name']}.{name}.{number}.{sequence}"
            reply += f".{next(self._tokens)}.0.0"
            inbox = request["inbox"]
            for client in self._clients:
                for key, pattern in client.subscriptions.items():
                    if pattern == inbox:
                        self._write(client, key, message, reply)
                        request["batch"] -= 1
                        if not request["batch"]:
                            consumer.requests.pop(0)
                        consumer.counts[sequence] = number
                        wait = (consumer.config.get("ack_wait") or 30e9) / 1e9
                        consumer.busy[sequence] = time.monotonic() + wait
                        return
            consumer.requests.pop(0)

    @staticmethod
    def _write(client: Client, key: str, message: Message, reply: str) -> None:
        headers = message.headers or b"NATS/1.0\r\n\r\n"
        sizes = f"{len(headers)} {len(headers) + len(message.body)}"
        line = f"HMSG {message.subject} {key} {reply} {sizes}\r\n".encode()
        client.writer.write(line + headers + message.body + b"\r\n")

    def _acknowledge(self, subject: str, answer: str) -> Facts:
        _, _, stream_name, name, _, number, *_ = subject.split(".")
        stream, sequence = self._streams[stream_name], int(number)
        consumer = stream.consumers[name]
        if answer.startswith("-NAK"):
            delay = json.loads(answer[4:] or "{}").get("delay", 0) / 1e9
            consumer.busy[sequence] = time.monotonic() + delay
        elif answer == "+WPI":
            wait = (consumer.config.get("ack_wait") or 30e9) / 1e9
            consumer.busy[sequence] = time.monotonic() + wait
        else:
            consumer.done.add(sequence)
            if stream.config["retention"] == "workqueue":
                stream.messages.pop(sequence, None)
        return {}
