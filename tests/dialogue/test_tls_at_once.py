"""A handshake of STARTTLS that the fast path begins: its deadline, and what ends it."""

import asyncio
from time import monotonic
from typing import Any

import pytest

from aiosmtpd.smtp import Session
from tests.conftest import Certificates
from tests.dialogue.fed import EHLO, MAIL, Server, quiet as quiet, turns
from tests.dialogue.test_fast_path_beginning import GO_AHEAD, Lines, Served
from tests.dialogue.tls import PATIENCE, no_queue as no_queue


@pytest.fixture
async def served(certificates: Certificates) -> Served:
    """Return a server with a client that has said nothing yet."""
    return Served(Lines(object(), certificates.server_context()), certificates)


def patience(server: Any) -> float:
    """Return the seconds that the client still has."""
    return float(server._deadline - monotonic())


async def test_patience_after_a_handshake_is_the_usual(served: Served) -> None:
    server = await served.go()
    assert server.driven == []
    assert patience(server) > 200
    await served.finish()


STOPPED = b"421 4.3.2 Service shutting down, closing connection\r\n"


async def test_a_stop_ends_a_transaction_given_up_by_ehlo() -> None:
    server = Server()
    await turns()
    await server.ask(EHLO, MAIL)
    server.shut_down()
    assert not server.is_hung_up
    assert (await server.ask(EHLO)).endswith(b"250 HELP\r\n" + STOPPED)


@pytest.mark.parametrize("when", ["before STARTTLS", "in the handshake"])
async def test_a_stop_ends_a_transaction_given_up_for_tls(when: str, served: Served) -> None:
    server, peer = served.server, served.peer
    await peer.ask(b"EHLO client.test", b"250 HELP\r\n")
    await peer.ask(b"MAIL FROM:<a@example.com>", b"250 OK\r\n")
    if when == "before STARTTLS":
        server.shut_down()
    await peer.ask(b"STARTTLS", GO_AHEAD)
    server.shut_down()
    assert not server.is_hung_up
    await peer.shake_hands(served.client)
    assert await peer.ended() == STOPPED
    assert server.session.ssl is not None
    await peer.finish()
    await asyncio.wait_for(server.ended(), PATIENCE)


async def test_the_first_bytes_in_tls_are_a_command(served: Served) -> None:
    peer = served.peer
    await peer.until(b"220 mx.test test\r\n")
    await peer.ask(b"STARTTLS", GO_AHEAD)
    await peer.shake_hands(served.client)
    reply = await peer.ask(b"\x16\x03\x01", b"recognized\r\n")
    assert reply[:4] == b"500 "
    assert served.server.driven == [b"\x16\x03\x01"]
    await served.finish()


# Sessions of the program's own, which may have anything in place of ours.


class Noted(Session):
    """A session that notes the facts about TLS."""

    noted: dict[str, Any] | None = None

    @property
    def ssl(self) -> dict[str, Any] | None:
        """The facts."""
        return self.noted

    @ssl.setter
    def ssl(self, facts: dict[str, Any] | None) -> None:
        self.noted = facts


class Alike:
    """An object that only has the attributes of a session."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        vars(self).update(vars(Session(loop)))


@pytest.mark.parametrize("kind", [Noted, Alike])
async def test_a_session_of_the_programs_knows_of_tls(
    kind: type[Session], certificates: Certificates
) -> None:
    class Own(Lines):
        def _create_session(self) -> Session:
            return kind(self.loop)

    served = Served(Own(object(), certificates.server_context()), certificates)
    server = await served.go()
    await served.peer.ask(b"EHLO client.test", b"250 HELP\r\n")
    assert type(server.session) is kind
    facts = server.session.ssl or {}
    assert facts["cipher"] == served.client.object.cipher()
    await served.finish()
