"""The names of ``aiosmtpd.delivery``."""

import subprocess
import sys

import pytest

import aiosmtpd.delivery
from tests.rows import each_row


@each_row("name", vars(aiosmtpd.delivery)["__all__"])
def test_names_are_what_they_say(name: str) -> None:
    for _ in range(2):
        found = getattr(aiosmtpd.delivery, name)
        assert callable(found)
        assert found.__name__ == name
    assert name in dir(aiosmtpd.delivery)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Delivry'"):
        _ = aiosmtpd.delivery.Delivry  # type: ignore[attr-defined]


def test_importing_it_imports_no_client() -> None:
    code = (
        "import sys, aiosmtpd.handlers, aiosmtpd.delivery as d; "
        "assert not {'sqlite3', 'nats', 'httpx2'} & {*sys.modules}; "
        "d.Delivery, d.Route('smtp://mx.test'), d.Route('maildir:/tmp/x'); "
        "assert not {'nats', 'httpx2'} & {*sys.modules}"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
