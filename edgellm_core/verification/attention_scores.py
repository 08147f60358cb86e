"""Sees the attention scores and the products of function calls, whichever implementation of attention a model has.

transformers' eager attention calls ``softmax`` on scaled scores to which the mask was added. So scores are what softmax
takes, and masked ones are those that get no probability at all: adding a mask of any size leaves ``exp`` at 0. Where
sinks take part, the largest score is subtracted before; there it is what ``max`` returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgellm_core.verification.range_watch import Peak

LARGE_SCORE: Final = 128.0
"""Scores beyond it are told. float16 keeps 11 bits, so a runtime that rounds a score S to it errs by up to S·2⁻¹¹; the
probability that softmax makes of it changes by that share. At 128 that is 6 %, in each of all layers."""

SCORE_BITS: Final = 11
"""Bits of a float16 number (IEEE 754 binary16, with the implicit one)."""

WEIGHTED: Final = 2
"""A product of two tensors that are no weights is no linear layer: attention, or a state that may be kept wider."""

SOFTMAXES: Final = frozenset({functional.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax})

MAXIMA: Final = frozenset({torch.max, torch.Tensor.max, torch.amax, torch.Tensor.amax})

LINEAR: Final = frozenset({functional.linear, functional.grouped_mm, torch._grouped_mm})  # noqa: SLF001  # transformers calls it
"""Products with a weight: the first operand is what a layer takes."""

PRODUCTS: Final = frozenset({
    torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm, torch.addmm,
    torch.Tensor.addmm, torch.baddbmm, torch.einsum,
})  # fmt: skip
"""Products with a weight, or of two activations."""

MASKED: Final = 1e30
"""Beyond it a number is a mask: transformers masks with the smallest number of the type, -3.4e38."""


class CallWatch(TorchFunctionMode):
    """Reports scores and products that are computed in the body."""

    def __init__(
        self, see_product: Callable[[Sequence[torch.Tensor], torch.Tensor], None], see_scores: Callable[[float], None]
    ) -> None:
        """Report to two functions: operands and result of a product, the largest absolute score of a call."""
        super().__init__()
        self._see_product, self._see_scores = see_product, see_scores

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and look at what it took and made."""
        named = kwargs or {}
        result = func(*args, **named)
        if func in LINEAR:
            self._see_product([args[0]], result)
        elif func in PRODUCTS:
            self._see_product([value for value in _flat(args) if isinstance(value, torch.Tensor)], result)
        elif func in SOFTMAXES and args and _over_keys(args[0], _dimension(args, named)):
            self._see_scores(_largest(args[0], result > 0))
        elif func in MAXIMA and args and _dimension(args, named) == -1 and args[0].dim() >= 4:  # [batch, heads, q, k]
            values = result if isinstance(result, torch.Tensor) else result.values
            self._see_scores(_largest(values, values.abs() < MASKED))
        elif func is functional.scaled_dot_product_attention:
            self._see_scores(_fused_scores(*args, **named))
        return result


def _dimension(args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    dimension = args[1] if len(args) > 1 else named.get("dim")
    dimension = dimension[0] if isinstance(dimension, (tuple, list)) and len(dimension) == 1 else dimension
    last = isinstance(args[0], torch.Tensor) and dimension == args[0].dim() - 1
    return -1 if last else dimension


def _over_keys(scores: Any, dimension: Any) -> bool:
    """Return whether softmax is over the keys of attention; routers have rank 2, or 3 with one row per sequence."""
    if not isinstance(scores, torch.Tensor) or dimension != -1:
        return False
    return scores.dim() >= 4 or (scores.dim() == 3 and scores.shape[-1] in (scores.shape[-2], scores.shape[-2] + 1))


def _largest(scores: torch.Tensor, counted: torch.Tensor) -> float:
    counted = counted & (scores.abs() < MASKED)
    return float(torch.where(counted, scores, 0).abs().max()) if scores.numel() else 0.0


def _fused_scores(  # torch's signature
    query: torch.Tensor,
    key: torch.Tensor,
    _value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> float:
    """Return the largest score of a call that computes attention in one operator, after torch's own definition."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores).tril() == 0, -torch.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return _largest(scores, torch.softmax(scores, -1) > 0)


def _flat(values: Any) -> Any:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from value
        else:
            yield value


def score_note(score: Peak | None, where: str = "") -> str | None:
    """Return the sentence about attention scores that a runtime must not round to float16; None for smaller ones.

    Args:
        score: the largest.
        where: the part that computes it, in words, for example ``decoder layer 3``.
    """
    if score is None or score.largest <= LARGE_SCORE:
        return None
    place = f"{score.module!r}" + (f" ({where})" if where else "")
    error = score.largest * 2.0**-SCORE_BITS
    return (
        f"Attention scores reach {score.largest:.0f} in {place}. A runtime that rounds scores to float16 errs by up to "
        f"{error:.2g} there, which changes a probability by that share; --attention-scores fp32 computes them in "
        "float32."
    )
