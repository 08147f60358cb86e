"""Large tables outside of the decoder layers, of which a forward needs a few rows, or one block of rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from edgellm_core.verification.parts import BLOCK_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable


class Rows(Protocol):
    """A table ``[rows, width]`` that lies in a file."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        ...

    def __getitem__(self, index: slice, /) -> torch.Tensor:
        """Return rows ``[start:stop]`` as they are stored."""
        ...


def give_rows(embedding: nn.Embedding, table: Rows, convert: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Let an embedding read the rows that it is asked for, before it is asked.

    Its weight becomes zeros, of which the operating system holds no page until it is written.

    Args:
        embedding: changed in place; any subclass.
        table: as the checkpoint has it.
        convert: what becomes of stored rows.

    Returns:
        The handle that undoes the reading.
    """
    rows, width = table.shape
    dtype = convert(table[:1]).dtype
    # numpy takes zeros from calloc; those of torch are written, and so resident
    zeros = torch.from_numpy(np.zeros(rows * width * dtype.itemsize, np.uint8)).view(dtype).reshape(rows, width)
    embedding.weight = nn.Parameter(zeros, requires_grad=False)
    present = torch.zeros(rows, dtype=torch.bool)

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        wanted = arguments[0].unique()  # sorted
        wanted = wanted[~present[wanted]]
        for block in (wanted // BLOCK_ROWS).unique().tolist():
            start = block * BLOCK_ROWS
            own = wanted[wanted // BLOCK_ROWS == block]
            module.weight.data[own] = convert(table[start : start + BLOCK_ROWS][own - start])  # type: ignore[operator]
        present[wanted] = True

    return embedding.register_forward_pre_hook(before)


def multiply_by_rows(head: nn.Linear, table: Rows, convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let a head multiply by one block of its rows at a time.

    Args:
        head: changed in place: it gets a forward of its own, which ``del head.forward`` undoes.
        table: as the checkpoint has it.
        convert: what becomes of stored rows.
    """

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        logits = hidden.new_empty(*hidden.shape[:-1], table.shape[0])
        for start in range(0, table.shape[0], BLOCK_ROWS):
            rows = convert(table[start : start + BLOCK_ROWS])
            logits[..., start : start + len(rows)] = nn.functional.linear(hidden, rows)
        return logits if head.bias is None else logits.add_(head.bias)

    head.forward = forward  # type: ignore[method-assign, assignment]
