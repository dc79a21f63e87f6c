"""How many functions one command runs through, and how often the next one is in another file.

``python benchmarks/calls.py [--list]``: a RCPT, with a hook and without one, over a transport in
memory. ``sys.setprofile`` counts the calls of the package's own Python functions, from
``data_received()`` to the rest after the write that answers it. A coroutine that goes on after a
wait counts again. ``--list`` prints each call.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from bytecodes import Conversation
from load import EHLO, MAIL, RCPT

HERE = Path(__file__).parent
WARM_UP = 3


class Watched(Conversation):
    """A conversation that watches its last RCPT, in the other turns of the loop too."""

    seen: list[str]

    def steps(self) -> Iterator[None]:
        yield from self.connected()
        yield from self.said(EHLO)
        yield from self.said(MAIL)
        for _ in range(WARM_UP):
            yield from self.said(RCPT)
        self.seen = []
        sys.setprofile(self.note)
        try:
            yield from self.said(RCPT)
        finally:
            sys.setprofile(None)

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and "aiosmtpd" in code.co_filename:
            file = code.co_filename.rpartition("aiosmtpd/")[2]
            self.seen.append(f"{file} {code.co_qualname}")


async def watched(name: str) -> list[str]:
    conversation = Watched(name)
    conversation.go(conversation.steps())
    await conversation.done
    # The two calls before data_received() are the event loop's: a buffer, and how much is in it.
    return conversation.seen[2:]


def changes_of_file(calls: list[str]) -> int:
    files = [call.split()[0] for call in calls]
    return sum(one != other for one, other in pairwise(files))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print each call")
    parser.add_argument("--tree", type=Path, default=HERE.parent, help="the tree to look at")
    options = parser.parse_args()
    sys.path.insert(0, str(options.tree))
    for title, name in ("with a hook", "hooks"), ("without one", "lockstep"):
        calls = asyncio.run(watched(name))
        files = len({call.split()[0] for call in calls})
        changes = changes_of_file(calls)
        print(f"a RCPT {title}: {len(calls)} calls in {files} files, {changes} changes of file")
        for call in calls if options.list else ():
            print(f"    {call}")


if __name__ == "__main__":
    main()
