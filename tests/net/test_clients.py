"""Real mail programs, as they come from Debian, deliver to us: plain, STARTTLS, implicit TLS."""

import os
import shutil
import smtplib
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.smtp import MODERN, xclient
from tests.client import PATIENCE
from tests.conftest import Certificates
from tests.net.support import Catcher, serving

SECURITIES = ["plain", "starttls", "tls"]
BODY = "Hello from a real program.\n.\n..two dots in front\nLast line.\n"

Send = Callable[["Errand"], None]


class Errand:
    """A message to send: where to, how, and from which folder."""

    def __init__(self, port: int, security: str, certificates: Certificates, folder: Path) -> None:
        self.port = port
        self.security = security
        self.certificates = certificates
        self.folder = folder

    @property
    def authority(self) -> str:
        return str(self.certificates.ca_file)

    def run(self, program: str, *arguments: str, text: str = "") -> None:
        """Run a program, which must succeed; skip the test if it is not installed."""
        path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin")
        if path is None:
            pytest.skip(f"{program} is not installed")
        done = subprocess.run(
            [path, *arguments],
            input=text,
            text=True,
            capture_output=True,
            timeout=60,
            env={**os.environ, "HOME": str(self.folder), "MAILRC": os.devnull},
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def by_smtplib(errand: Errand) -> None:
    context = errand.certificates.client_context()
    client: smtplib.SMTP
    if errand.security == "tls":
        client = smtplib.SMTP_SSL("localhost", errand.port, timeout=PATIENCE, context=context)
    else:
        client = smtplib.SMTP("localhost", errand.port, timeout=PATIENCE)
    with client:
        if errand.security == "starttls":
            client.starttls(context=context)
        client.sendmail("a@b.test", ["c@d.test"], "Subject: from smtplib\n\n" + BODY)


def by_curl(errand: Errand) -> None:
    message = errand.folder / "message"
    message.write_text("Subject: from curl\r\n\r\n" + BODY.replace("\n", "\r\n"), newline="")
    scheme = "smtps" if errand.security == "tls" else "smtp"
    errand.run(
        "curl",
        "--silent",
        "--show-error",
        f"{scheme}://localhost:{errand.port}/client.test",
        "--mail-from",
        "a@b.test",
        "--mail-rcpt",
        "c@d.test",
        "--upload-file",
        str(message),
        *(["--cacert", errand.authority] if errand.security != "plain" else []),
        *(["--ssl-reqd"] if errand.security == "starttls" else []),
    )


def by_swaks(errand: Errand) -> None:
    options = {
        "plain": [],
        "starttls": ["--tls", "--tls-verify", "--tls-ca-path", errand.authority],
        "tls": ["--tls-on-connect", "--tls-verify", "--tls-ca-path", errand.authority],
    }
    errand.run(
        "swaks",
        *("--server", "localhost", "--port", str(errand.port), "--helo", "client.test"),
        *("--from", "a@b.test", "--to", "c@d.test"),
        *("--header", "Subject: from swaks", "--body", BODY),
        *options[errand.security],
    )


def by_msmtp(errand: Errand) -> None:
    options = {
        "plain": ["--tls=off"],
        "starttls": ["--tls=on", "--tls-starttls=on", f"--tls-trust-file={errand.authority}"],
        "tls": ["--tls=on", "--tls-starttls=off", f"--tls-trust-file={errand.authority}"],
    }
    errand.run(
        "msmtp",
        *("--host=localhost", f"--port={errand.port}", "--auth=off", "--from=a@b.test"),
        *options[errand.security],
        "c@d.test",
        text="Subject: from msmtp\n\n" + BODY,
    )


def by_s_nail(errand: Errand) -> None:
    scheme = "smtps" if errand.security == "tls" else "smtp"
    settings = [
        "v15-compat",
        f"mta={scheme}://localhost:{errand.port}",
        "smtp-auth=none",
        "smtp-config=-all,ehlo",
        "from=a@b.test",
        "hostname=client.test",
        "tls-verify=strict",
        f"tls-ca-file={errand.authority}",
        *(["smtp-use-starttls"] if errand.security == "starttls" else []),
    ]
    options = [word for setting in settings for word in ("-S", setting)]
    errand.run("s-nail", "-:/", *options, "-s", "from s-nail", "c@d.test", text=BODY)


def by_gnutls_cli(errand: Errand) -> None:
    """Type a session without waiting for replies, which the server must answer to its end."""
    if errand.security == "plain":
        pytest.skip("gnutls-cli speaks only TLS")
    stuffed = ("\n" + BODY).replace("\n.", "\n..")
    session = (
        "EHLO client.test\nMAIL FROM:<a@b.test>\nRCPT TO:<c@d.test>\nDATA\n"
        f"Subject: from gnutls-cli\n{stuffed}.\nQUIT\n"
    )
    errand.run(
        "gnutls-cli",
        f"--x509cafile={errand.authority}",
        f"--port={errand.port}",
        *(["--starttls-proto=smtp"] if errand.security == "starttls" else []),
        "localhost",
        text=session.replace("\n", "\r\n"),
    )


NODEMAILER = """
const [port, security, ca] = process.argv.slice(1);
const transport = require("nodemailer").createTransport({
  host: "localhost", port: Number(port), name: "client.test",
  secure: security === "tls", requireTLS: security === "starttls", ignoreTLS: security === "plain",
  tls: { ca: require("fs").readFileSync(ca) },
});
const raw = "Subject: from nodemailer\\r\\n\\r\\n" + require("fs").readFileSync(0, "utf8");
transport.sendMail({ envelope: { from: "a@b.test", to: ["c@d.test"] }, raw })
  .then(() => transport.close());
"""


def by_nodemailer(errand: Errand) -> None:
    node = shutil.which("node")
    if (
        node is None
        or subprocess.run(
            [node, "-e", "require('nodemailer')"], stderr=subprocess.DEVNULL
        ).returncode
    ):
        pytest.skip("nodemailer is not installed, or not in NODE_PATH")
    errand.run(
        node, "-e", NODEMAILER, str(errand.port), errand.security, errand.authority, text=BODY
    )


GO = """
package main

import (
    "crypto/tls"
    "crypto/x509"
    "io"
    "net/smtp"
    "os"
)

func must(err error) {
    if err != nil {
        panic(err)
    }
}

func main() {
    address, security := "localhost:"+os.Args[1], os.Args[2]
    authority, err := os.ReadFile(os.Args[3])
    must(err)
    body, err := io.ReadAll(os.Stdin)
    must(err)
    config := &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool()}
    config.RootCAs.AppendCertsFromPEM(authority)
    var client *smtp.Client
    if security == "tls" {
        wire, err := tls.Dial("tcp", address, config)
        must(err)
        client, err = smtp.NewClient(wire, "localhost")
        must(err)
    } else {
        client, err = smtp.Dial(address)
        must(err)
    }
    must(client.Hello("client.test"))
    if security == "starttls" {
        must(client.StartTLS(config))
    }
    must(client.Mail("a@b.test"))
    must(client.Rcpt("c@d.test"))
    data, err := client.Data()
    must(err)
    _, err = data.Write(append([]byte("Subject: from go\\r\\n\\r\\n"), body...))
    must(err)
    must(data.Close())
    must(client.Quit())
}
"""


def by_go(errand: Errand) -> None:
    """Send by Go's net/smtp; the program is built once in a run."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed")
    folder = errand.certificates.folder / "go"
    if not folder.exists():
        folder.mkdir()
        (folder / "client.go").write_text(GO)
        environment = {**os.environ, "GOCACHE": str(folder / "cache"), "GO111MODULE": "off"}
        command = [go, "build", "-o", "client", "client.go"]
        subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120)
    client = str(folder / "client")
    errand.run(client, str(errand.port), errand.security, errand.authority, text=BODY)


CLIENTS: list[Send] = [
    *(by_smtplib, by_curl, by_swaks, by_msmtp, by_s_nail, by_gnutls_cli, by_nodemailer, by_go)
]


@pytest.mark.parametrize("preset", ["classic", "all"])
@pytest.mark.parametrize("security", SECURITIES)
@pytest.mark.parametrize("send", CLIENTS, ids=lambda send: send.__name__)
def test_a_real_client(
    send: Send, security: str, preset: str, certificates: Certificates, tmp_path: Path
) -> None:
    handler = Catcher()
    context = certificates.server_context()
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "starttls": {"tls_context": context, "require_starttls": True},
        "tls": {"ssl_context": context},
    }
    with serving(handler, extensions=preset, **settings[security]) as controller:
        send(Errand(controller.port, security, certificates, tmp_path))
        session, envelope = handler.caught.get(timeout=PATIENCE)
    assert envelope.mail_from == "a@b.test"
    assert envelope.rcpt_tos == ["c@d.test"]
    header, _, body = bytes(envelope.original_content or b"").partition(b"\r\n\r\n")
    name = send.__name__.removeprefix("by_").replace("_", "-")
    assert f"Subject: from {name}".encode() in header.split(b"\r\n")
    assert body.strip() == BODY.replace("\n", "\r\n").strip().encode()
    assert (session.ssl is not None) is (security != "plain")
    if session.ssl is not None:
        assert isinstance(session.ssl["ssl_object"], ssl.SSLObject)
    assert handler.caught.empty()


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["-s", "20", "-m", "200", "-l", "4000"], 200),
        (["-d", "-s", "3", "-m", "60", "-l", "100"], 60),
        (["-s", "2", "-m", "4", "-l", "2000000"], 4),
        (["-s", "5", "-m", "10", "-r", "50", "-l", "500"], 10),
    ],
    ids=["many at once", "one connection each", "large", "fifty recipients"],
)
def test_smtp_source(
    options: list[str], messages: int, certificates: Certificates, tmp_path: Path
) -> None:
    handler = Catcher()
    with serving(handler, line_length_limit=0) as controller:
        errand = Errand(controller.port, "plain", certificates, tmp_path)
        errand.run(
            "smtp-source", *options, "-f", "a@b.test", "-t", "c@d.test", f"127.0.0.1:{errand.port}"
        )
        envelopes = [handler.envelope() for _ in range(messages)]
    assert handler.caught.empty()
    recipients = 50 if "-r" in options else 1
    for envelope in envelopes:
        assert envelope.mail_from == "a@b.test"
        assert len(envelope.rcpt_tos) == recipients
        assert len(envelope.original_content or b"") >= int(options[-1])


def test_swaks_speaks_for_another_client(certificates: Certificates, tmp_path: Path) -> None:
    """XCLIENT as Postfix documents it, and a pipelined transaction (RFC 2920)."""
    handler = Catcher()
    trusting = [*MODERN, xclient(["127.0.0.1", "::1"])]
    with serving(handler, extensions=trusting) as controller:
        errand = Errand(controller.port, "plain", certificates, tmp_path)
        errand.run(
            "swaks",
            *("--server", "127.0.0.1", "--port", str(errand.port), "--helo", "client.test"),
            *("--from", "a@b.test", "--to", "c@d.test,e@f.test", "--body", BODY, "--pipeline"),
            *("--xclient-addr", "203.0.113.5", "--xclient-name", "client.test"),
        )
        session, envelope = handler.caught.get(timeout=PATIENCE)
    assert envelope.rcpt_tos == ["c@d.test", "e@f.test"]
    assert session.client_address[0] == "203.0.113.5"
    assert (session.xclient or {})["NAME"] == "client.test"


def test_curl_sends_addresses_in_unicode(certificates: Certificates, tmp_path: Path) -> None:
    """SMTPUTF8 (RFC 6531), which curl asks for if an address needs it."""
    handler = Catcher()
    message = tmp_path / "message"
    message.write_bytes(b"Subject: from curl\r\n\r\nhello\r\n")
    with serving(handler, extensions="modern") as controller:
        Errand(controller.port, "plain", certificates, tmp_path).run(
            "curl",
            "--silent",
            "--show-error",
            f"smtp://localhost:{controller.port}/client.test",
            *("--mail-from", "é@b.test", "--mail-rcpt", "ü@d.test", "--upload-file", str(message)),
        )
        envelope = handler.envelope()
    assert (envelope.mail_from, envelope.rcpt_tos) == ("é@b.test", ["ü@d.test"])
    assert envelope.mail_params["SMTPUTF8"] is True
