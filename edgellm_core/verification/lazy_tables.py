"""Large tables outside of the decoder layers, of which a forward needs a few rows, or one block of rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE_TABLE: Final = 2**25
"""Elements from which a table is not held in memory: 128 MiB in float32."""

BLOCK_ROWS: Final = 8192
"""Rows of a head that are multiplied at a time."""


def give_rows(embedding: nn.Embedding, table: torch.Tensor, convert: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Let an embedding read the rows that it is asked for, before it is asked.

    Its weight becomes zeros, of which the operating system holds no page until it is written.

    Args:
        embedding: changed in place; any subclass.
        table: ``[rows, width]`` as the checkpoint has it, mapped into memory.
        convert: what becomes of stored rows.

    Returns:
        The handle that undoes the reading.
    """
    dtype = convert(table[:1]).dtype
    # numpy takes zeros from calloc; those of torch are written, and so resident
    zeros = torch.from_numpy(np.zeros(table.numel() * dtype.itemsize, np.uint8)).view(dtype).reshape(table.shape)
    embedding.weight = nn.Parameter(zeros, requires_grad=False)
    present = torch.zeros(table.shape[0], dtype=torch.bool)

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        wanted = arguments[0].unique()
        wanted = wanted[~present[wanted]]
        if len(wanted):
            module.weight.data[wanted] = convert(table[wanted])  # type: ignore[operator]
            present[wanted] = True

    return embedding.register_forward_pre_hook(before)


def multiply_by_rows(head: nn.Linear, table: torch.Tensor, convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let a head multiply by one block of its rows at a time.

    Args:
        head: changed in place: it gets a forward of its own, which ``del head.forward`` undoes.
        table: ``[rows, width]`` as the checkpoint has it, mapped into memory.
        convert: what becomes of stored rows.
    """

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        blocks = range(0, table.shape[0], BLOCK_ROWS)
        found = [nn.functional.linear(hidden, convert(table[start : start + BLOCK_ROWS])) for start in blocks]
        logits = torch.cat(found, -1)
        return logits if head.bias is None else logits + head.bias

    head.forward = forward  # type: ignore[method-assign, assignment]
