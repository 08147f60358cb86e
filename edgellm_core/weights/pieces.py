"""The parts of sources that make an initializer, in the order in which they are written."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgellm_core.checkpoint.tensors import TensorEntry
    from edgellm_core.weights.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring elements of one source.

    Attributes:
        entry: the source.
        first: flat index of the first of them.
        count: how many there are.
    """

    entry: TensorEntry
    first: int
    count: int


def pieces_of(recipe: Recipe, entries: Sequence[TensorEntry]) -> Iterator[Piece]:
    """Yield whole sources, or for a stack whose rows are reordered the runs of rows that stay together."""
    if not recipe.stack_order:
        for entry in entries:
            yield Piece(entry, 0, math.prod(entry.shape))
        return
    items, rows, *rest = recipe.shape
    size = math.prod(rest)
    ends = list(accumulate(math.prod(entry.shape) // size for entry in entries))
    for item in range(items):
        for first, count in _runs(recipe.stack_order):
            yield from _located(entries, ends, item * rows + first, count, size)


def _runs(order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first row and length of each run of ascending neighbours."""
    start = 0
    for place in range(1, len(order) + 1):
        if place == len(order) or order[place] != order[place - 1] + 1:
            yield order[start], place - start
            start = place


def _located(entries: Sequence[TensorEntry], ends: Sequence[int], row: int, count: int, size: int) -> Iterator[Piece]:
    """Yield where rows of all sources, one under the other, lie.

    Args:
        entries: the sources.
        ends: rows of each source and of those before it.
        row: the first one.
        count: how many.
        size: elements of a row.
    """
    while count:
        source = bisect.bisect_right(ends, row)
        begin = ends[source - 1] if source else 0
        taken = min(count, ends[source] - row)
        yield Piece(entries[source], (row - begin) * size, taken * size)
        row, count = row + taken, count - taken
