"""The options of ``aiosmtpd inbox``, and the variables of Mailpit that stand for them."""

import os
import re
import webbrowser
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd import main
from aiosmtpd.cli import inbox, inbox_program, mailpit
from aiosmtpd.process.failure import Failure

ANYWHERE = ("-l", "127.0.0.1:0", "--web", "127.0.0.1:0")


@pytest.fixture(autouse=True)
def _usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "PROGRAM", "aiosmtpd")
    for name in os.environ:
        if name.startswith("MP_"):
            monkeypatch.delenv(name)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Return the error of a command line that is wrong."""
    with pytest.raises(SystemExit) as caught:
        main.main(["inbox", *ANYWHERE, *args])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.partition("aiosmtpd inbox: error: ")[2].strip() if "error: " in err else err


def parsed(*args: str, **variables: str) -> tuple[Namespace, list[str]]:
    return inbox.parse(inbox.make_parser("aiosmtpd inbox"), args, variables)


def value(name: str, *args: str, **variables: str) -> Any:
    return getattr(parsed(*args, **variables)[0], name)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--wait", "3"], "--wait needs --check"),
        (["--web-public", "--web-auth", "a:b"], "--web-public and --web-auth exclude each other"),
        (["--web-auth", "a"], "argument --web-auth: invalid user and password"),
        (["--web-auth", "'a:b'"], "argument --web-auth: quotation marks would be a part of the"),
        (["--web-auth-file", "nowhere"], "Users file nowhere: no such file or directory"),
        (["--web-auth", "me:$2y$05$x"], "--web-auth: the password of me is a hash, and the inbox"),
        (["--auth", "me:{SHA}x"], "--auth: the password of me is a hash, and the inbox"),
        (["--store", "no/where/x"], "Cannot use no/where/x: the folder "),
        (["--web-root", "/a b/"], "argument --web-root: invalid path: '/a b/' (write /mail/)"),
        (["--web-root", "/../"], "argument --web-root: invalid path"),
        (["--web", "unix:x"], "the page is served at a HOST:PORT, not at unix:x"),
        (["--web", "smtp://x"], "the page is served at a HOST:PORT, not at smtp://x"),
        (["--web", ":99999"], "Invalid port number: 99999"),
        (["--relay", "a.test"], "--relay needs --relay-allow: '.' allows all addresses"),
        (["--relay-allow", "x"], "--relay-allow and --relay-block need --relay"),
        (["--relay", "http://a.test", "--relay-allow", "."], "argument --relay: write HOST:PORT"),
        (["--relay", "a.test:0"], "argument --relay: smtp://a.test:0: invalid port: 0"),
        (["--allow-recipients", "["], "argument --allow-recipients: invalid regular expression"),
        (["--relay-allow", "("], "argument --relay-allow: invalid regular expression: missing )"),
        (["--webhook", "x"], "argument --webhook: invalid URL: write http://HOST:PORT/PATH"),
        (["--webhook-limit", "x"], "argument --webhook-limit: invalid number: 'x'"),
        (["--webhook-url", "x"], "unrecognized arguments: --webhook-url; Mailpit's --webhook-url"),
        (["--keep", "much"], "argument --keep: 'much' is not a limit: write COUNT,SIZE,AGE"),
        (["--tag", "x"], "argument --tag: invalid query: 'x' (write Shop=to:@shop.test)"),
        (["--inbox", "=to:x"], "argument --inbox: invalid query: '=to:x'"),
        (["--inbox", "Shop=form:x"], "argument --inbox: Shop: there is no filter form:; did you"),
        (["--tag", "A=is:rejected"], "argument --tag: A: there is no filter is:rejected; did you"),
        (["--tag", "A=before:noon"], "argument --tag: A: 'noon' is not a date; write before:2026"),
        (["--tag", "!=to:x"], "argument --tag: invalid tag: '!' (use letters, digits and . - _ @)"),
        (["--fault", "rcpt: shout"], "argument --fault: unknown effect 'shout'"),
        (["--trusted-proxy", "x"], "argument --trusted-proxy: invalid network: 'x'"),
        (["--require-auth"], "--require-auth needs users: add --auth, --auth-file or --auth-any"),
        (["--require-tls"], "--require-tls needs a certificate: add --tlscert and --tlskey"),
        (["--tlscert", "x"], "--tlscert and --tlskey must be specified together"),
        (["-l", "smtps://:0"], "smtps:// needs --tlscert and --tlskey, or --tls self-signed"),
        (["--port", "25"], "unrecognized arguments: --port; use -l HOST:PORT to say where"),
        (["--smtp", ":1"], "unrecognized arguments: --smtp; Mailpit's --smtp is -l here"),
        (
            ["--ui-auth-file", "f"],
            "unrecognized arguments: --ui-auth-file; "
            "Mailpit's --ui-auth-file is --web-auth-file here",
        ),
        (
            ["--smtp-require-tls"],
            "unrecognized arguments: --smtp-require-tls; Mailpit's --smtp",
        ),
        (["-m", "5"], "unrecognized arguments: -m; Mailpit's -m is --keep here"),
        (["--max", "5"], "unrecognized arguments: --max; Mailpit's --max is --keep here"),
        (["--max=5"], "unrecognized arguments: --max; Mailpit's --max is --keep here"),
        (["--web-a=a:secret"], "ambiguous option: --web-a could match --web-auth, --web-auth-file"),
        (
            ["--ui-tls-cert", "c"],
            "unrecognized arguments: --ui-tls-cert; Mailpit's --ui-tls-cert is --web-tls here",
        ),
        (["--mialdir"], "unrecognized arguments: --mialdir; did you mean --maildir?"),
        (["--web-tls", "x", "y"], "Certificate x with key y: No such file or directory"),
    ],
)
def test_wrong_options_are_one_line(
    args: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, *args).startswith(error)


@pytest.mark.parametrize("missing", [["wsproto"], ["starlette", "uvicorn"]])
def test_a_missing_extra_is_one_line(
    missing: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inbox, "find_spec", lambda name: None if name in missing else object())
    names = ", ".join(missing)
    assert refused(capsys) == f'the inbox needs {names}: pip install "aiosmtpd[inbox]"'


@pytest.fixture
def _not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: Any) -> None:
        raise Failure("started")

    monkeypatch.setattr("aiosmtpd.inbox.store.Store.open", start)


@pytest.mark.usefixtures("_not_started")
@pytest.mark.parametrize(
    ("args", "is_refused"),
    [
        ([], True),
        (["--web-public"], False),
        (["--web-auth", "me:secret"], False),
    ],
)
def test_a_page_for_all_needs_a_word(
    args: list[str],
    is_refused: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(inbox_program, "in_container", lambda: False)
    error = refused(capsys, "--web", "0.0.0.0:0", *args)
    assert error.startswith("Other machines can reach 0.0.0.0:") is is_refused
    if is_refused:
        assert error.endswith("add --web-auth USER:PASSWORD or --web-public")


@pytest.mark.usefixtures("_not_started")
def test_in_a_container_it_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inbox_program, "in_container", lambda: True)
    with pytest.raises(SystemExit):
        main.main(["inbox", *ANYWHERE, "--web", "0.0.0.0:0"])
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("Other machines can reach 0.0.0.0:")
    assert warning.endswith("(only a warning, because this is a container)")
    assert error == "aiosmtpd inbox: error: started"


def test_a_container_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".containerenv"
    monkeypatch.setattr(inbox_program, "CONTAINER_FILES", (str(file),))
    monkeypatch.setattr(inbox_program, "CONTAINERS", ())
    assert not inbox_program.in_container()
    file.touch()
    assert inbox_program.in_container()


@pytest.mark.parametrize("option", ["--web-auth-file", "--auth-file"])
def test_a_file_with_hashes_is_refused(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "users"
    file.write_text("# ours\nann:secret\nbob:$apr1$abcdefgh$qmQ3xb1yt5RJ1lBVS2iSb.\n")
    assert refused(capsys, option, str(file)) == (
        f"Users file {file}: the password of bob is a hash, and the inbox compares plain texts: "
        "write USER:PASSWORD, best in a file that only you can read"
    )


def test_an_inbox_may_be_the_refused_attempts() -> None:
    assert value("inbox", "--inbox", "Refused=is:rejected") == [("Refused", "is:rejected")]


def test_defaults() -> None:
    settings, notes = parsed()
    assert notes == []
    assert (settings.size, settings.setuid, settings.requiretls) == (50 << 20, False, False)
    assert (settings.max_errors, settings.max_connections_per_host) == (1000, 1000)
    assert (settings.web_root, settings.delete_all, settings.max_recipients) == ("/", True, 1000)


@pytest.mark.parametrize(
    ("name", "text", "dest", "expected"),
    [
        ("MP_UI_BIND_ADDR", "[::]:8025", "web", "[::]:8025"),
        ("MP_WEBROOT", "mail", "web_root", "/mail/"),
        ("MP_UI_AUTH", "a:b c:d", "web_auth", [("a", "b"), ("c", "d")]),
        ("MP_UI_AUTH_FILE", "users", "web_auth_file", "users"),
        ("MP_API_CORS", "http://a, http://b", "allow_origin", ["http://a", "http://b"]),
        ("MP_LABEL", "Shop", "label", "Shop"),
        ("MP_SMTP_BIND_ADDR", "0.0.0.0:1025", "listen", ["0.0.0.0:1025"]),
        ("MP_SMTP_AUTH", "a:b", "auth", [("a", "b")]),
        ("MP_SMTP_AUTH", "a:b", "require_auth", True),
        ("MP_SMTP_AUTH_FILE", "users", "auth_file", "users"),
        ("MP_SMTP_AUTH_FILE", "users", "require_auth", True),
        ("MP_SMTP_AUTH_ACCEPT_ANY", "1", "auth_any", True),
        ("MP_SMTP_AUTH_ACCEPT_ANY", "off", "auth_any", False),
        ("MP_SMTP_TLS_CERT", "c", "tlscert", "c"),
        ("MP_SMTP_TLS_KEY", "k", "tlskey", "k"),
        ("MP_SMTP_TLS_CERT", "sans:localhost", "tls", "self-signed"),
        ("MP_SMTP_TLS_KEY", "sans:localhost", "tlskey", None),
        ("MP_SMTP_REQUIRE_TLS", "true", "listen", ["smtps://"]),
        ("MP_TAGS_DISABLE", "plus-addresses, x-tags", "no_tags", ["addresses", "header"]),
        ("MP_SMTP_REQUIRE_STARTTLS", "yes", "requiretls", True),
        ("MP_SMTP_MAX_RECIPIENTS", "5", "max_recipients", 5),
        ("MP_SMTP_ALLOWED_RECIPIENTS", "@shop[.]test$", "allow_recipients", "@shop[.]test$"),
        ("MP_ALLOWED_HOSTS", "a.example, b.example", "allow_host", ["a.example", "b.example"]),
        ("MP_MAX_MESSAGE_SIZE", "10", "size", 10 << 20),
        ("MP_MAX_MESSAGE_SIZE", "0", "size", 0),
        ("MP_DATABASE", "box.db", "store", "box.db"),
        ("MP_MAX_MESSAGES", "0", "keep", "all"),
        ("MP_MAX_AGE", "3d", "keep", "3d"),
        ("MP_IGNORE_DUPLICATE_IDS", "true", "ignore_duplicates", True),
        ("MP_ENABLE_PROMETHEUS", "true", "metrics", True),
        ("MP_TAG", "A=to:x B=from:y", "tag", [("A", "to:x"), ("B", "from:y")]),
        (
            "MP_TAG",
            '"A b,c=subject:hi you"',
            "tag",
            [("A b", "subject:hi you"), ("c", "subject:hi you")],
        ),
        ("MP_WEBHOOK_URL", "http://a.test/x", "webhook", "http://a.test/x"),
        ("MP_WEBHOOK_LIMIT", "5", "webhook_limit", 5),
        ("MP_WEBHOOK_LIMIT", "0", "webhook_limit", None),
        ("MP_QUIET", "on", "quiet", True),
        ("MP_VERBOSE", "TRUE", "debug", 1),
        ("MP_DATABASE", "", "store", None),
    ],
)
def test_a_variable_is_an_option(name: str, text: str, dest: str, expected: Any) -> None:
    settings, notes = parsed(**{name: text})
    assert getattr(settings, dest) == expected
    assert [note.startswith(f"{name}: ") for note in notes] == [True]


def test_variables_that_make_one_option() -> None:
    assert value("keep", MP_MAX_MESSAGES="100", MP_MAX_AGE="12h") == "100,12h"
    place = value("listen", MP_SMTP_BIND_ADDR="[::]:465", MP_SMTP_REQUIRE_TLS="1")
    assert place == ["smtps://[::]:465"]
    assert value("listen", "-l", ":1", MP_SMTP_REQUIRE_TLS="1") == [":1"]
    assert value("listen", MP_SMTP_BIND_ADDR=":465", MP_SMTP_REQUIRE_TLS="no") == [":465"]
    assert value("web_tls", MP_UI_TLS_CERT="c", MP_UI_TLS_KEY="k") == ["c", "k"]
    triggers = "Sender:451:5,Authentication:535:0"
    assert [str(one) for one in value("fault", MP_CHAOS_TRIGGERS=triggers)] == [
        "mail: 451 Chaos sender error 5%"
    ]


def test_secrets_are_not_in_the_notes() -> None:
    url = "https://hook.test/secret"
    _, notes = parsed(MP_UI_AUTH="me:secret", MP_SMTP_AUTH="me:secret", MP_WEBHOOK_URL=url)
    assert notes == [
        "MP_SMTP_AUTH: taken as --auth --require-auth",
        "MP_UI_AUTH: taken as --web-auth",
        "MP_WEBHOOK_URL: taken as --webhook",
    ]


RELAY = {"HOST": "mail.test", "PORT": "587", "STARTTLS": "true", "ALLOW_INSECURE": "1"}
RELAY |= {"AUTH": "login", "USERNAME": "me@a", "PASSWORD": "s/x", "BLOCKED_RECIPIENTS": "boss"}


def test_variables_of_a_relay_are_one_option() -> None:
    variables = {f"MP_SMTP_RELAY_{name}": text for name, text in RELAY.items()}
    settings, notes = parsed(**variables)
    assert settings.relay == "smtp+starttls://me%40a:s%2Fx@mail.test:587#verify=no"
    assert (settings.relay_allow, settings.relay_block) == (".", "boss")
    assert notes == [
        "MP_SMTP_RELAY_HOST: taken as --relay",
        "MP_SMTP_RELAY_HOST: with --relay-allow=.",
        "MP_SMTP_RELAY_HOST: with --relay-block=boss",
    ]
    args = ["--relay", "b.test", "--relay-allow", "ann"]
    settings, notes = parsed(*args, **variables)
    assert (settings.relay, settings.relay_allow, settings.relay_block) == ("b.test", "ann", None)
    assert notes == ["MP_SMTP_RELAY_HOST: ignored, because of --relay"]
    allowed = value("relay_allow", *args[2:], **variables)
    assert allowed == "ann"


def test_other_variables_are_named() -> None:
    _, notes = parsed(MP_POP3_AUTH="a:b", MP_SMTP_DISABLE_RDNS="true", PATH="/")
    assert notes == [
        "MP_POP3_AUTH: the inbox has no such option, it is ignored",
        "MP_SMTP_DISABLE_RDNS: names of clients are never looked up",
    ]


def test_options_take_precedence_over_variables() -> None:
    variables = {"MP_MAX_MESSAGES": "1", "MP_VERBOSE": "1", "MP_SMTP_BIND_ADDR": ":9"}
    variables |= {"MP_UI_TLS_CERT": "c", "MP_UI_TLS_KEY": "k", "MP_MAX_MESSAGE_SIZE": "9"}
    args = ["--keep", "7", "-dd", "-l", ":8", "--web-tls", "a", "b", "--size", "50M"]
    settings, notes = parsed(*args, **variables)
    assert (settings.keep, settings.debug, settings.listen) == ("7", 2, [":8"])
    assert (settings.web_tls, settings.size) == (["a", "b"], 50 << 20)
    assert notes == [
        "MP_MAX_MESSAGE_SIZE: ignored, because of --size",
        "MP_SMTP_BIND_ADDR: ignored, because of -l",
        "MP_VERBOSE: ignored, because of -d",
        "MP_MAX_MESSAGES: ignored, because of --keep",
        "MP_UI_TLS_CERT and MP_UI_TLS_KEY: ignored, because of --web-tls",
    ]


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("MP_QUIET", "perhaps", "MP_QUIET: write true or false"),
        ("MP_MAX_MESSAGE_SIZE", "10M", "MP_MAX_MESSAGE_SIZE: write a number of megabytes"),
        ("MP_MAX_MESSAGES", "many", "MP_MAX_MESSAGES: write a number"),
        ("MP_ENABLE_PROMETHEUS", ":9090", "MP_ENABLE_PROMETHEUS: write true or false"),
        ("MP_TAGS_DISABLE", "x", "MP_TAGS_DISABLE: write plus-addresses or x-tags"),
        ("MP_SMTP_REQUIRE_TLS", "x", "MP_SMTP_REQUIRE_TLS: write true or false"),
        ("MP_UI_TLS_CERT", "sans:a", "MP_UI_TLS_CERT and MP_UI_TLS_KEY: the page needs a certif"),
        ("MP_TAG", "Shop", "MP_TAG: write TAG=QUERY"),
        ("MP_MAX_AGE", "3w", "MP_MAX_AGE: write a number of hours or days"),
        ("MP_CHAOS_TRIGGERS", "Sender:99:5", "MP_CHAOS_TRIGGERS: write Sender:451:5"),
        ("MP_UI_TLS_CERT", "c", "MP_UI_TLS_CERT and MP_UI_TLS_KEY need each other: set both"),
        ("MP_UI_AUTH", '"a:b"', "argument --web-auth: quotation marks"),
        ("MP_SMTP_RELAY_HOST", "a b", "argument --relay: smtp://a b:25: write smtp://HOST"),
    ],
)
def test_wrong_variables_are_one_line(
    name: str,
    text: str,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, text)
    assert refused(capsys).startswith(error)


def test_all_options_are_in_the_help() -> None:
    text = inbox.make_parser("aiosmtpd inbox").format_help()
    for names in (
        "--listen --web --web-root --web-auth --web-auth-file --web-tls --web-public --allow-host",
        "--allow-origin --trusted-proxy --store --keep --durable --maildir --tls --auth --auth-any",
        "--size --fault --tag --no-tags --inbox --relay --relay-allow --relay-block --webhook",
        "--webhook-limit --link-check --remote-images --no-delete-all --metrics --browser --check",
        "--wait --ready-file --quiet --allow-recipients --ignore-duplicates --label",
    ):
        for name in names.split():
            assert re.search(rf"(?m)^ .*{name}\b", text), name


def test_each_alias_names_an_option_that_exists() -> None:
    parser = inbox.make_parser("aiosmtpd inbox")
    known = vars(parser.parse_args([]))
    text = parser.format_help()
    for alias in mailpit.ALIASES.values():
        assert alias.dest in known
        assert alias.option in text


def test_the_browser_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_or_fail(url: str) -> None:
        opened.append(url)
        raise webbrowser.Error("there is no browser")

    monkeypatch.setattr(webbrowser, "open", open_or_fail)
    inbox_program.browse("http://127.0.0.1:8025/")
    assert opened == ["http://127.0.0.1:8025/"]
