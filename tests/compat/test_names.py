"""The API of 1.4: the names, signatures and defaults that programs use."""

import inspect
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

import aiosmtpd
from aiosmtpd import controller, handlers, smtp
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.rows import each_row

NAMES = {
    "aiosmtpd": "__version__ _get_or_new_eventloop",
    "aiosmtpd.smtp": """
        SMTP Session Envelope AuthResult LoginPassword syntax auth_mechanism sanitize sanitized_log
        TLSSetupException MISSING _Missing AuthCallbackType AuthenticatorType AuthMechanismType
        __version__ __ident__ BOGUS_LIMIT CALL_LIMIT_DEFAULT DATA_SIZE_DEFAULT VALID_AUTHMECH
        ALLOWED_BEFORE_STARTTLS CLIENT_AUTH_B login_always_fail make_loop log
        Extension CLASSIC Refused Reply""",
    "aiosmtpd.controller": """
        BaseController BaseThreadedController BaseUnthreadedController InetMixin UnixSocketMixin
        Controller UnixSocketController UnthreadedController UnixSocketUnthreadedController
        get_localhost IP6_IS DEFAULT_READY_TIMEOUT makesock _has_ipv6 _FakeServer
        _server_to_client_ssl_ctx SMTP""",
    "aiosmtpd.handlers": """
        Debugging Proxy Sink MessageBase Message AsyncMessage Mailbox log smtplib""",
    "aiosmtpd.lmtp": "LMTP",
    "aiosmtpd.proxy_protocol": """
        ProxyData ProxyTLV get_proxy AF PROTO V2_CMD V2_SIGNATURE V2_VALID_CMDS V2_VALID_FAMS
        V2_VALID_PROS V2_PARSE_ADDR_FAMPRO MalformedTLV UnknownTypeTLV AsyncReader
        EndpointAddress""",
    "aiosmtpd.main": """
        main parseargs PROGRAM DEFAULT_HOST DEFAULT_PORT DEFAULT_CLASS _parser pwd partial""",
    "aiosmtpd.testing.helpers": """
        ReceivingHandler reset_connection catchup_delay send_recv ASYNCIO_CATCHUP_DELAY""",
    "aiosmtpd.testing.statuscodes": """
        StatusCode SMTP_STATUS_CODES SUPPORTED_COMMANDS_NOTLS SUPPORTED_COMMANDS_TLS
        SUPPORTED_COMMANDS_LMTP""",
}

EXPORTED = {
    "aiosmtpd.smtp": """
        SMTP Session Envelope LoginPassword syntax auth_mechanism sanitize sanitized_log
        TLSSetupException MISSING AuthCallbackType AuthMechanismType __version__""",
    "aiosmtpd.controller": """
        BaseController BaseThreadedController BaseUnthreadedController InetMixin UnixSocketMixin
        Controller UnixSocketController UnthreadedController UnixSocketUnthreadedController
        get_localhost IP6_IS""",
    "aiosmtpd.handlers": "Debugging Proxy Sink Message AsyncMessage Mailbox",
    "aiosmtpd.lmtp": "LMTP",
    "aiosmtpd.main": "main",
    "aiosmtpd.proxy_protocol": "ProxyData ProxyTLV get_proxy MalformedTLV UnknownTypeTLV",
}


@each_row(
    ("module", "name"),
    [(module, name) for module, names in NAMES.items() for name in names.split()],
)
def test_the_name_exists(module: str, name: str) -> None:
    assert hasattr(import_module(module), name)


@each_row(
    ("module", "name"),
    [(module, name) for module, names in EXPORTED.items() for name in names.split()],
)
def test_the_name_is_in_all(module: str, name: str) -> None:
    assert name in import_module(module).__all__


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("aiosmtpd.smtp", "AuthResult"),
        ("aiosmtpd.proxy_protocol", "AF"),
        ("aiosmtpd.proxy_protocol", "PROTO"),
        ("aiosmtpd.handlers", "MessageBase"),
        ("aiosmtpd.main", "parseargs"),
    ],
)
def test_the_name_is_not_in_all(module: str, name: str) -> None:
    assert name not in import_module(module).__all__


def test_each_top_level_name_exists() -> None:
    names = vars(aiosmtpd)["__all__"]
    for name in names:
        assert getattr(aiosmtpd, name) is not None
    assert set(names) <= set(dir(aiosmtpd))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        aiosmtpd.Nothing  # type: ignore[attr-defined]  # noqa: B018


@each_row(
    ("value", "expected"),
    [
        (smtp.BOGUS_LIMIT, 5),
        (smtp.CALL_LIMIT_DEFAULT, 20),
        (smtp.DATA_SIZE_DEFAULT, 33554432),
        (smtp.ALLOWED_BEFORE_STARTTLS, {"NOOP", "EHLO", "STARTTLS", "QUIT"}),
        (smtp.__version__, aiosmtpd.__version__),
        (smtp.__ident__, "Python SMTP " + aiosmtpd.__version__),
        (smtp.log.name, "mail.log"),
        (handlers.log.name, "mail.debug"),
        (controller.DEFAULT_READY_TIMEOUT, 5.0),
        (SMTP.command_size_limit, 512),
        (SMTP.line_length_limit, 1001),
        (SMTP.local_part_limit, 0),
        (SMTP.AuthLoginUsernameChallenge, "User Name\x00"),
        (SMTP.AuthLoginPasswordChallenge, "Password\x00"),
        (SMTP.expose_exceptions, False),
    ],
)
def test_constants_have_the_values_of_1_4(value: object, expected: object) -> None:
    assert value == expected


