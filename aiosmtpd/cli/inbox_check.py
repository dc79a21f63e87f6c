"""``aiosmtpd inbox --check``: ask an inbox whether it is running."""

from __future__ import annotations

import ssl
import time
from argparse import Namespace
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from aiosmtpd.cli.inbox import WEB_PORT
from aiosmtpd.cli.output import complain
from aiosmtpd.listen.addresses import parse_listen, reachable, spell
from aiosmtpd.process.failure import reason_of

PAUSE = 0.1
"""Seconds between two tries."""

PATIENCE = 5.0
"""Seconds that one answer may take."""


def check(settings: Namespace, program: str) -> int:
    """Return 0 if an inbox with these options answers, else 1 after one line."""
    deadline = time.monotonic() + (settings.wait or 0)
    try:
        place = parse_listen(settings.web)
    except ValueError as error:
        complain(f"{program}: error: {error}")
        return 2
    port = WEB_PORT if place.port is None else place.port
    hosts = ["127.0.0.1", "::1"] if place.host is None else [reachable(place.host)]
    while True:
        for host in hosts:
            problem = _problem(settings, host, port)
            if problem is None:
                return 0
        if time.monotonic() >= deadline:
            where = spell((hosts[0], port))
            complain(f"{program}: no inbox at {where}: {problem}")
            return 1
        time.sleep(PAUSE)


def _problem(settings: Namespace, host: str, port: int) -> str | None:
    """Return why an inbox is not ready, None if it is."""
    connection: HTTPConnection
    if settings.web_tls:
        # The certificate may be for another name: this asks only whether it answers.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = HTTPSConnection(host, port, timeout=PATIENCE, context=context)
    else:
        connection = HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", f"{settings.web_root}readyz")
        answer = connection.getresponse()
        return None if answer.status == 200 else f"it answers {answer.status} {answer.reason}"
    except (OSError, HTTPException) as error:
        return reason_of(error)
    except UnicodeError:
        return "this is not a host name"
    finally:
        connection.close()
