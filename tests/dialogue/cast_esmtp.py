"""The cast of the transcripts of features that 1.4 does not have."""

from typing import Any, ClassVar

from aiosmtpd.smtp import MODERN, Refused, Reply, xclient, xforward

TRUSTING = [*MODERN, xclient("192.0.2.0/24"), xforward(["192.0.2.7"])]
DISTRUSTING = [*MODERN, xclient("198.51.100.0/24"), xforward("198.51.100.0/24")]


class Codes:
    """Answers NOOP with a reply that has a name."""

    texts: ClassVar = {
        "fine": "250 fine",
        "later": "451 later",
        "no": "550 no",
        "coded": "550 5.1.1 no",
        "odd": Reply("550 no", "4.4.4"),
        "short": "550",
        "two": "250-two\r\n250 lines",
        "long": f"250 {'x' * 600}",
        "more": "354 more",
    }

    async def handle_NOOP(self, server: Any, session: Any, envelope: Any, arg: str) -> str:
        return self.texts[arg]

    async def handle_EXPN(self, server: Any, session: Any, envelope: Any, arg: str) -> str:
        return f"250 EXPN {arg}"


class Whence:
    """Replies with the name and address of the client."""

    async def handle_CONNECT(self, *args: Any) -> str:
        host, port = args[-2:]
        if host == "203.0.113.10":
            raise Refused("554 5.7.1 nor you")
        return "554 5.7.1 not you" if host == "203.0.113.9" else f"220 {host} {port}"

    async def handle_NOOP(self, server: Any, session: Any, envelope: Any, arg: str) -> str:
        said, forwarded = session.xclient, envelope.xforward
        return f"250 {session.client_address} {said} {session.authenticated} {forwarded}"


class Leaves:
    """Ends the connection with a text that is not a single reply."""

    async def handle_NOOP(self, server: Any, *args: Any) -> str:
        server.disconnect("421 go\r\n250 on")
        return "250 OK"
