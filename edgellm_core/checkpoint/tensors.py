"""Where each tensor of a checkpoint lies: names, types, shapes and byte ranges; never the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """One tensor of a safetensors file.

    Attributes:
        name: name in the checkpoint.
        element_type: safetensors' spelling, for example ``F16`` or ``BF16``.
        shape: dimensions; ``()`` for a scalar.
        file: the safetensors file.
        offset: first byte of the data in ``file``.
        nbytes: bytes of the data.
    """

    name: str
    element_type: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


TensorIndex = Mapping[str, TensorEntry]
"""All tensors of a checkpoint by name."""
