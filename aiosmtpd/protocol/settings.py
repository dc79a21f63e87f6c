"""Everything that is the same for all connections of a server, validated once."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args

import attrs

from aiosmtpd._version import __version__
from aiosmtpd.protocol import networks
from aiosmtpd.protocol.extensions import CLASSIC, Extension, ExtensionTable
from aiosmtpd.protocol.limits import DEFAULT_LIMITS, LIMIT_NAMES, LimitKeywords, Limits, limits_of
from aiosmtpd.protocol.networks import Networks

if TYPE_CHECKING:
    from ssl import SSLContext

# Annotations are values here: text would be compiled for each key of the dicts.

TLSContext: TypeAlias = "SSLContext | Callable[[], SSLContext]"
Preset: TypeAlias = Literal["classic", "modern", "all"]
UnknownParams: TypeAlias = Literal["reject", "ignore"]
BareNewline: TypeAlias = Literal["accept", "normalize", "reject"]

IDENT = f"Python SMTP {__version__}"
DATA_SIZE_DEFAULT = 2**25
CALL_LIMIT_DEFAULT = 20
"""How often a verb may be used that the dict ``command_call_limit`` does not name."""


class CommonKeywords(LimitKeywords, total=False):
    """The keywords of ``SMTP`` that are also those of each controller."""

    data_size_limit: int | None
    enable_SMTPUTF8: bool
    decode_data: bool
    ident: str | None
    tls_context: "TLSContext | None"
    require_starttls: bool
    timeout: float
    auth_required: bool
    auth_require_tls: bool
    auth_exclude_mechanism: Iterable[str] | None
    auth_callback: Callable[[str, bytes, bytes], bool | Awaitable[bool]] | None
    command_call_limit: int | dict[str, int] | None
    authenticator: Callable[[Any, Any, Any, str, Any], Any] | None
    proxy_protocol_timeout: float | None
    extensions: Preset | Iterable[Extension]
    unknown_params: UnknownParams
    bare_newline: BareNewline
    line_length_limit: int | None
    login_prompts: tuple[str, str] | None
    command_size_limit: int | None
    spill_size: int | None
    proxy_trusted: str | Iterable[str] | None
    observers: Sequence[Any]


PRESETS: tuple[Preset, ...] = get_args(Preset)


def extension_table(extensions: str | Iterable[Extension]) -> ExtensionTable:
    """Return the table for a preset's name or for extensions; raises ValueError, TypeError."""
    if not isinstance(extensions, str):
        return ExtensionTable.of(extensions)
    if extensions not in PRESETS:
        raise ValueError(f"extensions must be one of {', '.join(PRESETS)}, or a list")
    return _preset(extensions)


@cache
def _preset(name: str) -> ExtensionTable:
    if name == "classic":
        return ExtensionTable.of(CLASSIC)
    from aiosmtpd.protocol import modern  # 1 ms, and a library's server seldom needs it

    return ExtensionTable.of(modern.MODERN if name == "modern" else modern.ALL)


_CLASSIC = _preset("classic")


class CallLimits(TypedDict):
    """How often a verb may be used in one session."""

    by_verb: Mapping[str, int]
    others: int


class SMTPKeywords(CommonKeywords, total=False):
    """The keywords of ``SMTP``, ``Server`` and ``Inbox``."""

    hostname: str | None
    """The name in the greeting. Controllers call this keyword ``server_hostname``."""


class ServingKeywords(TypedDict, total=False):
    """The keywords of ``BaseController`` that its subclasses pass on to it unchanged."""

    shutdown_timeout: float
    server_kwargs: dict[str, Any]


class BaseKeywords(SMTPKeywords, ServingKeywords, total=False):
    """The keywords of the base controllers, which do not know where to listen."""


