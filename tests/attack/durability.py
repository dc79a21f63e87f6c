"""Crashes and full disks: acknowledged mail must be kept, and kept mail must be whole."""

import email
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.attack.servers import Starter, Victim
from tests.attack.wire import PATIENCE, Attacker, Place, Skipped

SENDERS = 12
PER_ROUND = 120
"""Messages acknowledged before the server is killed."""


class Senders:
    """Clients that send messages until their server goes; `done` has the acknowledged ones."""

    def __init__(self, place: Place, first: int, enough: int) -> None:
        self.done: list[str] = []
        self._enough = enough
        self.reached = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(place, f"{first}-{sender}"))
            for sender in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def _send(self, place: Place, name: str) -> None:
        number = 0
        with suppress(OSError), Attacker(place) as client:
            client.hello()
            while True:
                number += 1
                mark = f"{name}-{number}"
                client.begin()
                if not client.deliver(message(mark)).startswith(b"250"):
                    return
                self.done.append(mark)
                if len(self.done) >= self._enough:
                    self.reached.set()


def message(mark: str) -> bytes:
    """Return a message that tells whether it is whole."""
    body = "\r\n".join([mark * 3] * 40)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"Subject: {mark}\r\nX-Digest: {digest}\r\n\r\n{body}".encode()


def kept(mailbox: Path) -> Counter[str]:
    """Return the marks of the whole messages in a Maildir, "" for each that is not whole."""
    marks: Counter[str] = Counter()
    for file in (mailbox / "new").iterdir():
        found = email.message_from_bytes(file.read_bytes())
        body = str(found.get_payload()).rstrip("\r\n").replace("\r\n", "\n").replace("\n", "\r\n")
        whole = hashlib.sha256(body.encode()).hexdigest() == found["X-Digest"]
        marks[str(found["Subject"]) if whole else ""] += 1
    return marks


def _under_fire(starter: Starter, messages: int, number: int) -> float:
    """End servers that store mail; return the acknowledged messages lost, and the partial ones."""
    lost = acknowledged = first = 0
    while acknowledged < messages:
        first += 1
        with starter.serve("smtp", handler="mailbox") as victim:
            senders = Senders(victim.place, first, min(PER_ROUND, messages))
            if not senders.reached.wait(2 * PATIENCE):
                raise TimeoutError("the messages were not acknowledged")
            victim.end(number)
            senders.join()
            marks = kept(victim.mailbox)
        acknowledged += len(senders.done)
        lost += sum(marks[mark] != 1 for mark in senders.done) + marks[""]
    return lost


def killed(starter: Starter, messages: int) -> float:
    return _under_fire(starter, messages, signal.SIGKILL)


def terminated(starter: Starter, messages: int) -> float:
    return _under_fire(starter, messages, signal.SIGTERM)


