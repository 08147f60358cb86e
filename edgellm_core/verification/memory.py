"""Gives memory back to the system between the original and the graph, so that both never count at once."""

from __future__ import annotations

import ctypes
import gc


def release_memory() -> None:
    """Collect garbage and return freed heap pages to the kernel, where the C library can do that.

    Source: glibc ``malloc_trim(3)``; freed tensors otherwise stay in the heap and in the resident set.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
