"""Attention masks: classified by evaluating the model's mask function on small numbers, not by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from edgellm_core.tracing import operators

if TYPE_CHECKING:
    from edgellm_core.tracing.attention import TraceContext

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_DENSE_LIMIT = 512
"""Windows up to this size are compared on every pair of positions, larger ones around their edges."""


@dataclass(frozen=True, slots=True)
class MaskKind:
    """What a mask allows: keys at or before the query, in its window, in its chunk."""

    causal: bool
    window: int = 0
    chunk: int = 0

    def evaluate(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return ``[queries, keys]`` booleans for positions ``query`` and ``key`` (1-D)."""
        q, k = query[:, None], key[None]
        allowed = torch.ones(len(query), len(key), dtype=torch.bool)
        if self.causal:
            allowed &= k <= q
        if self.window:
            allowed &= k > q - self.window
        if self.chunk:
            allowed &= k // self.chunk == q // self.chunk
        return allowed


def classify_mask(function: MaskFunction, size: int | None) -> MaskKind | None:
    """Return the kind of an index-based mask function, or None if it is none of the known ones.

    Args:
        function: transformers' ``mask_function(batch, head, query, key)``.
        size: window or chunk size that the model announces; None for none.
    """
    if _closes_over_tensor(function, set()):
        return None
    with _disable_current_modes():
        queries, keys = _probe_positions(size or 0)
        zero = torch.zeros((1, 1, 1, 1), dtype=torch.long)
        found = function(zero, zero, queries[None, None, :, None], keys[None, None, None, :])
        allowed = found.expand(1, 1, len(queries), len(keys))[0, 0]
        kinds = [MaskKind(causal=True), MaskKind(causal=False)]
        if size:
            kinds += [MaskKind(causal=True, window=size), MaskKind(causal=True, chunk=size)]
        return next((kind for kind in kinds if torch.equal(allowed, kind.evaluate(queries, keys))), None)


def _probe_positions(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    if size <= _DENSE_LIMIT:
        positions = torch.arange(4 * size + 9 if size else 64)
        return positions, positions
    edges = [0, 1, 5, size - 1, size, size + 1, 2 * size, 2 * size + 3, 3 * size + 1]
    return torch.tensor(edges), torch.arange(3 * size + 3)


def _closes_over_tensor(function: Any, seen: set[int]) -> bool:
    if id(function) in seen:
        return False
    seen.add(id(function))
    for cell in getattr(function, "__closure__", None) or ():
        contents = cell.cell_contents
        items = contents if isinstance(contents, (tuple, list)) else (contents,)
        if any(
            isinstance(item, torch.Tensor) or (callable(item) and _closes_over_tensor(item, seen)) for item in items
        ):
            return True
    return False


def boolean_mask(context: TraceContext, **arguments: Any) -> torch.Tensor:
    """Stand in for transformers' ``sdpa_mask``: record one mask operator where the kind is known.

    Args:
        context: the inputs of the running trace.
        arguments: what ``masking_utils`` passes by keyword.

    Returns:
        Boolean ``[batch, 1, seq, past + seq]``, True = attend.
    """
    kind = classify_mask(arguments["mask_function"], arguments.get("local_size"))
    if kind is None:
        return _materialised(context, arguments)
    return operators.attention_mask(
        context.valid, context.input_ids, causal=kind.causal, window=kind.window, chunk=kind.chunk
    )


def _materialised(context: TraceContext, arguments: dict[str, Any]) -> torch.Tensor:
    """Compute the mask with transformers' own function, and let every position attend to itself."""
    from transformers.masking_utils import sdpa_mask

    passed = {**arguments, "allow_is_causal_skip": False, "allow_torch_fix": False}
    mask: Any = sdpa_mask(**passed)
    itself = operators.attention_mask(context.valid, context.input_ids, causal=True, window=1, chunk=0)
    joined: torch.Tensor = mask | itself
    return joined


def additive_mask(context: TraceContext, **arguments: Any) -> torch.Tensor:
    """Stand in for transformers' ``eager_mask``: 0 where allowed, the type's lowest number elsewhere."""
    dtype = arguments.pop("dtype", torch.float32)
    mask = boolean_mask(context, **arguments)
    return torch.where(mask, torch.zeros((), dtype=dtype), torch.finfo(dtype).min)
