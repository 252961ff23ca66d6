"""The memory of large arrays is used again instead of being asked for anew."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a thread, as Ray Train runs the loop: glibc gives threads memory of their own.
_COUNT_BLANK_PAGES = """
import resource, sys, threading
from cluster.machine.memory import keep_freed_memory

def work():
    if sys.argv[1] == "keep":
        keep_freed_memory()
    for turn in range(20):
        if turn == 4:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        large = [b"1" * (size << 20) for size in (40, 3, 8)]
        del large
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_large_arrays_take_no_blank_pages_once_the_first_were_freed() -> None:
    pages = {
        way: int(subprocess.check_output([sys.executable, "-c", _COUNT_BLANK_PAGES, way], timeout=240))
        for way in ("keep", "plain")
    }
    assert pages["plain"] > 16 * (40 << 20) / 4096 / 2  # else there would be nothing to gain
    assert pages["keep"] < pages["plain"] / 50
