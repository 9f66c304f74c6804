"""Memory that stays with the process: half of a training's time on a CPU, where the C library is glibc."""

import ctypes
import sys

# From glibc's malloc.h: parameters of `mallopt`.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks for the next use; whether it agreed. Nothing happens on other systems.

    By default it takes each large block (activations, logits) from the kernel and gives it back at once, and the kernel
    zeroes every page again: 11 training steps in the time of 26 (benchmarks/LOG.md). It holds for the whole process.
    Another allocator that was loaded before it (tcmalloc, jemalloc) stays as it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl, say
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 << 20}
    agreed = [mallopt(name, value) == 1 for name, value in settings.items()]  # (each is asked)
    return all(agreed)
