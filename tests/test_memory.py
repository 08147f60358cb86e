"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from pathlib import Path

from edgellm_core.memory import M_MMAP_THRESHOLD, return_large_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # what glibc comes to by itself once a block of 32 MiB was freed
if sys.argv[1] == "returned":
    return_large_blocks()


def is_mapped(address):
    ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)


large, small = [], []
for _ in range(20):
    large.append(libc.malloc(8 << 20))
    small.append(libc.malloc(64 << 10))
for address in large:
    libc.free(address)
print(sum(map(is_mapped, large)))
"""


@pytest.mark.parametrize(("way", "fewest", "most"), [("returned", 0, 2), ("kept", 15, 20)])
def test_large_blocks_leave_the_process_when_they_are_freed(way, fewest, most):
    """Looks at the mappings: what the kernel counts as resident differs between machines and sandboxes."""
    run = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
    assert fewest <= int(run.stdout) <= most
