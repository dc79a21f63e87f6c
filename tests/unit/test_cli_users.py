"""Users of the command line: the clients that may send mail."""

from pathlib import Path

import pytest

from aiosmtpd import main
from aiosmtpd.process.users import Users
from aiosmtpd.smtp import LoginPassword


def users(*args: str) -> Users:
    found = main.parseargs(args)[1].users
    assert isinstance(found, Users)
    return found


def lets_in(them: Users, user: bytes, password: bytes) -> bool:
    return them(None, None, None, "PLAIN", LoginPassword(user, password)).success


def usage_error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main.main(args)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_no_users_by_default() -> None:
    assert main.parseargs([])[1].users is None
    assert main.parseargs([])[1].max_auth_failures == 3


def test_users_have_passwords() -> None:
    them = users("--auth", "joe:se:cret", "--auth", "jörg:ä")
    assert lets_in(them, b"joe", b"se:cret")
    assert lets_in(them, "jörg".encode(), "ä".encode())
    assert not lets_in(them, b"joe", "ä".encode())
    assert not lets_in(them, b"joe", b"")
    assert not lets_in(them, b"nobody", b"")


def test_any_password() -> None:
    assert lets_in(users("--auth-any"), b"x", b"")


def test_other_credentials_are_refused() -> None:
    assert not users("--auth-any")(None, None, None, "OTHER", "token").success


def test_a_users_file_of_another_editor(tmp_path: Path) -> None:
    file = tmp_path / "users"
    # A byte order mark, CRLF, and characters that are line ends for some programs.
    file.write_bytes("\ufeffjoe:secret\r\njim:a\x0bb\u2028c\r\n".encode())
    them = users("--auth-file", str(file))
    assert lets_in(them, b"joe", b"secret")
    assert lets_in(them, b"jim", "a\x0bb\u2028c".encode())


def test_users_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("# comment\n\njoe:secret\njim:other\n")
    them = users("--auth-file", str(file), "--auth", "ann:third")
    assert lets_in(them, b"joe", b"secret")
    assert lets_in(them, b"jim", b"other")
    assert lets_in(them, b"ann", b"third")
    assert not lets_in(them, b"# comment", b"")


@pytest.mark.parametrize("text", ["joe", ":secret", "joe:", "", "joe:sec\0ret"])
def test_errors_do_not_repeat_passwords(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = usage_error(capsys, f"--auth={text}")
    assert error.endswith(
        "error: argument --auth: invalid user and password (write USER:PASSWORD)\n"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"joe:secret\nsecret\n", ", line 2: invalid user and password (write USER:PASSWORD)\n"),
        (b"# nobody\n", " is empty: write USER:PASSWORD in a line\n"),
        (b"joe:\xe4\n", ": it is not text in UTF-8\n"),
    ],
)
def test_invalid_users_files(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "users"
    file.write_bytes(content)
    assert usage_error(capsys, "--auth-file", str(file)).endswith(f"Users file {file}{said}")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--auth-file", "/no/such/file"], "Users file /no/such/file: no such file or directory"),
        (["--auth-any", "--auth", "a:b"], "not allowed with argument --auth-any"),
        (["--auth-any", "--auth-file", "x"], "not allowed with argument --auth-file"),
        (["--require-auth"], "--require-auth needs users: add --auth"),
        (["--max-auth-failures", "0"], "invalid number: '0' (write 1 or more)"),
    ],
)
def test_options_that_do_not_go_together(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in usage_error(capsys, *args)


class OwnMechanism:
    """A handler that knows its users."""

    async def auth_TOKEN(self, server: object, args: list[str]) -> bool:
        return False


def test_a_handler_may_know_its_users() -> None:
    args = ["--require-auth", "-c", f"{__name__}.OwnMechanism"]
    assert main.parseargs(args)[1].users is None