class ControllerKeywords(CommonKeywords, ServingKeywords, total=False):
    """The keywords of all controllers; ``ready_timeout`` is for those with a thread."""

    ready_timeout: float
    ssl_context: "TLSContext | None"
    server_hostname: str | None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Settings:
    """The settings of a server, from the keywords of ``SMTP``; :meth:`of` validates them.

    Times are in seconds, sizes in bytes. docs/reference/smtp tells what each keyword means.
    """

    data_size_limit: int | None = DATA_SIZE_DEFAULT
    enable_SMTPUTF8: bool = False
    decode_data: bool = False
    hostname: str | None = None
    ident: str = IDENT
    tls_context: Any = None
    require_starttls: bool = False
    timeout: float = 300
    auth_required: bool = False
    auth_require_tls: bool = True
    auth_exclude_mechanism: tuple[str, ...] = ()
    auth_callback: Any = None
    command_call_limit: CallLimits | None = None
    authenticator: Any = None
    proxy_protocol_timeout: float | None = None
    extensions: ExtensionTable = _CLASSIC
    unknown_params: UnknownParams = "reject"
    bare_newline: BareNewline = "accept"
    line_length_limit: int | None = None
    login_prompts: tuple[str, str] | None = None
    command_size_limit: int | None = None
    spill_size: int | None = None
    proxy_trusted: Networks | None = None
    observers: tuple[Any, ...] = ()
    limits: Limits = DEFAULT_LIMITS
    takes_plain: bool = attrs.field(init=False)
    """True if these settings let the fast path run; it checks some other settings itself."""

    @takes_plain.default
    def _takes_plain(self) -> bool:
        limits = self.limits
        return (
            not self.auth_required
            and self.command_call_limit is None
            and not limits.max_transactions
            and not limits.max_recipient_domains
        )

    is_notable: bool = attrs.field(init=False)
    """True if ``diagnostics.look_at_settings`` may have something to say."""

    @is_notable.default
    def _is_notable(self) -> bool:
        return bool(
            self.observers or self.auth_required or self.authenticator or self.auth_callback
        )

    ehlo_replies: dict[Any, bytes] = attrs.field(init=False, factory=dict, eq=False, repr=False)
    """Replies to EHLO that servers with these settings have sent, by all else that is in them."""

    offers_of_auth: list[tuple[list[str], str | None]] = attrs.field(
        init=False, factory=list, eq=False, repr=False
    )
    """The EHLO lines of AUTH that servers with these settings have sent: see engine/auth.py."""

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> "Settings":
        """Return the settings that these keywords of ``SMTP`` ask for.

        Raises TypeError for an unknown keyword, with the name that is closest, and ValueError or
        TypeError for a value that is not allowed.
        """
        if not keywords:
            return DEFAULT_SETTINGS
        if list in map(type, keywords.values()):
            keywords = {
                name: tuple(value) if type(value) is list else value
                for name, value in keywords.items()
            }
        items = tuple(keywords.items())
        try:
            # A factory passes the same keywords for each connection: validate them only once.
            return _remembered(items)
        except TypeError:
            # A value cannot be a key, or is not allowed, which raises it again.
            return _validated(keywords)


NAMES = tuple(SMTPKeywords.__annotations__)
"""The keywords, in their order."""


@lru_cache(maxsize=8)
def _remembered(items: tuple[tuple[str, Any], ...]) -> Settings:
    return _validated(dict(items))


def _validated(keywords: Mapping[str, Any]) -> Settings:
    check_names(keywords, "SMTP", ("handler", "loop"))
    values = dict(keywords)
    limits = limits_of({name: values.pop(name) for name in LIMIT_NAMES & values.keys()})
    for name, convert in _CONVERTERS.items():
        if name in values:
            values[name] = convert(values[name])
    values["require_starttls"] = bool(values.get("tls_context")) and bool(
        values.get("require_starttls")
    )
    return Settings(limits=limits, **values)


def check_names(keywords: Iterable[str], owner: str, own: Iterable[str]) -> None:
    """Raise TypeError, with the closest name, for a keyword that ``SMTP`` does not have.

    *owner* is the class that got the keywords, *own* are the names of its other parameters.
    """
    if unknown := {*keywords} - {*NAMES}:
        from difflib import get_close_matches  # seldom needed

        name = min(unknown)
        near = get_close_matches(name, [*NAMES, *own], 1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        text = f"{owner}.__init__() got an unexpected keyword argument {name!r}{hint}"
        raise TypeError(text)


def _one_of(name: str, *allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}")
        return str(value)

    return check


def _call_limits(limit: Any) -> CallLimits | None:
    if limit is None:
        return None
    if isinstance(limit, int):
        return {"by_verb": {}, "others": limit}
    if not isinstance(limit, dict):
        raise TypeError("command_call_limit must be int or Dict[str, int]")
    if not all(isinstance(value, int) for value in limit.values()):
        raise TypeError("All command_call_limit values must be int")
    return {"by_verb": limit, "others": limit.get("*", CALL_LIMIT_DEFAULT)}


def _listed(names: Iterable[str] | None) -> Iterable[str]:
    # One name may be a str: its characters would exclude nothing.
    return (names,) if isinstance(names, str) else names or ()


def _proxy_timeout(seconds: float | None) -> float | None:
    if seconds is not None and seconds <= 0:
        raise ValueError("proxy_protocol_timeout must be > 0")
    return seconds


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "ident": lambda text: text or IDENT,
    "auth_exclude_mechanism": lambda names: tuple(name.upper() for name in _listed(names)),
    "command_call_limit": _call_limits,
    "proxy_protocol_timeout": _proxy_timeout,
    "extensions": extension_table,
    "unknown_params": _one_of("unknown_params", "reject", "ignore"),
    "bare_newline": _one_of("bare_newline", "accept", "normalize", "reject"),
    "proxy_trusted": lambda hosts: None if hosts is None else networks.parse(hosts),
    "observers": tuple,
}

DEFAULT_SETTINGS = Settings()
