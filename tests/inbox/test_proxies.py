"""The inbox with nginx or caddy before it, the real ones, configured as the documentation says."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.request import Request, urlopen

import pytest

from tests.client import PATIENCE
from tests.inbox.command import Inbox, running
from tests.net.support import free_port

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "inbox.rst"
PLACES = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"

NGINX = """
daemon off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
{shown}
    }}
}}
"""
CADDY = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
{shown}
}}
"""


def shown(start: str, web: str) -> str:
    """Return the configuration in the documentation that begins with *start*."""
    text = PAGE.read_text(encoding="utf-8")
    begin = text.index(f"   {start}")
    block = re.split(r"\n(?=\S)", text[begin:])[0]
    return block.replace("127.0.0.1:8025", web)


def configured_nginx(folder: Path, port: int, web: str) -> list[str]:
    (folder / "conf").write_text(
        NGINX.format(folder=folder, port=port, shown=shown("location /mail/ {", web))
    )
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "conf")]


def configured_caddy(folder: Path, port: int, web: str) -> list[str]:
    (folder / "conf").write_text(CADDY.format(port=port, shown=shown("handle /mail/* {", web)))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "conf")]


@contextmanager
def proxied(
    configured: Callable[[Path, int, str], list[str]], folder: Path, inbox: Inbox
) -> Iterator[str]:
    """Run a proxy before an inbox; yield its host and port."""
    port = free_port()
    name, *words = configured(folder, port, f"{inbox.place[0]}:{inbox.place[1]}")
    program = shutil.which(name, path=PLACES)
    assert program is not None
    log = folder / "log"
    with log.open("wb") as file:
        variables = {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        process = subprocess.Popen([program, *words], stderr=file, env=variables)
    try:
        deadline = monotonic() + PATIENCE
        while process.poll() is None and monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            sleep(0.01)
        assert process.poll() is None, log.read_text()
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(params=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Inbox]]:
    """The place of a proxy, and its inbox."""
    if shutil.which(request.param, path=PLACES) is None:
        pytest.skip(f"{request.param} is not installed")
    if not PAGE.exists():
        pytest.skip("the documentation is not here")
    configured = {"nginx": configured_nginx, "caddy": configured_caddy}[request.param]
    with (
        running("--web-root", "/mail/", "--trusted-proxy", "127.0.0.1") as inbox,
        proxied(configured, tmp_path, inbox) as place,
    ):
        yield place, inbox


def test_page_api_and_events_behind_a_proxy(proxy: tuple[str, Inbox]) -> None:
    place, inbox = proxy
    port = int(place.rpartition(":")[2])
    with urlopen(f"http://{place}/mail/", timeout=PATIENCE) as answer:
        assert b'<base href="/mail/"' in answer.read()
    with urlopen(f"http://{place}/mail/api/events", timeout=PATIENCE) as stream:
        assert stream.readline() == b"retry: 2000\n"
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(
                f"GET /mail/api/events HTTP/1.1\r\nHost: {place}\r\nOrigin: http://{place}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            file = client.makefile("rb")
            assert b" 101 " in file.readline()
            inbox.send()
            lines = [stream.readline() for _ in range(4)]
            assert b"event: new\n" in lines
            frames = b""
            while b'{"Type":"new"' not in frames:
                frames += file.read1(4096)
    request = Request(f"http://{place}/mail/api/v1/messages", headers={"Origin": f"http://{place}"})
    with urlopen(request, timeout=PATIENCE) as answer:
        [row] = json.load(answer)["messages"]
    with urlopen(f"http://{place}/mail/api/message/{row['ID']}/copy?as=wait") as answer:
        assert answer.read().startswith(f"http://{place}/mail/api/wait?".encode())