SMTP_DEFAULTS = {
    "data_size_limit": 33554432,
    "enable_SMTPUTF8": False,
    "decode_data": False,
    "hostname": None,
    "ident": None,
    "tls_context": None,
    "require_starttls": False,
    "timeout": 300,
    "auth_required": False,
    "auth_require_tls": True,
    "auth_exclude_mechanism": None,
    "auth_callback": None,
    "command_call_limit": None,
    "authenticator": None,
    "proxy_protocol_timeout": None,
    "loop": None,
}


@pytest.mark.parametrize("owner", [SMTP, LMTP])
def test_keywords_of_smtp_have_the_defaults_of_1_4(owner: type[SMTP]) -> None:
    parameters = inspect.signature(owner).parameters
    assert next(iter(parameters)) == "handler"
    assert {name: parameters[name].default for name in SMTP_DEFAULTS} == SMTP_DEFAULTS
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in SMTP_DEFAULTS)


SIGNATURES: list[tuple[Any, str]] = [
    (SMTP.push, "self status"),
    (SMTP.challenge_auth, "self challenge encode_to_b64=True log_client_response=False"),
    (SMTP.check_helo_needed, "self helo='HELO'"),
    (SMTP.check_auth_needed, "self caller"),
    (SMTP._call_handler_hook, "self command *args"),
    (SMTP._getaddr, "self arg"),
    (SMTP._getparams, "self params"),
    (SMTP._strip_command_keyword, "self keyword arg"),
    (SMTP._timeout_cb, "self"),
    (SMTP._reset_timeout, "self duration=None"),
    (SMTP._handle_client, "self"),
    (SMTP._create_session, "self"),
    (SMTP._create_envelope, "self"),
    (SMTP._set_post_data_state, "self"),
    (SMTP._set_rset_state, "self"),
    (SMTP.handle_exception, "self error"),
    (SMTP.connection_made, "self transport"),
    (SMTP.connection_lost, "self error"),
    (SMTP.eof_received, "self"),
    (Session, "loop"),
    (Envelope, ""),
    (smtp.AuthResult, "success handled=True message=None auth_data=None"),
    (smtp.LoginPassword, "login password"),
    (smtp.syntax, "text extended=None when=None"),
    (smtp.auth_mechanism, "actual_name"),
    (
        controller.Controller.__init__,
        "self handler hostname=None port=8025 loop=None **kwargs",
    ),
    (
        controller.UnixSocketController.__init__,
        "self handler unix_socket loop=None **kwargs",
    ),
    (controller.BaseThreadedController.stop, "self no_assert=False timeout=None linger=0.0"),
    (controller.BaseController.cancel_tasks, "self stop_loop=True"),
    (handlers.Debugging, "stream=None"),
    (handlers.Proxy, "remote_hostname remote_port"),
    (handlers.Message.__init__, "self message_class=None"),
    (handlers.AsyncMessage.__init__, "self message_class=None loop=None"),
    (handlers.Mailbox, "mail_dir message_class=None trace=False"),
]


def spelt(function: Any) -> str:
    words = []
    for parameter in inspect.signature(function).parameters.values():
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        words.append(stars + parameter.name + default)
    return " ".join(words)


def readable(value: Any) -> str:
    """Return an id without an address: each process that runs the tests must find the same."""
    return getattr(value, "__name__", str(value)[:60])


@each_row(("function", "expected"), SIGNATURES)
def test_signature(function: Any, expected: str) -> None:
    assert spelt(function) == expected


@pytest.mark.parametrize("verb", ["PLAIN", "LOGIN"])
def test_built_in_mechanisms_exist(verb: str) -> None:
    assert list(inspect.signature(getattr(SMTP, f"auth_{verb}")).parameters) == [
        "self",
        "_",
        "args",
    ]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("peer", None),
        ("ssl", None),
        ("host_name", None),
        ("extended_smtp", False),
        ("proxy_data", None),
        ("auth_data", None),
        ("authenticated", None),
    ],
)
def test_the_attributes_of_a_new_session(attribute: str, value: object) -> None:
    session = Session(None)  # type: ignore[arg-type]
    assert getattr(session, attribute) == value
    setattr(session, attribute, "mine")
    assert getattr(session, attribute) == "mine"


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("mail_from", None),
        ("mail_options", []),
        ("smtp_utf8", False),
        ("content", None),
        ("original_content", None),
        ("rcpt_tos", []),
        ("rcpt_options", []),
    ],
)
def test_the_attributes_of_a_new_envelope(attribute: str, value: object) -> None:
    envelope = Envelope()
    assert getattr(envelope, attribute) == value
    setattr(envelope, attribute, "mine")
    assert getattr(envelope, attribute) == "mine"


def test_session_and_envelope_take_new_attributes() -> None:
    session: Any = Session(None)  # type: ignore[arg-type]
    envelope: Any = Envelope()
    session.mine = envelope.mine = 1
    assert session.mine == envelope.mine == 1


def test_importing_the_controller_is_quick() -> None:
    """At most 25 ms more than asyncio and attrs: slow modules are imported later."""
    code = (
        "import asyncio, attrs, sys; before = {*sys.modules}; import aiosmtpd.controller;"
        "print(*{*sys.modules} - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    modules = set(run.stdout.decode().split())
    assert "aiosmtpd.smtp" in modules
    slow = {"argparse", "email.message", "ipaddress", "json", "mailbox", "smtplib", "tempfile"}
    assert modules.isdisjoint(slow | {"aiosmtpd.handlers", "aiosmtpd.proxy_protocol"})
