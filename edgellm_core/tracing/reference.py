"""What the semantic operators compute, on real tensors: a family's wrapper may use them and is still probed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional

from edgellm_core.tracing.masks import MaskKind
from edgellm_core.tracing.rope import rotate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, *, epsilon: float) -> torch.Tensor:
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return normed.to(x.dtype) * weight


def _layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, epsilon: float
) -> torch.Tensor:
    return functional.layer_norm(x, weight.shape, weight, bias, epsilon)


def _experts(
    x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    total = torch.zeros(x.shape, dtype=weights.dtype)
    for expert, (wide, narrow) in enumerate(zip(gate_up, down, strict=True)):
        gate, up = functional.linear(x, wide).chunk(2, -1)
        weight = torch.where(index == expert, weights, 0).sum(-1, keepdim=True)
        total += functional.linear(functional.silu(gate) * up, narrow) * weight
    return total.to(x.dtype)


def _rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool, rotary_dim: int
) -> torch.Tensor:
    return rotate(x, cos, sin, interleaved=interleaved, rotary_dim=rotary_dim)


def _append(past: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return torch.cat((past, new), dim=2)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    *,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    group = query.shape[1] // key.shape[1]
    scores = query.float() @ key.float().repeat_interleave(group, 1).transpose(2, 3) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        column = sinks.float()[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, column), -1)
    weights = scores.softmax(-1)[..., : key.shape[2]]
    return (weights @ value.float().repeat_interleave(group, 1)).to(query.dtype)


def _attention_mask(
    valid: torch.Tensor, input_ids: torch.Tensor, *, causal: bool, window: int, chunk: int
) -> torch.Tensor:
    total, seq = valid.shape[1], input_ids.shape[1]
    keys = torch.arange(total)
    queries = keys[total - seq :]
    allowed = MaskKind(bool(causal), window=window, chunk=chunk).evaluate(queries, keys)
    return (allowed & valid.bool()[:, None, None]) | (keys == queries[:, None])


def _unchanged(x: torch.Tensor, **_attributes: Any) -> torch.Tensor:
    return x


FORMULAS: Final[Mapping[str, Callable[..., torch.Tensor]]] = {
    "RMSNorm": _rms_norm,
    "LayerNorm": _layer_norm,
    "Linear": functional.linear,
    "Experts": _experts,
    "Rotary": _rotary,
    "Append": _append,
    "Attention": _attention,
    "AttentionMask": _attention_mask,
    "FullLength": _unchanged,
    "LayerInput": _unchanged,
    "LayerOutput": _unchanged,
}
"""Operator → its formula, called with the operator's inputs and attributes."""
