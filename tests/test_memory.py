"""Freed memory stays with the process, so that the kernel does not zero the same pages again and again."""

import ctypes
import os
import subprocess
import sys

import pytest

from ladle.memory import keep_freed_memory, return_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from ladle.memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
np.ones(4_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HELD = """
import os
from pathlib import Path
from ladle.memory import keep_freed_memory, return_freed_memory

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

keep_freed_memory()
before = megabytes()
blocks = [bytearray(b"x" * 1_000_000) for _ in range(400)]
blocks = blocks[::8]
free = megabytes() - before
returned = return_freed_memory()
print(free, megabytes() - before, returned)
"""


def glibc() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def printed(script: str, *arguments: str) -> list[str]:
    """The words that a new process with glibc's own allocator prints."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.split()


def faults(how: str) -> int:
    return int(*printed(FAULTS, how))


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
def test_blocks_of_many_megabytes_are_used_again():
    assert faults("kept") < 0.1 * faults("given back")


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
def test_free_pages_between_blocks_in_use_go_back_to_the_system():
    """50 of 400 megabytes are in use."""
    kept, held, returned = printed(HELD)
    assert float(kept) > 350
    assert 45 < float(held) < 100
    assert returned == "True"


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_nothing_is_done_elsewhere(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the C library was asked"))
    assert keep_freed_memory() is return_freed_memory() is False


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is return_freed_memory() is False
