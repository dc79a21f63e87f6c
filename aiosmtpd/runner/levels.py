"""The log of the master and of the workers, on the standard error."""

from __future__ import annotations

import logging

from aiosmtpd.runner.config import Config

FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


def set_up_logging(config: Config) -> None:
    """Log from the level of the configuration on."""
    logging.basicConfig(format=FORMAT)
    set_level(config.log.level)


def set_level(level: str) -> None:
    """Set the lowest level of the log."""
    logging.getLogger().setLevel(level.upper())
