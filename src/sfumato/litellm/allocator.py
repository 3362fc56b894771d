"""What glibc's allocator does with a picture's memory in LiteLLM's process."""

from __future__ import annotations

import ctypes
import os
import sys

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Pieces of pictures have 256 KB. What is larger goes back to the kernel: kept in each thread's arena it would add up.
_TRIM_BYTES, _MMAP_BYTES = 256 * 1024 * 1024, 1024 * 1024
# Whoever sets one of these has decided.
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Let the allocator keep what pictures used for the next ones; tell whether it does.

    Left to itself it may give a picture's memory back to the kernel and fault it in again, thousands of times per
    picture: 25 ms of CPU at 20 MB in place of 17, on some starts and not on others (2026-11-22). It does nothing where
    there is no glibc, or where the environment says what to do.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES) and mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
    )
