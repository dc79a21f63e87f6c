"""A hostile message in Chromium: nothing of it runs, navigates or reaches another host."""

import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.inbox.support import add, mail
from tests.inbox.web import serving

pytestmark = pytest.mark.browser

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
HOSTILE = """
<script>document.title = "ran"; fetch("EVIL/a"); top.document.title = "ran"</script>
<img id=own src="cid:logo"><img src="EVIL/b" onerror="document.title = 'ran'">
<link rel=stylesheet href=EVIL/c><link rel=preconnect href=EVIL><link rel=prefetch href=EVIL/d>
<meta http-equiv=refresh content="0;url=EVIL/e"><base href=EVIL/f>
<iframe src=EVIL/g></iframe><iframe srcdoc="<link rel=preconnect href=EVIL>"></iframe>
<object data=EVIL/h></object><embed src=EVIL/i><video src=EVIL/j poster=EVIL/k></video>
<svg onload="document.title = 'ran'"><image href=EVIL/l /></svg>
<svg><style><meta http-equiv=refresh content="0;url=EVIL/m"></style></svg>
<noscript><img title='</noscript><meta http-equiv=refresh content="0;url=EVIL/n">'></noscript>
<style>@import "EVIL/o"; @font-face { font-family: x; src: url(EVIL/p) }
p { font-family: x; background: url(EVIL/q) }</style><p>text</p>
<form action=EVIL/r><button id=send>x</button></form><body background=EVIL/s>
"""


class Listener:
    """Accepts connections on loopback and keeps the first bytes of each, in their order."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.heads: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            place = len(self.heads)
            self.heads.append(b"")
            threading.Thread(target=self._serve, args=(connection, place), daemon=True).start()

    def _serve(self, connection: socket.socket, place: int) -> None:
        with connection:
            connection.settimeout(10)
            try:
                self.heads[place] = connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend")
            except OSError:
                pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not there")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("users", [None, {"ann": "secret"}])
@pytest.mark.parametrize("query", ["", "?embed=1"])
def test_a_hostile_message(chromium: Any, listener: Listener, users: Any, query: str) -> None:
    html = HOSTILE.replace("EVIL", listener.url)
    text = (
        f"--r\r\nContent-Type: text/html\r\n\r\n{html}\r\n--r\r\nContent-Type: image/png\r\n"
        f"Content-ID: <logo>\r\nContent-Transfer-Encoding: base64\r\n\r\n{PIXEL}\r\n--r--"
    )
    with serving(users=users) as box:
        id = add(box.store, mail(text, more="Content-Type: multipart/related; boundary=r\r\n"))
        page = chromium.new_page()
        # Chromium remembers the login of the address.
        page.goto(box.url.replace("://", "://ann:secret@") if users else box.url)
        address = f"{box.url}view/{id}.html{query}"
        page.goto(address)
        assert page.evaluate("document.getElementById('own').naturalWidth") == 1
        page.click("#send")
        assert (page.url, page.title()) == (address, "")
        assert page.evaluate("window.origin") == "null"
        # Connections that the message made would come before this one.
        page.goto(f"{listener.url}/end")
        assert page.text_content("body") == "end"
        page.close()
    assert listener.heads[0].startswith(b"GET /end ")
