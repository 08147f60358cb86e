"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from pathlib import Path

from edgellm_core.memory import return_large_blocks

if sys.argv[1] == "returned":
    return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]


def block(size):
    address = libc.malloc(size)
    ctypes.memset(address, 1, size)
    return address


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


libc.free(block(16 << 20))  # glibc maps only larger ones from now on, unless it was told a size
before, large, small = resident(), [], []
for _ in range(20):
    large.append(block(8 << 20))
    small.append(block(64 << 10))
for address in large:
    libc.free(address)
print((resident() - before) >> 20)
"""


@pytest.mark.parametrize(("way", "most"), [("returned", 20), ("kept", 1000)])
def test_large_blocks_leave_the_process_when_they_are_freed(way, most):
    run = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
    left = int(run.stdout)
    assert left < most
    assert way == "returned" or left > 100  # without it they stay, so the test can fail
