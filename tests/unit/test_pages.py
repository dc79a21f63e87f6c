"""Messages of 1 MB take no new pages."""

import platform
import subprocess
import sys

import pytest

GROW = """
import resource
from aiosmtpd.engine.body import _store

read = bytearray(131_072)

def message(sizes):
    store = _store()
    for size in sizes:
        # It lies above the block of the store, which has to move when it grows.
        piece = bytes(memoryview(read)[:size])
        store.write(piece)
    return store.getvalue()

def faults(number):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(number):
        message(SIZES)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(5)
print(faults(20) / 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems keep other pages")
@pytest.mark.parametrize("sizes", [[131_072] * 7 + [82_521], [98_304] * 9 + [115_264]])
def test_a_message_takes_no_new_pages(sizes: list[int]) -> None:
    code = GROW.replace("SIZES", str(sizes))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50
