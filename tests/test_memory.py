"""Freed memory stays with the process, so that the kernel does not zero the same pages again and again."""

import ctypes
import os
import subprocess
import sys

import pytest

from ladle.cli.allocator import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from ladle.cli.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
np.ones(4_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def glibc() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def faults(how: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, env=environment, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
def test_blocks_of_many_megabytes_are_used_again():
    assert faults("kept") < 0.1 * faults("given back")


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_nothing_is_done_elsewhere(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the C library was asked"))
    assert keep_freed_memory() is False


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
