"""Finding and calling a handler's hooks: docs/explain/threat-model, "worker threads"."""

import asyncio
import functools
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import pytest

from aiosmtpd.engine import hooks
from aiosmtpd.smtp import SMTP


class Handler:
    """Has hooks of several kinds."""

    label = "not a hook"
    nothing = None

    async def handle_DATA(self, *args: Any) -> str:
        return f"250 async {args} {threading.get_ident()}"

    def handle_RCPT(self, *args: Any) -> str:
        return f"250 plain {args} {threading.get_ident()}"


class AnswersToAll(Handler):
    """Has all attributes, as proxies do."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: None


class Listing(Handler):
    """Says itself which attributes it has."""

    def __dir__(self) -> list[str]:
        return ["handle_QUIT", "handle_DATA"]


# names


def with_a_hook_of_its_own() -> Handler:
    handler = Handler()
    vars(handler)["handle_MAIL"] = print
    return handler


@pytest.mark.parametrize(
    "owner",
    [
        with_a_hook_of_its_own(),
        Listing(),
        AnswersToAll(),
        Handler,
        hooks,
        None,
        mock.Mock(spec=Handler),
        mock.Mock(handle_NOOP=1),
    ],
    ids=["instance", "own dir", "any name", "class", "module", "none", "mock of a class", "mock"],
)
def test_names_are_those_of_dir(owner: Any) -> None:
    expected = [name for name in dir(owner) if name.startswith(("handle_", "find"))]
    assert sorted(hooks.names(owner, "handle_") + hooks.names(owner, "find")) == sorted(expected)


class Verbs:
    """Verbs and mechanisms to mix in: it comes after the server's own classes."""

    async def smtp_XTURN(self, arg: str | None) -> None:
        """A verb of its own."""

    async def auth_TOKEN(self, server: SMTP, args: list[str]) -> None:
        """A mechanism of its own."""


class Extended(SMTP, Verbs):
    """A server with both."""


@pytest.mark.parametrize("prefix", ["smtp_", "auth_"])
async def test_names_of_a_server_are_those_of_dir(prefix: str) -> None:
    server = Extended(Handler(), hostname="mx.test")
    vars(server)[prefix + "XYZ"] = print
    found = hooks.names(server, prefix)
    assert found == [name for name in dir(server) if name.startswith(prefix)]
    assert len(found) > 3


async def test_names_follow_changes_of_a_class() -> None:
    class Changing(SMTP):
        """A server whose class changes."""

    server = Changing(Handler(), hostname="mx.test")
    usual = hooks.names(server, "auth_")
    for name in "auth_LATER", "auth_ANOTHER":
        # As many names as with the other one.
        setattr(Changing, name, print)
        assert hooks.names(server, "auth_") == sorted([*usual, name])
        delattr(Changing, name)


def test_no_class_is_kept_for_its_names() -> None:
    kind = type("Short", (Handler,), {"auth_LATER": print})
    assert hooks.names(kind(), "auth_") == ["auth_LATER"]
    gone = weakref.ref(kind)
    del kind
    # A class refers to itself.
    gc.collect()
    assert gone() is None


# find


def test_a_method_is_found() -> None:
    handler = Handler()
    assert hooks.find(handler, "handle_DATA") == handler.handle_DATA
    assert hooks.find(handler, "handle_MAIL") is None
    assert hooks.find(handler, "nothing") is None
    assert hooks.find(None, "handle_DATA") is None
    assert hooks.find(object(), "handle_DATA") is None


def test_an_attribute_of_the_instance_is_found() -> None:
    handler = Handler()
    vars(handler)["handle_MAIL"] = print
    assert hooks.find(handler, "handle_MAIL") is print


def test_a_method_replaced_on_the_class_is_found() -> None:
    class Changing(Handler):
        """Is changed below."""

    handler = Changing()
    assert hooks.find(handler, "handle_MAIL") is None
    Changing.handle_MAIL = lambda self: "250 OK"  # type: ignore[attr-defined]
    found = hooks.find(handler, "handle_MAIL")
    assert found is not None
    assert found() == "250 OK"


def test_a_module_or_a_class_may_be_a_handler() -> None:
    assert hooks.find(Handler, "handle_DATA") is Handler.handle_DATA
    assert hooks.find(threading, "get_ident") is threading.get_ident


def test_attributes_that_getattr_makes_up_are_not_hooks() -> None:
    handler = AnswersToAll()
    assert hooks.find(handler, "handle_DATA") == handler.handle_DATA
    assert hooks.find(handler, "handle_MAIL") is None
    vars(handler)["handle_MAIL"] = print
    assert hooks.find(handler, "handle_MAIL") is print


