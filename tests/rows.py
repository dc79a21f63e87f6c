"""A table of rows for one test: a test of its own for each row takes longer than most rows."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

Test = Callable[..., None]


def each_row(names: str | tuple[str, ...], rows: Iterable[Any]) -> Callable[[Test], Test]:
    """Run a test with each row of a table, as one test; all rows that fail are in its report.

    It is for rows that share the fixtures of the test and leave nothing in them. With one name, a
    row is a value.
    """
    found = [(row,) if isinstance(names, str) else row for row in rows]
    words = (names,) if isinstance(names, str) else names

    def decorate(test: Test) -> Test:
        def run(*args: Any, **fixtures: Any) -> None:
            assert found
            failed = []
            for row in found:
                try:
                    test(*args, **dict(zip(words, row, strict=True)), **fixtures)
                except Exception as error:
                    error.add_note(f"row: {row!r}")
                    failed.append(error)
            if len(failed) == 1:
                raise failed[0]
            if failed:
                raise ExceptionGroup(f"{len(failed)} of {len(found)} rows fail", failed)

        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        signature = inspect.signature(test)
        others = [one for one in signature.parameters.values() if one.name not in words]
        run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return run

    return decorate
