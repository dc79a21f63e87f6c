"""Attack a server: ``python -m tests.attack``.

Without arguments all attacks are made on servers of ours, started in every mode. ``--host`` and
``--port`` name a server that runs already: it gets the attacks that need nothing prepared, and
with ``--pid`` those that look at its process. ``--python`` names the Python of an environment with
another release of aiosmtpd, whose servers are started instead.
"""

import argparse
import sys
from collections.abc import Iterator

from tests.attack.attacks import ATTACKS
from tests.attack.servers import Starter
from tests.attack.table import EVERY, Attack, Outcome, make, make_against
from tests.attack.wire import Place


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("names", nargs="*", help="attacks, or how their names begin; all if none")
    parser.add_argument("--list", action="store_true", help="list the attacks and make none")
    parser.add_argument("--quick", action="store_true", help="small counts, as in the tests")
    parser.add_argument("--mode", action="append", choices=EVERY, help="these modes alone")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, help="a server that runs already")
    parser.add_argument("--pid", type=int, help="its process")
    parser.add_argument("--python", default=sys.executable, help="whose servers are attacked")
    return parser


def _outcomes(settings: argparse.Namespace, attacks: list[Attack]) -> Iterator[Outcome]:
    if settings.port is not None:
        modes = settings.mode or ["smtp"]
        for mode in modes:
            place = Place(settings.host, settings.port, mode, settings.pid)
            for attack in attacks:
                if attack.anywhere and mode in attack.modes:
                    yield make_against(attack, place, quick=settings.quick)
        return
    with Starter(settings.python) as starter:
        for attack in attacks:
            for mode in attack.modes:
                if not settings.mode or mode in settings.mode:
                    yield make(attack, mode, starter, quick=settings.quick)


def main() -> int:
    settings = _parser().parse_args()
    names = tuple(settings.names)
    attacks = [one for one in ATTACKS if not names or one.name.startswith(names)]
    if settings.list:
        for attack in attacks:
            what = f"at most {attack.limit:g} {attack.unit}"
            counts = f"{attack.full} ({attack.quick})"
            print(f"{attack.name:26} {what:28} {counts:16} {' '.join(attack.modes)}")
        return 0
    outcomes = []
    for outcome in _outcomes(settings, attacks):
        print(outcome, flush=True)
        outcomes.append(outcome)
    withstood = sum(outcome.withstood for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    print(f"{withstood} withstood, {len(outcomes) - withstood - skipped} not, {skipped} skipped")
    return int(withstood + skipped < len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
