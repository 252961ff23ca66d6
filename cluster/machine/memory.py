"""Has the C library keep the memory that large arrays leave, for the next ones of the same size.

Left alone, glibc gives it back to the system with each array and asks for blank pages anew with the next: in a process
that mixes a sixth of all its time, in one that trains on a CPU three to ten percent.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGE_BYTES = 2**30


@functools.cache
def keep_freed_memory() -> None:
    """Of this process, from now on; its memory then stays at the most that it ever needed. Elsewhere than on glibc
    nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
