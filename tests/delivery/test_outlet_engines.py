"""The outlet of a next hop, against Postfix's smtp-sink and Dovecot's LMTP server."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from aiosmtpd.delivery.item import Later, Never, Results
from aiosmtpd.delivery.outlets import make_outlet
from tests.delivery.hops import item_of
from tests.net.support import free_port

pytestmark = pytest.mark.engines

DEADLINE = 60.0
"""Seconds in which a program must listen."""

PLACES = f"/usr/sbin:{os.environ.get('PATH', '')}"
SINK = shutil.which("smtp-sink", path=PLACES)
DOVECOT = shutil.which("dovecot", path=PLACES)
LMTP = Path("/usr/lib/dovecot/lmtp")
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

needs_sink = pytest.mark.skipif(SINK is None, reason="smtp-sink (Debian: postfix) is not installed")

CONTENT = b"Subject: x\r\n\r\n.\r\n..\r\n.x\r\ncaf\xc3\xa9\r\n"


async def listening(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a program listens at a port of the loopback."""
    async with asyncio.timeout(DEADLINE):
        while True:
            assert process.poll() is None, "the program has ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                # No program says when it listens.
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@contextmanager
def running(*command: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, cwd=folder, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(DEADLINE)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder in which programs that have dropped root's rights can write."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


class Sink:
    """A running smtp-sink."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        self.place = f"127.0.0.1:{port}"
        self.process = process
        self.folder = folder

    @property
    def messages(self) -> list[bytes]:
        dumped = [path.read_bytes() for path in self.folder.glob("dump.*")]
        return [one for one in dumped if b"Subject: " in one]


@asynccontextmanager
async def sink(*options: str, port: int = 0) -> AsyncIterator[Sink]:
    with open_folder() as folder:
        port = port or free_port()
        user = ("-u", "nobody") if IS_ROOT else ()
        dump = ("-d", f"{folder}/dump.")
        command = (str(SINK), *user, *dump, *options, f"127.0.0.1:{port}", "100")
        with running(*command, folder=folder) as process:
            await listening(port, process)
            yield Sink(port, process, folder)


async def deliver(place: str, scheme: str = "smtp", timeout: float = 30.0) -> Results:
    outlet = make_outlet(f"{scheme}://{place}", reply_timeout=timeout, final_timeout=timeout)
    await outlet.open()
    try:
        return await outlet.put(item_of("a@example.com", "b@example.com", content=CONTENT))
    finally:
        await outlet.close()


@needs_sink
@pytest.mark.parametrize(
    ("options", "scheme"), [((), "smtp"), (("-e",), "smtp"), (("-8",), "smtp"), (("-L",), "lmtp")]
)
async def test_smtp_sink_takes_a_message(options: tuple[str, ...], scheme: str) -> None:
    async with sink(*options) as hop:
        assert await deliver(hop.place, scheme) is None
        (message,) = hop.messages
    assert message.endswith(CONTENT.replace(b"\r\n", b"\n") + b"\n") or CONTENT in message.replace(
        b"\n", b"\r\n"
    )
    assert b"X-Rcpt-Args: <b@example.com>" in message


@needs_sink
@pytest.mark.parametrize("command", ["connect", "ehlo", "mail", "rcpt", "data", "."])
@pytest.mark.parametrize("how", ["-q", "-Q", "-r", "-f"])
async def test_smtp_sink_refuses(command: str, how: str) -> None:
    # -q hangs up, -Q says 421 and hangs up, -r is a 4yz reply and -f a 5yz one.
    more = ("-r", "helo") if command == "ehlo" and how in {"-r", "-f"} else ()
    async with sink(how, command, *more) as hop:
        try:
            results = await deliver(hop.place)
        except Later as later:
            results = dict.fromkeys(("a@example.com", "b@example.com"), later)
        assert not hop.messages or command == "."
    never = how == "-f" and command not in {"connect", "ehlo"}
    assert results is not None
    assert {*results} == {"a@example.com", "b@example.com"}
    assert {type(one) for one in results.values()} == {Never if never else Later}


@needs_sink
async def test_a_stopped_hop_is_later() -> None:
    async with sink() as hop:
        hop.process.send_signal(signal.SIGSTOP)
        with pytest.raises(Later):
            await deliver(hop.place, timeout=0.5)
        hop.process.send_signal(signal.SIGCONT)
        assert await deliver(hop.place) is None


@needs_sink
async def test_nothing_acknowledged_is_lost_when_the_hop_is_killed() -> None:
    async with sink() as hop:
        outlet = make_outlet(f"smtp://{hop.place}", reply_timeout=30.0)
        await outlet.open()
        acknowledged: list[str] = []

        async def deliver_one(number: int) -> None:
            item = item_of(id=f"id-{number}", content=f"Subject: id-{number}.\r\n\r\n".encode())
            try:
                if await outlet.put(item) is None:
                    acknowledged.append(item.id)
            except Later:
                pass
            if number == 50:
                hop.process.kill()

        await asyncio.gather(*map(deliver_one, range(200)))
        await outlet.close()
        stored = b"".join(hop.messages)
    assert 0 < len(acknowledged) < 200
    assert [one for one in acknowledged if f"Subject: {one}.".encode() not in stored] == []


CONFIGURATION = """
base_dir = {folder}/run
log_path = {folder}/log
protocols = lmtp
ssl = no
mail_location = maildir:~/Maildir
mail_uid = {user}
mail_gid = nogroup
first_valid_uid = 1
mail_plugins = quota
plugin {{
  quota = count:User quota
  quota_rule = *:storage=1G
  quota_vsizes = yes
}}
auth_username_format = %n
userdb {{
  driver = passwd-file
  args = username_format=%n {folder}/users
}}
passdb {{
  driver = passwd-file
  args = username_format=%n {folder}/users
}}
service lmtp {{
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""

USERS = """\
anna:::::{folder}/mail/anna::
full:::::{folder}/mail/full::userdb_quota_rule=*:bytes=10
"""


@pytest.mark.skipif(DOVECOT is None or not LMTP.exists(), reason="dovecot-lmtpd is not installed")
@pytest.mark.skipif(not IS_ROOT, reason="Dovecot needs root")
async def test_dovecot_says_for_each_recipient() -> None:
    with open_folder() as folder:
        (folder / "mail").mkdir()
        shutil.chown(folder / "mail", "nobody", "nogroup")
        port = free_port()
        (folder / "users").write_text(USERS.format(folder=folder))
        configuration = folder / "dovecot.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder, port=port, user="nobody"))
        with running(str(DOVECOT), "-F", "-c", str(configuration), folder=folder) as process:
            await listening(port, process)
            for url in f"lmtp://127.0.0.1:{port}", f"lmtp://{folder}/lmtp":
                outlet = make_outlet(url)
                people = ("anna@example.com", "stranger@example.com", "full@example.com")
                results = await outlet.put(item_of(*people, content=CONTENT))
                await outlet.close()
                assert results is not None
                codes = {to.partition("@")[0]: str(why)[:9] for to, why in results.items()}
                assert codes == {"stranger": "550 5.1.1", "full": "552 5.2.2"}
        stored = [path.read_bytes() for path in (folder / "mail/anna/Maildir/new").iterdir()]
    assert len(stored) == 2
    assert all(one.endswith(CONTENT.replace(b"\r\n", b"\n")) for one in stored)
