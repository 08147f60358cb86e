"""Attention masks: classified by evaluating the model's mask function on small numbers, not by its name."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
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
    contents = list(_captured(function, set()))
    if any(isinstance(item, torch.Tensor) for item in contents):
        return None
    sizes = {size or 0, *(item for item in contents if type(item) is int)}
    kinds = [MaskKind(causal=True), MaskKind(causal=False)]
    kinds += [MaskKind(causal=True, **{part: n}) for n in sorted(sizes) if n > 0 for part in ("window", "chunk")]
    with _disable_current_modes():
        return next((kind for kind in kinds if all(_agrees(function, kind, max(n, 0)) for n in sizes)), None)


def _agrees(function: MaskFunction, kind: MaskKind, size: int) -> bool:
    """Say whether a function is of this kind at the positions that matter for a window or chunk of ``size``."""
    queries, keys = _probe_positions(size)
    batch, head = torch.arange(2)[:, None, None, None], torch.arange(3)[None, :, None, None]
    try:
        found = function(batch, head, queries[None, None, :, None], keys[None, None, None, :])
        allowed = found.expand(2, 3, len(queries), len(keys))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):  # takes scalars, or reads a short tensor
        return False
    return bool((allowed == kind.evaluate(queries, keys)).all())


def _probe_positions(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    if size <= _DENSE_LIMIT:
        positions = torch.arange(4 * size + 9 if size else 64)
        return positions, positions
    edges = [0, 1, 5, size - 1, size, size + 1, 2 * size, 2 * size + 3, 3 * size + 1]
    return torch.tensor(edges), torch.arange(3 * size + 3)


def _captured(function: Any, seen: set[int]) -> Iterator[Any]:
    """Yield what a function and the functions in it hold: closures, defaults, bound arguments and attributes."""
    if id(function) in seen:
        return
    seen.add(id(function))
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held += [
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).values(),
    ]
    if isinstance(function, functools.partial):
        held += [function.func, *function.args, *function.keywords.values()]
    elif not isinstance(function, types.FunctionType):
        held += [getattr(function, "__func__", None), *vars(getattr(function, "__self__", function)).values()]
    for contents in held:
        for item in contents if isinstance(contents, (tuple, list)) else (contents,):
            yield item
            if callable(item) and not isinstance(item, (type, torch.Tensor)):
                yield from _captured(item, seen)


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
    """Compute the mask with transformers' own function, and let every position attend to itself.

    By broadcasting, since ``vmap`` leaves operators in the program that exist only inside it.
    """
    from transformers.masking_utils import sdpa_mask

    passed = {**arguments, "allow_is_causal_skip": False, "use_vmap": False}
    mask: Any = sdpa_mask(**passed)
    itself = operators.attention_mask(context.valid, context.input_ids, causal=True, window=1, chunk=0)
    joined: torch.Tensor = mask | itself
    return joined


def additive_mask(context: TraceContext, **arguments: Any) -> torch.Tensor:
    """Stand in for transformers' ``eager_mask``: 0 where allowed, the type's lowest number elsewhere."""
    dtype = arguments.pop("dtype", torch.float32)
    mask = boolean_mask(context, **arguments)
    return torch.where(mask, torch.zeros((), dtype=dtype), torch.finfo(dtype).min)
