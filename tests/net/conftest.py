"""Fixtures of the tests over sockets."""

from collections.abc import Callable

import pytest

from aiosmtpd.cli import send as _send
from tests.net.sending import Sent, without_times


@pytest.fixture
def send(capsys: pytest.CaptureFixture[str]) -> Callable[..., Sent]:
    """Run the command in this process."""

    def run(*args: str) -> Sent:
        capsys.readouterr()
        code = _send.main([*args, "--ehlo", "client.test"], "aiosmtpd send")
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Sent(code, without_times(out), err)

    return run
