"""Freed memory under glibc: kept while one thing is done, which halves the time of a training on a CPU, and given back
to the system before the next."""

import ctypes
import sys
from typing import Any

# From glibc's malloc.h: parameters of `mallopt`.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks for the next use. Returns whether glibc agreed. Other systems are left alone.

    By default glibc returns each large block (activations, logits) to the kernel when it is freed, and the kernel
    zeroes every page again: 11 training steps take the time of 26 (benchmarks/LOG.md). The setting holds for the whole
    process. An allocator that was loaded in place of glibc's (tcmalloc, jemalloc) is not changed.
    """
    mallopt = _of_c_library("mallopt")
    if mallopt is None:
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 << 20}
    agreed = [mallopt(name, value) == 1 for name, value in settings.items()]  # (each is asked)
    return all(agreed)


def return_freed_memory() -> bool:
    """Give the system all pages that hold nothing. Returns whether there were any. Other systems are left alone.

    Kept blocks lie between blocks in use, and batches of other shapes do not fit into them. Without this call a process
    that trained three systems in turn held 13.5 GB, most of it free (benchmarks/LOG.md). It costs
    milliseconds. Python's collector is not called, as it takes a third of a second: a caller that lets much go calls it
    first.
    """
    trim = _of_c_library("malloc_trim")
    return trim is not None and trim(0) == 1


def _of_c_library(function: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), function)
    except (AttributeError, OSError):  # musl, say
        return None
