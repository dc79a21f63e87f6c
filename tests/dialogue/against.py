"""Plays the transcripts over real sockets against the `aiosmtpd` that can be imported.

`python -m tests.dialogue.against [WORD…]` starts a Controller for each transcript whose title
contains every WORD and prints what was not as written. With 1.4.6 installed instead of this
package it shows the deliberate differences: a transcript marked `differs` must fail there, every
other must hold.

`python -m tests.dialogue.against --at HOST:PORT [WORD…]` plays those that need nothing but a
plain server, in lockstep, against one that runs already; the greeting may be any.
"""

import contextlib
import socket
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, __version__
from tests.client import Client

from .cast import server_factory
from .harness import Await, Feed, Outcome, all_records, burst, judge, lockstep
from .notation import Close, Eof, Expect, Transcript, read_folder
from .tables import parameter_transcripts, path_transcripts

FOLDER = Path(__file__).parent / "transcripts"
PATIENCE = 2.0


def all_transcripts() -> Iterator[Transcript]:
    """Yield every transcript there is."""
    yield from path_transcripts()
    yield from parameter_transcripts()
    for folder in ("core", "auth", "lmtp", "esmtp"):
        yield from read_folder(FOLDER / folder)


class Stage(Controller):
    """Runs the server of one transcript on a free port."""

    def __init__(self, transcript: Transcript) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        super().__init__(object(), hostname="127.0.0.1", port=port)
        self._make = server_factory(transcript)

    def factory(self) -> SMTP:
        """Return the server the transcript is about."""
        return self._make()


def wait_for(client: Client, lines: int) -> bool:
    """Receive until so many lines came; return whether they did."""
    while client.left.count(b"\r\n") < lines and receive(client):
        pass
    return client.left.count(b"\r\n") >= lines


def receive(client: Client) -> bool:
    """Receive once; return False if nothing came or nothing more will."""
    try:
        return client.fill()
    except OSError:
        return False


def ends(client: Client) -> bool:
    """Close the sending side and receive the rest; return whether the server had closed before."""
    closed = False
    client.socket.settimeout(0.05)
    try:
        while not closed:
            closed = not client.fill()
    except TimeoutError:
        pass
    except OSError:
        closed = True
    client.socket.settimeout(PATIENCE)
    send_eof(client)
    while receive(client):
        pass
    client.close()
    return closed


def send_eof(client: Client) -> None:
    """Close the sending side, unless the server has gone."""
    with contextlib.suppress(OSError):
        client.socket.shutdown(socket.SHUT_WR)


def play(transcript: Transcript, address: tuple[str, int], *, at_once: bool) -> Outcome:
    """Hold the dialogue over a socket."""
    client = Client(address, greet=False, patience=PATIENCE)
    for action in burst(transcript.steps) if at_once else lockstep(transcript.steps):
        match action:
            case Feed(data):
                # Unless the server has gone.
                with contextlib.suppress(OSError):
                    client.send(data)
            case Await(lines):
                if not wait_for(client, lines):
                    break
            case Eof():
                send_eof(client)
    closed = ends(client)
    *received, rest = bytes(client.left).split(b"\r\n")
    return Outcome(lines=received, rest=rest, closed_by_server=closed)


def problem_of(transcript: Transcript, *, at_once: bool) -> str:
    """Hold the dialogue with a Controller; return what was wrong, or nothing."""
    with all_records() as records, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            stage = Stage(transcript)
            stage.start()
        except (ImportError, OSError, RuntimeError, TimeoutError, TypeError, KeyError) as error:
            return f"cannot start: {error!r}"
        try:
            outcome = play(transcript, (stage.hostname, stage.port), at_once=at_once)
        finally:
            stage.stop()
    outcome.records = [one for one in records if one.name.startswith("mail.")]
    outcome.warned = {
        f"{one.category.__name__}: {one.message}"
        for one in caught
        if not issubclass(one.category, ResourceWarning | RuntimeWarning)
    }
    try:
        judge(transcript, outcome)
    except AssertionError as error:
        return str(error)
    return ""


def report(words: list[str]) -> int:
    """Play the transcripts with these words in their titles; return how many went otherwise."""
    older = __version__.startswith("1.4.")
    surprises = different = held = 0
    for transcript in all_transcripts():
        if not all(word in transcript.title for word in words):
            continue
        problems = [problem_of(transcript, at_once=False), problem_of(transcript, at_once=True)]
        if older and transcript.differs:
            different += 1
            if not any(problems):
                surprises += 1
                print(f"{transcript.title}\nis marked {transcript.differs!r} and is the same\n")
        elif any(problems):
            surprises += 1
            print(f"{next(filter(None, problems))}\n")
        else:
            held += 1
    print(f"{held} as written, {different} differ as they say, {surprises} surprises")
    return surprises


def report_at(address: tuple[str, int], words: list[str]) -> int:
    """Play the transcripts of a plain server against a running one."""
    surprises = 0
    for transcript in all_transcripts():
        special = transcript.keywords or transcript.server != "Plain" or transcript.differs
        if special or transcript.handler != "Nothing" or transcript.source.startswith("core/greet"):
            continue
        if not all(word in transcript.title for word in words):
            continue
        steps = (Expect("220 .*", is_pattern=True), *transcript.steps[1:])
        lenient = replace(transcript, steps=steps)
        outcome = play(lenient, address, at_once=False)
        if isinstance(steps[-1], Close) and not outcome.closed_by_server:
            print(f"{transcript.title}: not closed")
        try:
            judge(lenient, outcome)
        except AssertionError as error:
            surprises += 1
            print(f"{error}\n")
    return surprises


def main(arguments: list[str]) -> int:
    """Play what the arguments ask for."""
    if arguments[:1] == ["--at"]:
        host, _, port = arguments[1].rpartition(":")
        return min(report_at((host, int(port)), arguments[2:]), 1)
    return min(report(arguments), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