def test_mocks_have_the_hooks_that_they_were_given() -> None:
    handler = mock.Mock()
    assert hooks.find(handler, "handle_MAIL") is None
    handler.handle_MAIL = print
    assert hooks.find(handler, "handle_MAIL") is print
    specified = mock.Mock(spec=Handler)
    assert hooks.find(specified, "handle_DATA") is not None
    assert hooks.find(specified, "handle_MAIL") is None


# is_async


async def coroutine() -> str:
    return "250 OK"


def plain() -> str:
    return "250 OK"


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class AsyncCall:
    """Is called like a coroutine function."""

    async def __call__(self) -> str:
        return "250 OK"


class PlainCall:
    """Is called like a function."""

    def __call__(self) -> str:
        return "250 OK"


class Methods:
    """Has methods of all kinds."""

    async def method(self) -> str:
        return "250 OK"

    @classmethod
    async def of_class(cls) -> str:
        return "250 OK"

    @staticmethod
    async def static() -> str:
        return "250 OK"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (coroutine, True),
        (plain, False),
        (wrapped(coroutine), True),
        (wrapped(wrapped(coroutine)), True),
        (wrapped(plain), False),
        (functools.partial(coroutine), True),
        (functools.partial(plain), False),
        (AsyncCall(), True),
        (PlainCall(), False),
        (PlainCall, False),
        (Methods().method, True),
        (Methods.of_class, True),
        (Methods.static, True),
        (mock.AsyncMock(), True),
        (mock.Mock(), False),
        (print, False),
        (lambda: coroutine(), False),
    ],
)
async def test_coroutine_functions_are_recognized(
    function: Callable[[], Any], expected: bool
) -> None:
    assert hooks.is_async(function) is expected


# call


def here() -> int:
    return threading.get_ident()


async def here_async() -> int:
    return threading.get_ident()


async def test_a_coroutine_function_runs_in_the_loop() -> None:
    assert await hooks.call(object(), here_async) == here()
    assert await hooks.call(object(), functools.partial(here_async)) == here()


async def test_a_plain_function_runs_in_a_thread() -> None:
    assert await hooks.call(object(), here) != here()


async def test_with_sync_in_loop_a_plain_function_runs_in_the_loop() -> None:
    handler = Handler()
    vars(handler)["sync_in_loop"] = True
    assert await hooks.call(handler, here) == here()


@pytest.mark.parametrize("handler", [mock.Mock(), mock.Mock(sync_in_loop=1), None])
async def test_only_true_is_true(handler: Any) -> None:
    """A mock answers to ``sync_in_loop`` with a mock."""
    assert await hooks.call(handler, here) != here()


async def test_arguments_are_passed_and_results_returned() -> None:
    handler = Handler()
    assert (await hooks.call(handler, handler.handle_DATA, 1, "b")).startswith("250 async (1, 'b')")
    assert (await hooks.call(handler, handler.handle_RCPT, 1, "b")).startswith("250 plain (1, 'b')")


@pytest.mark.parametrize("sync_in_loop", [False, True])
async def test_an_awaitable_from_a_plain_function_is_awaited(sync_in_loop: bool) -> None:
    loop = asyncio.get_running_loop()
    handler = mock.Mock(sync_in_loop=sync_in_loop)
    done: Awaitable[str] = loop.create_future()
    done.set_result("250 from a future")  # type: ignore[attr-defined]
    assert await hooks.call(handler, lambda: done) == "250 from a future"
    assert await hooks.call(handler, lambda: coroutine()) == "250 OK"


async def test_a_plain_function_does_not_hold_the_loop() -> None:
    """The function waits for something that only the loop can do."""
    loop = asyncio.get_running_loop()
    event = threading.Event()

    def hook() -> bool:
        loop.call_soon_threadsafe(event.set)
        return event.wait(10)

    assert await hooks.call(object(), hook) is True


class Oops(Exception):
    """Raised by a hook."""


async def failing_async() -> None:
    raise Oops


def failing() -> None:
    raise Oops


@pytest.mark.parametrize("hook", [failing, failing_async])
@pytest.mark.parametrize("sync_in_loop", [False, True])
async def test_exceptions_pass(hook: Callable[[], Any], sync_in_loop: bool) -> None:
    with pytest.raises(Oops):
        await hooks.call(mock.Mock(sync_in_loop=sync_in_loop), hook)