@contextmanager
def _small_disk() -> Iterator[Path]:
    """Mount a file system of 128 KiB."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="attack-disk-"))
    mount, umount = shutil.which("mount"), shutil.which("umount")
    try:
        if not mount or not umount or os.geteuid() != 0:
            raise Skipped("only root can mount a small disk")
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True
        )
        if done.returncode:
            raise Skipped(f"no small disk: {done.stderr.decode().strip()}")
        try:
            yield folder
        finally:
            subprocess.run([umount, str(folder)], check=True)
    finally:
        folder.rmdir()


def _fill(victim: Victim, mailbox: Path, content: bytes, messages: int) -> float:
    """Send until it is full; return the wrong replies, lost messages and files left behind."""
    wrong, acknowledged, refused = 0, 0, 0
    with Attacker(victim.place) as client:
        client.hello()
        for _ in range(messages):
            client.begin()
            reply = client.deliver(content)
            acknowledged += reply.startswith(b"250")
            refused += not reply.startswith(b"250")
            wrong += reply[:3] not in (b"250", b"452")
    if not refused:
        raise Skipped("the disk was large enough")
    sizes = [file.stat().st_size for file in (mailbox / "new").iterdir()]
    whole = sum(size > len(content) * 0.9 for size in sizes)
    return (
        wrong
        + abs(acknowledged - whole)
        + len(sizes)
        - whole
        + len(list((mailbox / "tmp").iterdir()))
    )


def full_disk(starter: Starter, messages: int) -> float:
    with _small_disk() as disk:
        box = disk / "box"
        with starter.serve("smtp", handler="mailbox", folder=str(box)) as victim:
            return _fill(
                victim,
                box,
                b"Subject: x\r\n\r\n" + b"x" * 900 + (b"\r\n" + b"x" * 900) * 9,
                messages,
            )


def file_size_limit(starter: Starter, messages: int) -> float:
    with starter.serve("smtp", handler="mailbox", rlimit={"FSIZE": 4096}) as victim:
        return _fill(
            victim, victim.mailbox, b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 100, messages
        )


SYSCALL = re.compile(r"(fsync|fdatasync|rename|renameat|renameat2|openat|sendto|write|close)\((.*)")


def synced(starter: Starter, messages: int) -> float:
    """Watch the system calls; return the acknowledged messages that were not on the disk."""
    strace = shutil.which("strace")
    if strace is None:
        raise Skipped("no strace here")
    trace = Path(starter.folder) / "trace"
    watched = "trace=fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg,write"
    wrapper = (strace, "-f", "-qq", "-y", "-s", "40", "-e", watched, "-o", str(trace))
    with starter.serve("smtp", *wrapper, handler="mailbox") as victim:
        with Attacker(victim.place) as client:
            client.hello()
            for _ in range(messages):
                client.begin()
                if not client.deliver(message("traced")).startswith(b"250"):
                    raise ConnectionError("not acknowledged")
        box = str(victim.mailbox)
        # strace forwards nothing: its child is ended by itself.
        children = Path(f"/proc/{victim.process.pid}/task/{victim.process.pid}/children")
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGTERM)
        victim.process.wait(PATIENCE)
    return _not_synced(trace.read_text(errors="replace"), box, messages)


def _not_synced(trace: str, box: str, messages: int) -> int:
    """Return the messages without a sync of the file, a rename and a sync of the folder."""
    steps = []
    for line in trace.splitlines():
        if "fsync(" in line or "fdatasync(" in line:
            if f"{box}/tmp/" in line:
                steps.append("file")
            elif f"{box}/new>" in line:
                steps.append("folder")
        elif "rename" in line and f"{box}/new/" in line:
            steps.append("rename")
        elif "250 " in line and ("sendto(" in line or "write(" in line or "sendmsg(" in line):
            steps.append("reply")
    story = " ".join(steps)
    return messages - len(re.findall(r"file rename folder reply", story))


def lost_by_the_next_hop(starter: Starter, _: int) -> float:
    """Let next hops fail at each step; return the messages that `Proxy` acknowledges."""
    acknowledged = 0
    with socket.create_server(("127.0.0.1", 0)) as hop:
        hop.settimeout(PATIENCE)
        next_hop = hop.getsockname()[1]
        with starter.serve("smtp", handler="proxy", next_hop=next_hop) as victim:
            for step in ("connect", "EHLO", "MAIL", "RCPT", "DATA", "dot"):
                for answer in (b"", b"451 4.0.0 later\r\n", b"550 5.0.0 never\r\n"):
                    thread = threading.Thread(target=_failing_hop, args=(hop, step, answer))
                    thread.start()
                    acknowledged += _acknowledges(victim.place)
                    thread.join(PATIENCE)
    return acknowledged


def _acknowledges(place: Place) -> bool:
    with Attacker(place) as client:
        client.transaction()
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        return client.reply()[:1] == b"2"


def _failing_hop(hop: socket.socket, step: str, answer: bytes) -> None:
    """Answer until this step comes; then so, or with the end of the connection."""
    with suppress(OSError), hop.accept()[0] as connection, connection.makefile("rb") as lines:
        connection.settimeout(PATIENCE)
        connection.sendall(answer if step == "connect" and answer else b"220 hop\r\n")
        if step == "connect" and not answer:
            return
        in_data = False
        for line in lines:
            if in_data and line != b".\r\n":
                continue
            word = "dot" if in_data else line[:4].decode("latin-1").upper()
            in_data = word == "DATA" and step != "DATA"
            if word == step and not answer:
                return
            usual = b"354 go\r\n" if word == "DATA" else b"250 hop\r\n"
            # HELO may come after a refused EHLO: that is refused too.
            failing = word == step or (step, word) == ("EHLO", "HELO")
            connection.sendall(answer if failing else usual)
