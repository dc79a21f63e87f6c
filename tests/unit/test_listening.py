"""The places to listen at, as they are written."""

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.listen.addresses import Listen, parse_listen, spell
from tests.rows import each_row


@each_row(
    ("text", "expected"),
    [
        ("", Listen()),
        ("localhost", Listen(host="localhost")),
        ("localhost:", Listen(host="localhost")),
        ("localhost:25", Listen(host="localhost", port=25)),
        ("0.0.0.0:0", Listen(host="0.0.0.0", port=0)),
        (":8025", Listen(port=8025)),
        ("8025", Listen(port=8025)),
        (" 8025 ", Listen(port=8025)),
        ("65535", Listen(port=65535)),
        ("::", Listen(host="::")),
        ("::1", Listen(host="::1")),
        ("2001:db8::25", Listen(host="2001:db8::25")),
        ("1:2:3:4:5:6:7:8", Listen(host="1:2:3:4:5:6:7:8")),
        ("fe80::1%eth0", Listen(host="fe80::1%eth0")),
        ("[::1]", Listen(host="::1")),
        ("[::1]:", Listen(host="::1")),
        ("[::1]:8025", Listen(host="::1", port=8025)),
        ("[2001:db8::1:25]", Listen(host="2001:db8::1:25")),
        # As 1.4 reads it.
        ("::1:8025", Listen(host="::1", port=8025)),
        ("::1:beef", Listen(host="::1:beef")),
        ("unix:/run/smtp.sock", Listen(path="/run/smtp.sock")),
        ("unix:///run/smtp.sock", Listen(path="/run/smtp.sock")),
        ("unix:mail.sock", Listen(path="mail.sock")),
        ("fd:3", Listen(fd=3)),
        ("smtp://:25", Listen("smtp", port=25)),
        ("smtp://mx.test:25/", Listen("smtp", host="mx.test", port=25)),
        ("smtp://", Listen("smtp")),
        ("SMTPS://[::1]:465", Listen("smtps", host="::1", port=465)),
        ("lmtp://24", Listen("lmtp", port=24)),
        ("lmtp://unix:/run/lmtp.sock", Listen("lmtp", path="/run/lmtp.sock")),
        ("smtps://fd:4", Listen("smtps", fd=4)),
    ],
)
def test_spellings(text: str, expected: Listen) -> None:
    assert parse_listen(text) == expected


@each_row(
    ("text", "message"),
    [
        ("localhost:smtp", "Invalid port number: smtp"),
        ("a:b:c", "Invalid port number: c"),
        (":65536", "Invalid port number: 65536"),
        ("99999999999999999999", "Invalid port number: 99999999999999999999"),
        ("localhost:-1", "Invalid port number: -1"),
        ("localhost:\u0665", "Invalid port number: \u0665"),
        ("[::1]:x", "Invalid port number: x"),
        ("9" * 5000, "Invalid port number: " + "9" * 5000),
        ("fd:" + "9" * 5000, "Invalid file descriptor: " + "9" * 5000),
        ("a\nb:25", r"Invalid address 'a\nb:25'"),
        ("[::1", "Invalid address '[::1': write [IPV6-ADDRESS]:PORT"),
        ("[::1]25", "Invalid address '[::1]25': write [IPV6-ADDRESS]:PORT"),
        ("[mx.test]:25", "Invalid address '[mx.test]:25': write [IPV6-ADDRESS]:PORT"),
        ("a:b:25", "Invalid address 'a:b:25': write [IPV6-ADDRESS]:PORT"),
        ("http://:80", "Unknown scheme 'http' in 'http://:80': write smtp, smtps, lmtp"),
        ("unix:", "No socket path in 'unix:': write unix:/path/to/socket"),
        ("fd:x", "Invalid file descriptor: x"),
        ("fd:", "Invalid file descriptor: "),
        (
            "/run/smtp.sock",
            "Invalid address '/run/smtp.sock': a socket path is written unix:/path/to/socket",
        ),
    ],
)
def test_a_text_that_cannot_be_a_place(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_listen(text)
    assert str(caught.value) == message


@given(st.text(alphabet="0:[]%/abunixfdsmtp.-\n\x00é"))
def test_any_text_is_a_place_or_a_value_error_of_one_line(text: str) -> None:
    try:
        place = parse_listen(text)
    except ValueError as error:
        assert type(error) is ValueError
        assert "\n" not in str(error)
    else:
        assert [place.path, place.fd, place.host or place.port].count(None) >= 2


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 25), "127.0.0.1:25"),
        (("::1", 8025), "[::1]:8025"),
        ("/run/smtp.sock", "/run/smtp.sock"),
    ],
)
def test_an_address_is_spelt_as_it_is_written(address: tuple[str, int] | str, text: str) -> None:
    assert spell(address) == text
