"""Draws the diagrams of ``docs/explain``: ``python docs/diagrams.py`` writes them again.

They are narrow, so that a phone shows them in full, and they take the colours of the page around
them: ``docs/_static/look.css``. On their own they follow the system's light or dark.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "images"
STYLE = """\
.diagram { --ink: #1b1f24; --soft: #4d5761; --line: #76808a; --fill: #f1f4f8; --accent: #dce8ff;
  font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
@media (prefers-color-scheme: dark) {
  .diagram { --ink: #e6e9ed; --soft: #b3bac2; --line: #8b949e; --fill: #21262d; --accent: #1f3557; }
}
.diagram rect { fill: var(--fill); stroke: var(--line); }
.diagram rect.accent { fill: var(--accent); }
.diagram text { fill: var(--ink); font-size: 14px; text-anchor: middle; }
.diagram text.title { font-weight: 600; }
.diagram text.note { fill: var(--soft); font-size: 13px; }
.diagram text.start { text-anchor: start; }
.diagram path { fill: none; stroke: var(--line); stroke-width: 1.5; }
.diagram path.dashed { stroke-dasharray: 5 4; }
.diagram path.head { fill: var(--line); stroke: none; }
"""


class Diagram:
    """A picture of boxes and arrows, 480 units wide."""

    def __init__(self, name: str, height: int, title: str) -> None:
        self._name = name
        self._size = f"0 0 480 {height}"
        self._title = title
        self._parts: list[str] = []

    def box(
        self, x: int, y: int, width: int, height: int, title: str, *notes: str, accent: bool = False
    ) -> None:
        """Draw a box with a title and lines of notes below it."""
        look = ' class="accent"' if accent else ""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5"{look}/>'
        )
        top = y + height / 2 + 5 - 8.5 * len(notes)
        self.text(x + width / 2, top, title, "title")
        for number, note in enumerate(notes, start=1):
            self.text(x + width / 2, top + 17 * number, note, "note")

    def text(self, x: float, y: float, text: str, look: str = "note", turn: bool = False) -> None:
        """Write one line; *turn* writes it upwards."""
        turned = f' transform="rotate(-90 {x:g} {y:g})"' if turn else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{look}"{turned}>{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[int, int], dashed: bool = False) -> None:
        """Draw a line through these points, with a head at the last one."""
        (x0, y0), (x1, y1) = points[-2:]
        right, down = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        # The line ends inside the head, so that its tip is sharp.
        self.line(*points[:-1], (x1 - 4 * right, y1 - 4 * down), dashed=dashed)
        corners = [
            (x1 - 8 * right + side * 4 * down, y1 - 8 * down + side * 4 * right) for side in (-1, 1)
        ]
        self._parts.append(f'<path class="head" d="{_through([(x1, y1), *corners])}Z"/>')

    def line(self, *points: tuple[int, int], dashed: bool = False) -> None:
        """Draw a line through these points."""
        look = ' class="dashed"' if dashed else ""
        self._parts.append(f'<path{look} d="{_through(points)}"/>')

    def write(self) -> None:
        """Write the picture to its file."""
        lines = [
            f'<svg class="diagram" xmlns="http://www.w3.org/2000/svg" viewBox="{self._size}">',
            f"<title>{escape(self._title)}</title>",
            f"<style>\n{STYLE}</style>",
            *self._parts,
            "</svg>",
        ]
        path = FOLDER / f"{self._name}.svg"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _through(points: Iterable[tuple[int, int]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)


A, B, C, D = 24, 136, 248, 360
"""The left edges of four columns, each 96 wide."""


def draw_rooms() -> None:
    """Draw the rooms, and which imports from which."""
    picture = Diagram("rooms", 612, "The rooms; imports point down")
    rooms = {
        "main": (C, 8),
        "testing": (A, 76),
        "process": (A, 148),
        "controller": (B, 148),
        "handlers": (D, 148),
        "observers": (A, 212),
        "server": (B, 212),
        "delivery": (D, 212),
        "mail": (A, 276),
        "listen": (B, 276),
        "lmtp": (C, 276),
        "extensions": (D, 276),
        "smtp": (C, 340),
        "legacy": (D, 340),
        "sasl": (C, 486),
    }
    public = {
        *("main", "testing", "controller", "handlers", "delivery"),
        *("server", "lmtp", "smtp", "extensions"),
    }
    for name, (x, y) in rooms.items():
        picture.box(x, y, 96, 36, name, accent=name in public)
    picture.box(B, 72, 320, 44, "cli, inbox, runner", "use the rooms below")
    engine = "connection, commands, transaction, observer"
    picture.box(A, 404, 432, 58, "engine", engine)
    protocol = "receiver, replies, paths, extensions, session, limits"
    picture.box(A, 550, 432, 54, "protocol", protocol)
    picture.line((A, 474), (456, 474), dashed=True)
    picture.text(A, 496, "no asyncio below this line", "note start")
    _draw_arrows_in_the_columns(picture)
    _draw_arrows_around(picture)
    picture.write()


def _draw_arrows_in_the_columns(picture: Diagram) -> None:
    picture.arrow((296, 44), (296, 72))  # main, cli
    picture.arrow((184, 116), (184, 148))  # cli, controller
    picture.arrow((408, 116), (408, 148))  # cli, handlers
    picture.arrow((184, 184), (184, 212))  # controller, server
    picture.arrow((184, 248), (184, 276))  # server, listen
    picture.arrow((72, 248), (72, 276))  # observers, mail
    picture.arrow((72, 312), (72, 404))  # mail, engine
    picture.arrow((408, 184), (408, 212))  # handlers, delivery
    picture.arrow((296, 312), (296, 340))  # lmtp, smtp
    picture.arrow((296, 376), (296, 404))  # smtp, engine
    picture.arrow((344, 358), (360, 358))  # smtp, legacy
    picture.arrow((296, 462), (296, 486))  # engine, sasl
    picture.arrow((296, 522), (296, 550))  # sasl, protocol
    picture.arrow((408, 462), (408, 550))  # engine, protocol


def _draw_arrows_around(picture: Diagram) -> None:
    picture.line((24, 94), (10, 94), (10, 294))
    for room in (166, 230, 294):  # testing; process, observers, mail
        picture.arrow((10, room), (24, room))
    picture.arrow((120, 94), (128, 94), (128, 166), (136, 166))  # testing, controller
    picture.arrow((232, 230), (296, 230), (296, 276))  # server, lmtp
    picture.line((384, 248), (384, 262), (96, 262))
    picture.arrow((96, 262), (96, 276))  # delivery, mail
    picture.line((456, 294), (470, 294))  # extensions, protocol
    picture.arrow((456, 230), (470, 230), (470, 577), (456, 577))  # delivery, protocol


def draw_message() -> None:
    """Draw the way of one message through the rooms."""
    picture = Diagram("message", 584, "One message through the house")
    picture.box(44, 8, 428, 36, "client", accent=True)
    picture.box(44, 76, 428, 56, "Wire", "bytes in through one buffer, out in few writes; TLS")
    steps = {
        "Receiver": "bytes wait here to be taken",
        "Driver, one task": "takes the next line, or waits",
        "Commands": "the verb, its guards, its method",
        "smtp_MAIL, _RCPT, _DATA": "order, arguments, envelope",
        "your hook": "handle_RCPT, handle_DATA, …",
    }
    for number, (title, note) in enumerate(steps.items()):
        y = 164 + 86 * number
        picture.arrow((154, y - (32 if not number else 30)), (154, y))
        picture.box(44, y, 220, 56, title, note, accent=title == "your hook")
    picture.box(320, 250, 152, 56, "replies", "wait for one write")
    reply = ["from the hook, or", "from Refused(reply),", "or 451 for an error"]
    picture.box(320, 422, 152, 142, "one reply", *reply)
    picture.arrow((154, 44), (154, 76))
    picture.arrow((430, 76), (430, 44))
    picture.arrow((430, 250), (430, 132))
    picture.arrow((396, 422), (396, 306))
    picture.arrow((264, 450), (320, 450))
    picture.arrow((264, 536), (320, 536))
    picture.arrow((44, 192), (20, 192), (20, 450), (44, 450))
    picture.text(14, 321, "mail data", turn=True)
    picture.arrow((264, 192), (356, 192), (356, 250), dashed=True)
    picture.text(270, 184, "fast path", "note start")
    picture.write()


if __name__ == "__main__":
    draw_rooms()
    draw_message()
