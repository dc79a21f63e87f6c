"""The questions that the desk may ask the master."""

from __future__ import annotations

from collections.abc import Mapping

PATIENCE: Mapping[str, float] = {
    "alive": 2.0,
    "ready": 4.0,
    "numbers": 4.0,
    "status": 4.0,
    "sessions": 10.0,
    "log-level": 10.0,
    "reload": 600.0,
    "drain": 4.0,
}
"""All questions, each with the seconds in which there must be an answer."""

UNANSWERED = 32
"""Questions of the desk that may wait for an answer at the same time."""

LONGEST = 65536
"""Bytes of a message from the desk, at most."""
