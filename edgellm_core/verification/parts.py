"""The parts in which a model is compared: the embedding, its decoder layers, and the head, one or several at a time.

A *unit* is what is never cut: -1 is everything before the first decoder layer, 0 to depth - 1 are the layers, depth is
what follows the last one. So memory holds the weights of one part, whatever the size of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

EMBEDDING: Final = -1
"""The unit before the first decoder layer."""

PART_BYTES: Final = 2**28
"""Weights of a part in float32 where nothing else limits it. Smaller parts save memory; each one costs a session of
ONNX Runtime, about 20 ms."""

LARGE_TABLE: Final = 2**25
"""Elements from which a table is not held in memory: 128 MiB in float32."""

BLOCK_ROWS: Final = 8192
"""Rows of a head that are multiplied at a time."""


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring units.

    Attributes:
        start: first unit.
        stop: unit after the last.
    """

    start: int
    stop: int

    def __contains__(self, unit: int) -> bool:
        return self.start <= unit < self.stop

    def in_words(self, depth: int) -> str:
        """Return ``embedding to layer 3``, ``layer 4`` or ``layer 8 to head`` for a model of ``depth`` layers."""
        first, last = (_unit_in_words(unit, depth) for unit in (self.start, self.stop - 1))
        return first if first == last else f"{first} to {last}"


def _unit_in_words(unit: int, depth: int) -> str:
    return "embedding" if unit == EMBEDDING else "head" if unit == depth else f"layer {unit}"


def whole(depth: int) -> tuple[Part, ...]:
    """Return the whole model of ``depth`` layers as one part."""
    return (Part(EMBEDDING, depth + 1),)


def plan_parts(unit_bytes: Sequence[int], *, largest: int = PART_BYTES) -> tuple[Part, ...]:
    """Return as few parts as possible, each of one unit or of at most ``largest`` bytes.

    The embedding, of which a few rows are read, belongs to the first decoder layer's part.

    Args:
        unit_bytes: for each unit, from the embedding to the head, the bytes of its weights.
        largest: most bytes of a part of several units.
    """
    parts = [Part(EMBEDDING, EMBEDDING + 2)]
    held = unit_bytes[0] + unit_bytes[1]
    for unit, size in enumerate(unit_bytes[2:], EMBEDDING + 2):
        if held + size <= largest:
            parts[-1] = Part(parts[-1].start, unit + 1)
            held += size
        else:
            parts.append(Part(unit, unit + 1))
            held = size
    return tuple(parts)
