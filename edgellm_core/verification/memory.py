"""Gives memory back to the system between the original and the graph, so that both never count at once."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def free_weights(model: nn.Module) -> None:
    """Empty a model that is used no more.

    Its modules sit in reference cycles, so its weights would wait for the garbage collector, and a full collection
    takes 0.25 s with torch and transformers loaded.
    """
    import torch

    for parameter in model.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype)
    release_memory()


def release_memory() -> None:
    """Return freed heap pages to the kernel, where the C library can do that.

    Source: glibc ``malloc_trim(3)``; freed tensors otherwise stay in the heap and in the resident set.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
