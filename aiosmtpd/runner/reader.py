"""Read the configuration in a process of its own: ``python -m aiosmtpd.runner.reader ARGUMENTS``.

The master gets the values. It never loads the code that reads TOML, judges each key and checks
certificates, which would stay in its memory. At a reload that code is the one that is installed
now, as in workers.

This module imports little: the process is to start before the master has imported the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from aiosmtpd.process.failure import Failure, one_line

if TYPE_CHECKING:
    from aiosmtpd.runner.config import Config
    from aiosmtpd.runner.load import Loaded

MODULE = "aiosmtpd.runner.reader"

CONFIGURATION = "the configuration"

PATIENCE = 60.0
"""Seconds in which the configuration must be read."""


class Source(NamedTuple):
    """The place of a configuration: a file, or the options of a server without a file."""

    file: str | None = None
    listen: tuple[str, ...] = ()
    spool: str | None = None
    deliver: tuple[str, ...] = ()

    def load(self, *, outside: bool = False) -> Loaded:
        """Read it in this process; raises WrongConfiguration."""
        if self.file is not None:
            from aiosmtpd.runner.load import load

            return load(self.file, os.environ, outside=outside)
        from aiosmtpd.runner.command_line import load_options

        return load_options(self.listen, self.spool, self.deliver, os.environ)

    @property
    def arguments(self) -> str:
        """The argument of the process that reads it."""
        return json.dumps(self._asdict())


class Reading:
    """A configuration that a process reads, while this one does something else."""

    def __init__(self, source: Source) -> None:
        try:
            # A process group of its own: Ctrl-C on a terminal is for this process.
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command(MODULE, source.arguments),
                # Its standard input is ours: the file may be /dev/stdin.
                stdout=subprocess.PIPE,
                process_group=0 if os.name == "posix" else None,
            )
        except OSError as error:
            raise _cannot_start(CONFIGURATION, error) from error

    def result(self) -> Answer:
        """Wait for the end; raises WrongConfiguration, or Failure with one line."""
        with self._process as process:
            try:
                output, _ = process.communicate(timeout=PATIENCE)
            except BaseException as error:
                process.kill()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise _too_late(CONFIGURATION) from None
                raise
        return answer_of(output, process.returncode)

    def stop(self) -> None:
        """End the process, if it has not ended: it may wait for its file."""
        self._process.kill()
        with self._process:
            pass


async def read_again(source: Source) -> Answer:
    """Read it in a process without blocking the event loop; raises as :meth:`Reading.result`."""
    return answer_of(*await output_of(MODULE, source.arguments))


def command(module: str, arguments: str) -> list[str]:
    """Return the program that runs a module."""
    flags = ["-P", *(["-I"] if sys.flags.isolated else [])]
    return [sys.executable, *flags, "-m", module, arguments]


async def output_of(
    module: str, arguments: str, what: str = CONFIGURATION
) -> tuple[bytes, int | None]:
    """Run a module, which reads *what*; return its output and its exit code. Raises Failure."""
    import asyncio

    try:
        process = await asyncio.create_subprocess_exec(
            *command(module, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            process_group=0,
        )
    except OSError as error:
        raise _cannot_start(what, error) from error
    try:
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
    except BaseException as error:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise _too_late(what) from None
        raise
    return output, process.returncode


def _cannot_start(what: str, error: OSError) -> Failure:
    return Failure(f"Cannot start the process that reads {what}: {error.strerror or error}", 1)


def no_answer(what: str, code: int | None) -> Failure:
    """Return the failure of a process that has ended without an answer."""
    why = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    step = "see the lines before, or try aiosmtpd serve --check"
    return Failure(f"the process that reads {what} has failed ({why}): {step}", 1)


def _too_late(what: str) -> Failure:
    return Failure(f"{what} could not be read in {PATIENCE:g} s", 1)


class Answer(NamedTuple):
    """A configuration with its warnings."""

    config: Config
    warnings: tuple[str, ...]


def answer_of(output: bytes, code: int | None = 0) -> Answer:
    """Return the answer in the output of the process; raises WrongConfiguration or Failure."""
    from aiosmtpd.runner.config import Config
    from aiosmtpd.runner.faults import Fault, WrongConfiguration

    try:
        found: dict[str, Any] = json.loads(output)
    except ValueError:
        raise no_answer(CONFIGURATION, code) from None
    if "faults" in found:
        raise WrongConfiguration([Fault(**fault) for fault in found["faults"]])
    if "failure" in found:
        raise Failure(found["failure"], found["code"])
    return Answer(Config.from_json(found["config"]), tuple(found["warnings"]))


def answer(source: Source) -> dict[str, Any]:
    """Read a configuration here; return the values for :func:`answer_of`."""
    import attrs

    from aiosmtpd.runner.faults import WrongConfiguration

    try:
        loaded = source.load()
        # The master needs a number that stays the same.
        config = attrs.evolve(loaded.config, workers=loaded.config.worker_count)
        if config.tls is not None:
            from aiosmtpd.runner.keys import checked

            config = attrs.evolve(config, certificates=tuple(checked(config.tls.pairs)))
    except WrongConfiguration as error:
        return {"faults": [attrs.asdict(fault) for fault in error.faults]}
    except Failure as failure:
        return {"failure": str(failure), "code": failure.code}
    except Exception as error:
        return {"failure": one_line(error), "code": 1}
    return {"config": config.to_json(), "warnings": [str(one) for one in loaded.warnings]}


def main() -> None:
    """Read the configuration that the first argument names, and print it."""
    # The master may have gone.
    with suppress(BrokenPipeError):
        print(json.dumps(answer(Source(**json.loads(sys.argv[1])))), flush=True)
    # The master waits, and Python's own end takes a fifth of the time of this process.
    os._exit(0)


if __name__ == "__main__":
    main()
