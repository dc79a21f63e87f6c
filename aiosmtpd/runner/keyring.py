"""The certificates as the master has them: texts and facts, without the module ssl.

That module takes 4 MiB of memory. A process of its own, :mod:`aiosmtpd.runner.keys`, checks the
files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import attrs

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.certificates import Checked, Facts, Texts, texts_of
from aiosmtpd.runner.reader import no_answer, output_of
from aiosmtpd.runner.tables import TLS, Pair


class Keyring:
    """The certificates of the master, as they were when they were last right.

    *known* are those that are checked already, in the order of the table.
    """

    def __init__(self, tls: TLS | None, known: Iterable[Checked] = ()) -> None:
        self.texts: list[Texts] = []
        self.facts: dict[str, Facts] = {}
        """The facts by the path of the certificate."""
        self.is_checking = False
        """True while a process checks the files."""
        self._pairs = tls.pairs if tls is not None else ()
        self._use(known)

    async def read(self) -> bool:
        """Read the files; return True if one has changed.

        If one is wrong, all old ones stay. Raises Failure with one line.
        """
        if [texts_of(pair) for pair in self._pairs] == self.texts:
            return False
        self.is_checking = True
        try:
            self._use(await _checked(self._pairs))
        finally:
            self.is_checking = False
        return True

    def _use(self, found: Iterable[Checked]) -> None:
        known = list(found)
        self.texts = [one.texts for one in known]
        self.facts = {pair.cert: one.facts for pair, one in zip(self._pairs, known, strict=False)}


async def _checked(pairs: Iterable[Pair]) -> list[Checked]:
    """Let a process read and check the files; raises Failure."""
    arguments = json.dumps([attrs.astuple(pair) for pair in pairs])
    what = "the certificates"
    output, code = await output_of("aiosmtpd.runner.keys", arguments, what)
    try:
        found = json.loads(output)
        if "failure" in found:
            raise Failure(found["failure"], found["code"])
        return [Checked.of(one) for one in found["certificates"]]
    except (ValueError, KeyError, TypeError):
        raise no_answer(what, code) from None
