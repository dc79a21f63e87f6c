"""Helpers for the tests of a server; they block, so the server runs in another thread."""

from __future__ import annotations

import os
import smtplib
import socket
import struct
import sys
import time

from aiosmtpd.smtp import SMTP, Envelope, Session

ASYNCIO_CATCHUP_DELAY = float(os.environ.get("ASYNCIO_CATCHUP_DELAY", 0.1))
"""Seconds to give an event loop in another thread; an environment variable can set it."""


class ReceivingHandler:
    """A handler that accepts every message and keeps its envelope, in order, in ``box``."""

    box: list[Envelope]

    def __init__(self) -> None:
        self.box = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the envelope."""
        self.box.append(envelope)
        return "250 OK"


def reset_connection(client: smtplib.SMTP) -> None:
    """Close the client's connection with a TCP reset (RST) instead of a normal end (FIN)."""
    if client.sock is None:
        raise smtplib.SMTPServerDisconnected("please run connect() first")
    # A socket with a linger time of 0 is reset when closed; two shorts on Windows, else ints.
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.close()


def catchup_delay(delay: float = ASYNCIO_CATCHUP_DELAY) -> None:
    """Let an event loop in another thread run for *delay* seconds."""
    time.sleep(delay)


def send_recv(
    sock: socket.socket, data: bytes, end: bytes = b"\r\n", timeout: float = 0.1
) -> bytes:
    """Send *data* and *end*; return all bytes until the peer is silent for *timeout* seconds."""
    sock.sendall(data + end)
    received = bytearray()
    timeout_before = sock.gettimeout()
    sock.settimeout(timeout)
    try:
        while piece := sock.recv(4096):
            received += piece
    except TimeoutError:
        pass
    finally:
        sock.settimeout(timeout_before)
    return bytes(received)
