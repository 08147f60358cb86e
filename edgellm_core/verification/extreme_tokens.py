"""The tokens whose embedding is extreme: large, small, lopsided, or along what layers amplify.

The embedding table is read once, in chunks. Norms and single channels show tokens that are extreme by themselves; an
embedding of ordinary size and shape can still point where a weight of a layer is large, so the shares along those
directions are measured too. What is amplified only after layers mixed the token with its context is left to the text.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final, Protocol

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTREMES: Final = 48
"""Tokens that are kept for each measure of size and shape, and for all directions together."""

EACH: Final = 2
"""Tokens that are kept for each direction besides."""

SMALL_VOCABULARY: Final = 512
"""Up to so many tokens all are kept."""

CHUNK_BYTES: Final = 4 << 20
"""Bytes of a table or weight in float32 that are held at a time: what stays in a cache is read four times as fast."""

DIRECTIONS: Final = 2
"""Directions of each weight behind each norm."""

LARGE_ROWS: Final = 512
"""Rows of a weight that its directions are found from: those with the largest norms."""

ITERATIONS: Final = 8
"""Steps of the subspace iteration: a direction that is amplified twice as much as the rest stands out 65,000-fold."""


class Table(Protocol):
    """Rows of a tensor, or of a slice of a safetensors file (``get_slice``)."""

    def __getitem__(self, index: slice, /) -> torch.Tensor:
        """Return rows ``[start:end]`` as a tensor [rows, hidden]."""
        ...


def extreme_tokens(table: Table, shape: tuple[int, int], directions: torch.Tensor | None = None) -> list[int]:
    """Return the tokens whose embedding is extreme by some measure; one may come twice.

    Measures: the largest and the smallest norm, few channels that stand out (the fourth moment by the square of the
    second, which is 1 for one channel alone), and the share of the embedding along each of ``directions``.

    Args:
        table: the embedding.
        shape: of the table, [vocabulary, hidden].
        directions: float32 [count, hidden] of length 1, see :func:`amplified_directions`.
    """
    if shape[0] <= SMALL_VOCABULARY:
        return list(range(shape[0]))
    measured = torch.cat([_measure(rows, directions) for rows in _chunks(table, shape)], dim=1)
    sizes, shares = measured[:3], measured[3:]
    best = [values.topk(EXTREMES).indices for values in sizes]
    if len(shares):
        best.append(shares.amax(0).topk(EXTREMES).indices)
        best += [values.topk(EACH).indices for values in shares]
    return [int(token) for token in torch.cat(best)]


def _chunks(table: Table, shape: tuple[int, int]) -> Iterator[torch.Tensor]:
    """Yield rows in float32, each time in the same memory."""
    vocab, hidden = shape
    step = max(1, min(vocab, CHUNK_BYTES // (4 * hidden)))
    buffer = torch.empty(step, hidden)
    for start in range(0, vocab, step):
        end = min(vocab, start + step)
        yield buffer[: end - start].copy_(table[start:end])


def _measure(rows: torch.Tensor, directions: torch.Tensor | None) -> torch.Tensor:
    """Return float32 [measures, rows]."""
    norm = torch.linalg.vector_norm(rows, dim=1)
    whole = norm.clamp(min=torch.finfo(torch.float32).tiny)
    shares = [] if directions is None else list((directions @ rows.T).abs() / whole)
    lopsided = torch.linalg.vector_norm(rows.square_(), dim=1) / whole.square()
    return torch.stack([norm, -norm, lopsided, *shares])


def amplified_directions(layer: nn.Module, hidden: int) -> torch.Tensor:
    """Return the directions of its input that the weights of a layer amplify most, float32 [count, hidden].

    Which norm comes before which weight is not known, so each weight is taken behind each.

    Args:
        layer: a decoder layer with its weights: the first, where the residual still is the embedding, or any.
        hidden: width of its input.
    """
    scales = _norm_scales(layer, hidden) or [torch.ones(hidden)]
    found = []
    with torch.no_grad():
        for weight in layer.parameters():
            if weight.dim() > 1 and weight.shape[-1] == hidden and weight.is_floating_point():
                rows = weight.reshape(-1, hidden)
                found += [
                    _leading(rows, kept, scale) for scale, kept in zip(scales, _large_rows(rows, scales), strict=True)
                ]
    return torch.cat(found) if found else torch.zeros(0, hidden)


def _norm_scales(layer: nn.Module, hidden: int) -> list[torch.Tensor]:
    """Return what each norm of the hidden states multiplies the channels by, which some store as ``weight - 1``."""
    signs = torch.ones(hidden)
    signs[1::2] = -1  # mean 0 and mean square 1, so that every kind of norm leaves it as it is
    norms = [
        part
        for part in layer.modules()
        if [tuple(parameter.shape) for parameter in part.parameters()] in ([(hidden,)], [(hidden,)] * 2)
        and len(inspect.signature(part.forward).parameters) == 1  # gated ones take two
    ]
    with torch.no_grad():
        return [norm(signs).abs() for norm in norms]


def _large_rows(rows: torch.Tensor, scales: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return, for each scale of the channels, the indices of the rows that are largest behind it."""
    squared = torch.stack(scales).square().T
    sizes = torch.cat([chunk.square_() @ squared for chunk in _chunks(rows, (rows.shape[0], rows.shape[1]))])
    return list(sizes.topk(min(LARGE_ROWS, len(rows)), dim=0).indices.T)


def _leading(rows: torch.Tensor, kept: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the inputs that these rows amplify most, float32 [``DIRECTIONS``, hidden], by subspace iteration."""
    large = rows[kept].float() * scale
    basis = large[:DIRECTIONS].T
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(large.T @ (large @ basis)).Q
    return basis.T
