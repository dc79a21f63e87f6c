"""``aiosmtpd inbox`` as a process: its start, its end, its messages, its ports."""

import os
import re
import signal
import smtplib
import socket
import ssl
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.inbox.command import ANYWHERE, Inbox, running
from tests.net.program import Program, environment, refused
from tests.net.support import free_port

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def asked(place: tuple[str, int], path: str, more: bytes = b"") -> socket.socket:
    """Send a GET; return the connection with its answer still to be read."""
    sock = socket.create_connection(place, timeout=PATIENCE)
    host = f"{place[0]}:{place[1]}".encode()
    sock.sendall(b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (path.encode(), host, more))
    return sock


def beginning(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        data += (piece := sock.recv(4096))
        assert piece, data
    return data


def rest(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(4096):
        data += piece
    return data


def test_a_message_is_caught_and_listed() -> None:
    with running() as inbox:
        inbox.send()
        assert inbox.subjects() == ["Hi"]
        with urlopen(inbox.url, timeout=PATIENCE) as page:
            assert page.headers["content-type"].startswith("text/html")
        settings = inbox.get("api/settings")
        assert (settings["host"], settings["port"]) == ("127.0.0.1", inbox.port)
        assert (settings["tls"], settings["auth"], settings["size"]) == ("", "", 50 << 20)
        assert inbox.banner == [
            f"127.0.0.1:{inbox.port}",
            f"point your program there: host 127.0.0.1, port {inbox.port}, no TLS, no AUTH",
            f"send a test: aiosmtpd send 127.0.0.1:{inbox.port}",
            "messages are kept until the end (--store keeps them), at most 5,000 messages, 1G",
            "stop it with Ctrl-C",
        ]
        assert inbox.program.end(signal.SIGTERM) == (0, "", "")


def test_an_address_in_utf_8_is_caught() -> None:
    with running() as inbox:
        text = "From: ann@example.org\r\nTo: gr\u00fc\u00dfe@example.org\r\nSubject: \u2713\r\n\r\n"
        with smtplib.SMTP("127.0.0.1", inbox.port, timeout=PATIENCE) as client:
            client.ehlo()
            options = ["SMTPUTF8", "BODY=8BITMIME"]
            to = ["gr\u00fc\u00dfe@example.org"]
            client.sendmail("ann@example.org", to, text.encode(), options)
        [row] = inbox.get("api/v1/messages")["messages"]
        assert (row["Subject"], row["To"][0]["Address"]) == ("\u2713", to[0])
        assert (row["Cc"], row["Bcc"]) == ([], [])


def test_other_recipients_are_refused() -> None:
    with running("--allow-recipients", "@shop[.]test$") as inbox:
        with smtplib.SMTP("127.0.0.1", inbox.port, timeout=PATIENCE) as client:
            to = ["ann@SHOP.test", "bob@shop.test.example"]
            refusals = client.sendmail("me@example.org", to, "Subject: Hi\r\n\r\n")
        assert {name: reply[0] for name, reply in refusals.items()} == {to[1]: 550}
        [row] = inbox.get("api/v1/messages")["messages"]
        assert [one["Address"] for one in row["Bcc"]] == to[:1]
        [attempt] = inbox.get("api/rejected")["attempts"]
        assert (attempt["stage"], attempt["to"]) == ("RCPT", to[1])
        assert attempt["reply"] == "550 5.1.1 --allow-recipients does not allow this address"


def test_ctrl_c_with_open_pages_streams_and_waits(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with running("--ready-file", str(ready)) as inbox, Client(inbox.port) as client:
        assert ready.read_text() == f"127.0.0.1:{inbox.port}\n{inbox.url}\n"
        client.hello()
        client.begin()
        client.send(b"DATA\r\nSubject: half of a mess")
        page = asked(inbox.place, "/")
        beginning(page, b"</html>")
        wait = asked(inbox.place, "/api/wait?timeout=60")
        stream = asked(inbox.place, "/api/events")
        beginning(stream, b"retry:")
        web_socket = asked(inbox.place, "/api/events", UPGRADE)
        beginning(web_socket, b"\r\n\r\n")
        upload = asked(inbox.place, "/api/v1/send", b"")
        slow = socket.create_connection(inbox.place, timeout=PATIENCE)
        slow.sendall(b"POST /api/v1/send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        began = time.monotonic()
        ended = inbox.program.end(signal.SIGINT)
        assert time.monotonic() - began < 5
        assert ended == (0, "", "")
        assert b" 503 " in beginning(wait, b"stopping")
        assert rest(stream).endswith(b"0\r\n\r\n")
        for sock in page, wait, stream, web_socket, upload, slow:
            sock.close()
    assert not ready.exists()


@pytest.mark.fleet
def test_a_kill_loses_no_acknowledged_message(tmp_path: Path) -> None:
    store = str(tmp_path / "box.db")
    with running("--store", store) as inbox:
        for number in range(20):
            inbox.send(f"Subject: {number}\n\n")
        inbox.program.send(signal.SIGKILL)
        inbox.program.ended()
    with running("--store", store) as inbox:
        assert inbox.subjects() == [str(number) for number in reversed(range(20))]
        assert any(line.startswith(f"messages are kept in {store}") for line in inbox.banner)


@pytest.mark.skipif(
    os.name == "posix" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
    reason="these tests run under nohup",
)
def test_a_closed_terminal_removes_the_messages(tmp_path: Path) -> None:
    terminal, end = os.openpty()
    variables = environment(TMPDIR=str(tmp_path))
    with (
        open(end, "rb", 0) as keyboard,
        Program("inbox", *ANYWHERE, env=variables, stdin=keyboard) as program,
    ):
        Inbox(program).send()
        assert list(tmp_path.iterdir())
        os.close(terminal)
        assert program.end(signal.SIGHUP).code == 0
    assert not list(tmp_path.iterdir())


def test_ports_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        for option, other in (("-l", "--web"), ("--web", "-l")):
            line = refused("inbox", option, f"127.0.0.1:{port}", other, "127.0.0.1:0")
            assert line == (
                f"aiosmtpd inbox: error: Cannot listen on 127.0.0.1:{port}: address already "
                f"in use; stop the program that listens there or choose another place with {option}"
                "\n"
            )


def test_a_store_in_use(tmp_path: Path) -> None:
    store = str(tmp_path / "box.db")
    with running("--store", store):
        line = refused("inbox", *ANYWHERE, "--store", store)
    assert line == f"aiosmtpd inbox: error: {store} is in use by another process: end it first\n"
    line = refused("inbox", *ANYWHERE, "--store", str(tmp_path))
    assert line.startswith("aiosmtpd inbox: error: ")


def test_check_asks_a_running_inbox() -> None:
    with running("--web-root", "/mail/") as inbox:
        web = f"{inbox.place[0]}:{inbox.place[1]}"
        with Program("inbox", "--check", "--web", web, "--web-root", "mail") as program:
            assert program.ended() == (0, "", "")
        variables = environment(MP_UI_BIND_ADDR=web, MP_WEBROOT="mail")
        with Program("inbox", "--check", env=variables) as program:
            assert program.ended() == (0, "", "")
        line = refused("inbox", "--check", "--web", web, code=1)
        assert line == f"aiosmtpd inbox: no inbox at {web}: it answers 404 Not Found\n"
    line = refused("inbox", "--check", "--web", web, "--wait", "0.2", code=1)
    assert line == f"aiosmtpd inbox: no inbox at {web}: connection refused\n"


def test_check_of_a_name_that_cannot_be() -> None:
    name = f"{'a' * 70}.test"
    line = refused("inbox", "--check", "--web", name, code=1)
    assert line == f"aiosmtpd inbox: no inbox at {name}:8025: this is not a host name\n"


def test_check_waits_for_the_start() -> None:
    web = f"127.0.0.1:{free_port()}"
    with (
        Program("inbox", "--check", "--web", web, "--wait", "20") as check,
        Program("inbox", "-l", "127.0.0.1:0", "--web", web, "-q"),
    ):
        assert check.ended() == (0, "", "")


def test_https_and_starttls_with_a_password(certificates: Certificates) -> None:
    files = str(certificates.cert_file), str(certificates.key_file)
    options = ("--web-tls", *files, "--tlscert", files[0], "--tlskey", files[1], "--require-tls")
    access = ("--web-auth", "me:secret", "--auth-any", "--require-auth")
    with running(*options, *access) as inbox:
        assert inbox.url.startswith("https://127.0.0.1:")
        assert inbox.banner[1].endswith(", STARTTLS required, AUTH required")
        context = certificates.client_context()
        with smtplib.SMTP("127.0.0.1", inbox.port, timeout=PATIENCE) as client:
            client.starttls(context=context)
            client.login("shop", "any")
            client.sendmail("ann@example.org", ["bob@example.org"], "Subject: Hi\n\n")
        web = inbox.url.partition("://")[2].strip("/")
        with Program("inbox", "--check", "--web", web, "--web-tls", *files) as program:
            assert program.ended() == (0, "", "")
        assert status(inbox.url, context) == 401
        assert status(inbox.url, context, "Basic bWU6c2VjcmV0") == 200
        assert inbox.program.end() == (0, "", "")


def test_tls_from_the_start_by_variables(certificates: Certificates) -> None:
    variables = {
        "MP_SMTP_BIND_ADDR": "127.0.0.1:0",
        "MP_SMTP_REQUIRE_TLS": "true",
        "MP_SMTP_TLS_CERT": str(certificates.cert_file),
        "MP_SMTP_TLS_KEY": str(certificates.key_file),
        "MP_SMTP_AUTH": "shop:secret",
    }
    with Program("inbox", "--web", ":0", env=environment(**variables)) as program:
        inbox = Inbox(program)
        assert inbox.banner[1].endswith(", TLS from the start, AUTH required")
        assert inbox.get("api/settings")["tls"] == "implicit"
        context = certificates.client_context()
        port, mail = inbox.port, ("ann@example.org", ["bob@example.org"], "Subject: Hi\r\n\r\n")
        with smtplib.SMTP_SSL("127.0.0.1", port, timeout=PATIENCE, context=context) as client:
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail(*mail)
            client.login("shop", "secret")
            client.sendmail(*mail)
        assert inbox.subjects() == ["Hi"]


def status(url: str, context: ssl.SSLContext, authorization: str = "") -> int:
    place = url.partition("://")[2].strip("/").rpartition(":")
    more = f"Authorization: {authorization}\r\n" if authorization else ""
    with (
        socket.create_connection((place[0], int(place[2])), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=place[0]) as sock,
    ):
        sock.sendall(f"GET /api/v1/info HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
        answer = beginning(sock, b"\r\n")
    return int(answer.split(b" ")[1])


@pytest.mark.parametrize("place", ["unix:{}/socket", "lmtp://127.0.0.1:0"])
def test_the_hint_is_for_the_first_place(place: str, tmp_path: Path) -> None:
    where = place.format(tmp_path)
    with Program("inbox", "-l", where, "--web", "127.0.0.1:0") as program:
        program.until("accessible via")
        hint = program.until("send a test: ")
    assert f"aiosmtpd send {where[:-1]}" in hint


def test_tags_inboxes_faults_and_a_maildir(tmp_path: Path) -> None:
    folder = tmp_path / "mirror"
    options = ("--tag", "Greeting=subject:hi", "--inbox", "Shop=to:@shop.test")
    with running(*options, "--fault", "rcpt no@*: 550 5.1.1 no", "--maildir", str(folder)) as inbox:
        inbox.send()
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            inbox.send(to="no@example.org")
        assert inbox.subjects("tag:Greeting") == ["Hi"]
        assert inbox.get("api/settings")["inboxes"] == [{"name": "Shop", "query": "to:@shop.test"}]
        [fault] = inbox.get("api/faults")["faults"]
        assert (fault["met"], fault["struck"]) == (1, 1)
        [attempt] = inbox.get("api/rejected")["attempts"]
        assert (attempt["fault"], attempt["reply"]) == (fault["rule"], "550 5.1.1 no")
        assert inbox.program.end() == (0, "", "")
    [file] = (folder / "new").iterdir()
    assert b"Subject: Hi" in file.read_bytes()


def test_variables_of_mailpit_have_a_line_each() -> None:
    variables = {"MP_MAX_MESSAGES": "100", "MP_UI_AUTH": "me:secret", "MP_SMTP_BIND_ADDR": ":9"}
    with Program("inbox", *ANYWHERE, env=environment(**variables)) as program:
        lines = [program.err_line() for _ in variables]
        assert lines == [
            "MP_SMTP_BIND_ADDR: ignored, because of -l\n",
            "MP_UI_AUTH: taken as --web-auth\n",
            "MP_MAX_MESSAGES: taken as --keep=100\n",
        ]
        program.until("at most 100")


def test_nothing_else_pays_for_the_inbox() -> None:
    code = (
        "import sys, aiosmtpd.main, aiosmtpd.testing\n"
        "try: aiosmtpd.main.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if re.match(PATTERN, name)])"
    ).replace("import sys,", "import re, sys,")
    pattern = r"aiosmtpd\.inbox|starlette|uvicorn|wsproto|click|anyio"
    code = code.replace("PATTERN", repr(pattern))
    for words in ["--help"], ["inbox", "--help"], ["wait", "--help"], ["-l", "nowhere:x"]:
        with Program(*words, python=["-c", code]) as program:
            found = re.findall(r"^\[.*\]$", program.ended().out, re.MULTILINE)
        assert found[-1] == "[]"
