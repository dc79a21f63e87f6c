"""Messages of 1 MB take no new pages."""

import platform
import subprocess
import sys

import pytest

GROW = """
import resource
from aiosmtpd.engine.body import _store

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def message():
    # The second piece lies above the block, so that the block has to move, and grows by an eighth.
    store = _store()
    store.write(bytes(900_000))
    piece = bytes(80_000)
    store.write(piece)
    return store.getvalue()

for _ in range(5):
    message()
before = faults()
for _ in range(20):
    message()
print((faults() - before) / 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems keep other pages")
def test_a_message_takes_no_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50
