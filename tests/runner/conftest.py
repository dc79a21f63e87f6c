"""Fixtures for the tests of ``aiosmtpd serve``."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a folder that all users can read: that of pytest is for one user."""
    with TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
