"""``--tls self-signed``: an authority that stays, certificates that verify."""

import os
import smtplib
import ssl
import sys
from pathlib import Path

import pytest

from aiosmtpd import main
from aiosmtpd.cli.banner import banner
from aiosmtpd.process import authority as _authority
from aiosmtpd.process.failure import Failure
from tests.client import PATIENCE
from tests.net.program import Program, environment, refused, refused_by_process, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

SELF_SIGNED = ("--tls", "self-signed")
MAIL = "me@example.com", "you@example.com", "Subject: x\n\nbody\n"


def verifying(cache: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=cache / "aiosmtpd" / "ca.pem")


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_clients_that_verify_reach_it(tmp_path: Path) -> None:
    env = environment(XDG_CACHE_HOME=str(tmp_path))
    places = ("-l", "127.0.0.1:0", "-l", "smtps://127.0.0.1:0")
    with Program("-n", *SELF_SIGNED, *places, env=env) as program:
        assert program.err_line() == f"CA certificate: {tmp_path}/aiosmtpd/ca.pem\n"
        program.listens()
        starttls, smtps = map(port_of, program.addresses)
        context = verifying(tmp_path)
        for name in "localhost", "127.0.0.1":
            with smtplib.SMTP("127.0.0.1", starttls, timeout=PATIENCE) as client:
                assert client.docmd("MAIL FROM:<a@b.test>")[0] == 530
                # The name that the context compares with the certificate.
                client._host = name  # type: ignore[attr-defined]
                client.starttls(context=context)
                assert client.sendmail(*MAIL) == {}
        with smtplib.SMTP_SSL("127.0.0.1", smtps, timeout=PATIENCE, context=context) as client:
            assert client.sendmail(*MAIL) == {}
        assert program.end().code == 0


def test_the_authority_stays(tmp_path: Path) -> None:
    env = environment(XDG_CACHE_HOME=str(tmp_path))
    place = ("-l", "smtps://127.0.0.1:0")
    with serving(*SELF_SIGNED, *place, env=env):
        context = verifying(tmp_path)
        (tmp_path / "aiosmtpd" / "ca.pem").unlink()
    with (
        serving(*SELF_SIGNED, *place, env=env) as program,
        smtplib.SMTP_SSL("127.0.0.1", program.port, timeout=PATIENCE, context=context) as client,
    ):
        assert client.noop()[0] == 250


def test_only_this_user_can_read_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "aiosmtpd"
    _authority.kept_authority(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == {
        "authority.pem": 0o600,
        "ca.pem": 0o600,
    }


def test_two_that_start_at_once_have_one_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _authority.kept_signer(tmp_path / "authority.pem")
    monkeypatch.setattr(Path, "exists", lambda _: False)
    second = _authority.kept_signer(tmp_path / "authority.pem")
    assert first.cert_pem.bytes() == second.cert_pem.bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["authority.pem"]


def test_names_of_a_certificate() -> None:
    names = _authority.certified_names(
        ["me.test", "", None, "mx.test", "2001:db8::1", "fe80::1%lo", "a_b"]
    )
    assert names[:3] == ["localhost", "127.0.0.1", "::1"]
    assert names[-3:] == ["me.test", "mx.test", "2001:db8::1"]


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/aiosmtpd"),
        ("linux", {}, "/home/me/.cache/aiosmtpd"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/home/me/Library/Caches/aiosmtpd"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/aiosmtpd"),
        ("win32", {}, "/home/me/AppData/Local/aiosmtpd"),
    ],
)
def test_cache_folders(
    platform: str, variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "XDG_CACHE_HOME", "LOCALAPPDATA":
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert _authority.cache_folder() == Path(folder)


@pytest.mark.parametrize(
    ("platform", "variable"),
    [("linux", "XDG_CACHE_HOME"), ("darwin", "HOME"), ("win32", "LOCALAPPDATA")],
)
def test_a_user_without_a_home_is_an_error(
    platform: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    for name in "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(Failure, match=f"no home folder: name a folder with {variable}$"):
        _authority.cache_folder()


def test_an_unusable_cache_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = environment(XDG_CACHE_HOME=str(tmp_path / "file"))
    error = refused_by_process("-n", *SELF_SIGNED, env=env)
    assert f"Cannot keep the certificate authority in {tmp_path}/file/aiosmtpd: Not a dir" in error
    assert "name another folder with XDG_CACHE_HOME" in error


def test_a_broken_authority(tmp_path: Path) -> None:
    (tmp_path / "aiosmtpd").mkdir()
    (tmp_path / "aiosmtpd" / "authority.pem").write_text("no PEM")
    error = refused_by_process("-n", *SELF_SIGNED, env=environment(XDG_CACHE_HOME=str(tmp_path)))
    assert (
        f"{tmp_path}/aiosmtpd/authority.pem is not an authority: remove it (ValueError: " in error
    )


def test_without_trustme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(
        Failure, match=r"needs trustme: pip install \"aiosmtpd\[devtls]\""
    ) as caught:
        _authority.kept_authority(tmp_path)
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["tls", "smtps"])
def test_one_certificate_is_enough(name: str) -> None:
    args = (f"--{name}cert", __file__, f"--{name}key", __file__)
    assert f"leave out --tls or --{name}cert" in refused("-n", *SELF_SIGNED, *args)


def test_banner() -> None:
    settings = main.parseargs([*SELF_SIGNED, "--no-requiretls", "-l", "smtps://:1"])[1]
    text = banner(settings, "HERE", [("127.0.0.1", 1)], Path("/ca.pem"))
    assert "TLS: from the start, STARTTLS offered," in text
    assert "\n  CA certificate: /ca.pem\n" in text
    assert "aiosmtpd send smtps://127.0.0.1:1 --cafile /ca.pem\n" in text
    text = banner(main.parseargs(SELF_SIGNED)[1], "HERE", [("127.0.0.1", 1)])
    assert "TLS: STARTTLS required," in text
    assert "aiosmtpd send 127.0.0.1:1\n" in text
