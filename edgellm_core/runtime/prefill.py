"""Feeding several tokens to a graph that takes one token a step (recurrent models)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    Ids = np.ndarray[Any, np.dtype[np.int64]]


def step_size(shape: Any) -> int | None:
    """Return how many tokens a step takes, from the shape of ``input_ids`` in the graph; None for any number."""
    return shape[1] if isinstance(shape[1], int) else None


def split_steps(input_ids: Ids, attention_mask: Ids, position_ids: Ids, size: int | None) -> Iterator[tuple[Ids, ...]]:
    """Yield the inputs of the steps that together read what one step would.

    Args:
        input_ids: int64 [batch, seq].
        attention_mask: int64 [batch, past + seq].
        position_ids: int64 [batch, seq].
        size: tokens of a step, a divisor of seq; None for one step.

    Yields:
        Ids [batch, size], mask [batch, past + tokens so far] and positions [batch, size].
    """
    seq = input_ids.shape[1]
    past = attention_mask.shape[1] - seq
    size = size or seq
    for start in range(0, seq, size):
        end = start + size
        yield input_ids[:, start:end], attention_mask[:, : past + end], position_ids[:, start:end]
