"""Gives a twin short lengths in the place of long ones, and plans what runs on both sides of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from edgellm_core.verification.cases import Case
from edgellm_core.verification.twin.thresholds import with_number, with_scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.verification.twin.sizes import Fields
    from edgellm_core.verification.twin.thresholds import Threshold

SHORTEST: Final = 9
"""Length that stands for the first threshold: longer than a convolution's kernel, and no number of heads or experts."""

FARTHEST: Final = 40
"""Thresholds up to here are run as they are."""

PLAIN_LENGTH: Final = 48
"""Longest prompt where the config names no length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """A threshold and the length that stands for it in the twin.

    Attributes:
        threshold: what the config states.
        length: the twin's.
    """

    threshold: Threshold
    length: int

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that are run: around the edge, and past a second one where there are several (chunks, blocks)."""
        return (self.length - 1, self.length, self.length + 1, 2 * self.length + 1)

    def __str__(self) -> str:
        shrunk = "" if self.length == self.threshold.value else f", {self.length} in the twin"
        return f"{self.threshold.name} ({self.threshold.value}{shrunk})"


def shorten(fields: Fields, thresholds: Sequence[Threshold]) -> tuple[Fields, list[Edge]]:
    """Replace the long lengths of a config by short ones in the same order.

    Args:
        fields: the shrunk config.
        thresholds: its lengths, ascending.

    Returns:
        The config, and the edges, ascending.
    """
    edges: list[Edge] = []
    for threshold in thresholds:
        least = edges[-1].length + 4 if edges else SHORTEST
        length = threshold.value if threshold.value <= max(FARTHEST, least) else least
        if edges and length <= edges[-1].length:
            length = least
        edges.append(Edge(threshold=threshold, length=length))
    for edge in reversed(edges):  # the largest first: a context is scaled with the smallest
        if edge.length != edge.threshold.value:
            replaced = with_scaled if edge.threshold.scales else with_number
            fields = replaced(fields, edge.threshold.paths, edge.threshold.value, edge.length)
    return fields, edges


def plan_lengths(edges: Sequence[Edge], *, vocabulary: int, one_token: bool) -> list[Case]:
    """Return the cases, shortest prompts first: whole, in chunks, token by token, padded; each ends with single tokens.

    Args:
        edges: the lengths of the config.
        vocabulary: token ids are below this.
        one_token: the graph takes one token a step, so the original does too: the code that transformers has for
            several at once can round otherwise (Nemotron-H and Zamba2 differ by 1e-4 from their own steps).
    """
    text = tuple(distinct_tokens(4 * max([PLAIN_LENGTH, *_all(edges)]), vocabulary=vocabulary, seed=7))
    whole = sorted(set(_all(edges)) | {PLAIN_LENGTH})
    cases = [_case("read whole", [text[: length + 2]], (length, 1, 1)) for length in whole]
    for length in [edge.length for edge in edges] or [PLAIN_LENGTH // 2]:
        total = 2 * length + 3
        if not one_token:
            chunks = (length - 2, 4, total - length - 2, 1, 1)
            cases.append(_case("read in chunks", [text[: total + 2]], chunks))
        first = max(0, length - 3)
        cases.append(_case("read token by token", [text[: length + 4]], (first, *[1] * (length + 4 - first))))
        short = [text[:length], text[5 : 5 + length + 5]]
        cases.append(_case("padded batch", short, (length + 3, 1, 1)))
        cases.append(_case("padded batch", [text[: length + 1], text[3 : 5 + total]], (total, 1, 1)))
    longest = whole[-1]
    cases.append(_case("read token by token", [text[:longest]], (1,) * longest))
    return [replace(case, chunks=(1,) * sum(case.chunks)) for case in cases] if one_token else cases


def distinct_tokens(count: int, *, vocabulary: int, seed: int) -> list[int]:
    """Return token ids, none of them twice while there are enough.

    Equal tokens may be equal keys, and which of those a ``topk`` keeps is nobody's promise: where the code of a model
    keeps the largest keys, what it computes with equal tokens is undetermined.
    """
    tokens = np.random.default_rng(seed).permutation(np.arange(3, vocabulary))
    return [int(token) for token in np.resize(tokens, count)]


def _all(edges: Sequence[Edge]) -> list[int]:
    return [length for edge in edges for length in edge.lengths]


def _case(name: str, rows: Sequence[tuple[int, ...]], chunks: tuple[int, ...]) -> Case:
    return Case(name=name, prompts=tuple(range(len(rows))), rows=tuple(rows), chunks=tuple(filter(None, chunks)))
