"""The worker threads of an outlet."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from contextvars import ContextVar

import pytest

from aiosmtpd.delivery.outlets.workers import Workers


async def test_threads_are_used_again() -> None:
    workers = Workers("test")
    threads = {await workers.run(threading.current_thread) for _ in range(20)}
    assert len(threads) < 5
    workers.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert await workers.run(threading.current_thread) not in threads
    workers.close()


async def test_each_call_has_a_thread() -> None:
    workers = Workers("test")
    barrier = threading.Barrier(30)
    async with asyncio.timeout(60):
        await asyncio.gather(*(workers.run(barrier.wait) for _ in range(30)))
    workers.close()


async def test_exceptions_and_context_pass() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")
    variable.set("seen")
    workers = Workers("test")
    assert await workers.run(variable.get) == "seen"
    with pytest.raises(SystemExit):
        await workers.run(sys.exit, 3)
    with pytest.raises(ZeroDivisionError):
        await workers.run(divmod, 1, 0)
    workers.close()


async def test_the_end_of_an_iterator_passes_too() -> None:
    workers = Workers("test")
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match=r"StopIteration\(\)") as caught:
            await workers.run(next, iter([]))
    assert isinstance(caught.value.__cause__, StopIteration)
    workers.close()


async def test_a_system_without_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers, calls = Workers("test"), list[int]()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="start new thread"):
            await workers.run(calls.append, 1)
    await workers.run(calls.append, 2)
    await workers.run(calls.append, 3)
    assert calls == [2, 3]
    workers.close()


async def test_an_idle_thread_keeps_nothing() -> None:
    class Message:
        pass

    workers = Workers("test")
    message = Message()
    gone = weakref.ref(message)
    await workers.run(lambda one: None, message)
    await workers.run(int)
    del message
    gc.collect()
    assert gone() is None
    workers.close()


def test_a_hanging_function_does_not_keep_the_process() -> None:
    code = """if 1:
        import asyncio, threading
        from aiosmtpd.delivery.outlets.python import PythonOutlet
        async def main():
            started = asyncio.Event()
            def hang(mail):
                loop.call_soon_threadsafe(started.set)
                threading.Event().wait()
            loop = asyncio.get_running_loop()
            outlet = PythonOutlet(hang)
            from aiosmtpd.delivery.item import Arrival, Item
            item = Item(
                id="i", sender="a", recipients=("b",), arrival=Arrival(), size=0, content=b""
            )
            task = asyncio.create_task(outlet.put(item))
            await started.wait()
            task.cancel()
            await outlet.close()
        asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
