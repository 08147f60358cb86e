"""Which pages of the KV pool hold which tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

PAGE_TOKENS: Final = 128
"""Tokens of a page."""

Table = np.ndarray[Any, np.dtype[np.int32]]


@dataclass
class Pages:
    """Pages of some sequences, handed out so that neighbours in a sequence are no neighbours in the pool.

    Keys and values of the same tokens lie in pages of different numbers too: a graph that ignores the table fails.

    Attributes:
        sequences: number of sequences.
        count: pages of each plane of the pool.
        owned: for each sequence the pages of its keys, and of its values, in order.
    """

    sequences: int
    count: int = 0
    owned: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owned = [([], []) for _ in range(self.sequences)]

    def reserve(self, lengths: list[int]) -> None:
        """Let sequence i hold ``lengths[i]`` tokens."""
        needed = [-(-length // PAGE_TOKENS) for length in lengths]
        missing = [(i, n - len(self.owned[i][0])) for i, n in enumerate(needed)]
        wanted = [index for index, count in missing for _ in range(count)]
        if not wanted:
            return
        fresh = list(range(self.count, self.count + len(wanted) + 1))  # one page more stays unused
        self.count += len(fresh)
        for number, index in enumerate(wanted):
            self.owned[index][0].append(fresh[-1 - number])
            self.owned[index][1].append(fresh[number])

    def table(self) -> Table:
        """Return int32 ``[sequences, 2, pages]``: pages of the keys, and of the values counted after all key pages."""
        longest = max(len(keys) for keys, _ in self.owned)
        table = np.zeros((self.sequences, 2, longest), np.int32)
        table[:, 1] = self.count
        for row, (keys, values) in zip(table, self.owned, strict=True):
            row[0, : len(keys)] = keys
            row[1, : len(values)] = np.array(values) + self.count
        return table
