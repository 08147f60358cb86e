"""Attention: one semantic operator per call, recorded through transformers' attention and mask interfaces.

The ``sdpa`` slots of both interfaces are taken over while tracing, since models test for that name.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from edgellm_core.contract import AttentionAttributes
from edgellm_core.tracing import operators
from edgellm_core.tracing.errors import HeadGroupsError, UntraceableModelError
from edgellm_core.tracing.masks import additive_mask, boolean_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgellm_core.contract import ModelFamily

_HARMLESS_TENSORS: Final = frozenset({"position_ids", "token_type_ids", "input_ids"})
"""Tensor keywords that models pass on to attention functions and that none of transformers' functions reads."""


@dataclass(kw_only=True)
class TraceContext:
    """State of one traced forward.

    Attributes:
        family: whose attention attributes apply.
        valid: attention mask input, ``[batch, past + seq]``.
        input_ids: ``[batch, seq]``.
    """

    family: ModelFamily
    valid: torch.Tensor
    input_ids: torch.Tensor


def record_attention(  # noqa: PLR0913  # transformers' signature of an attention function
    context: TraceContext,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Stand in for an attention function of transformers.

    Returns:
        ``[batch, seq, heads, head_dim]`` and no weights.

    Raises:
        HeadGroupsError: the key-value heads don't divide the query heads.
        UntraceableModelError: a tensor argument that is not understood; dropping it would change the result.
    """
    unknown = [
        name for name, given in others.items() if isinstance(given, torch.Tensor) and name not in _HARMLESS_TENSORS
    ]
    if unknown:
        raise UntraceableModelError(type(module).__name__, f"its attention takes the unknown tensors {unknown}")
    if query.shape[1] % key.shape[1]:
        raise HeadGroupsError(type(module).__name__, int(query.shape[1]), int(key.shape[1]))
    sinks = s_aux if s_aux is not None else sinks
    if sinks is not None and sinks.dim() != 1:
        raise UntraceableModelError(type(module).__name__, f"its attention sinks have rank {sinks.dim()}, not 1")
    if attention_mask is None and _is_causal(module, others.get("is_causal")):
        attention_mask = operators.attention_mask(context.valid, context.input_ids, causal=True, window=0, chunk=0)
    scale = scaling if scaling is not None else getattr(module, "scaling", None) or query.shape[-1] ** -0.5
    if isinstance(scale, torch.Tensor):
        query, scale = query * scale, 1.0
    given = AttentionAttributes(scale=float(scale), softcap=float(softcap or 0.0))
    wanted = context.family.attention_attributes(module, given)
    output = operators.attention(
        query,
        key,
        value,
        _with_bias(attention_mask, position_bias, query.dtype),
        sinks,
        scale=wanted.scale,
        softcap=wanted.softcap,
    )
    return output.transpose(1, 2).contiguous(), None


def _is_causal(module: nn.Module, given: bool | None) -> bool:
    """Say whether a call without a mask is causal, as ``sdpa_attention_forward`` of transformers 5.23 does."""
    return bool(getattr(module, "is_causal", True) if given is None else given)


def _with_bias(mask: torch.Tensor | None, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    if bias is None:
        return mask
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(dtype).min)
    return mask + bias


@contextlib.contextmanager
def recorded_attention(context: TraceContext) -> Iterator[None]:
    """Take over the attention and mask functions of transformers in the body.

    Both places that a model may look in are taken: those of all, and those of one instance, which win; ModelOpt's
    calibration, for one, leaves a function there.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attention_slots = AttentionInterface._global_mapping  # noqa: SLF001  # register() refuses to replace built-ins
    own_slots, mask_slots = ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS
    saved_attention, saved_own = attention_slots["sdpa"], dict(own_slots._local_mapping)  # noqa: SLF001
    saved_masks = dict(mask_slots._local_mapping)  # noqa: SLF001
    attention_slots["sdpa"] = own_slots["sdpa"] = functools.partial(record_attention, context)
    mask_slots["sdpa"] = functools.partial(boolean_mask, context)
    mask_slots["eager"] = functools.partial(additive_mask, context)
    try:
        yield
    finally:
        attention_slots["sdpa"] = saved_attention
        own_slots._local_mapping.clear()  # noqa: SLF001
        own_slots._local_mapping.update(saved_own)  # noqa: SLF001
        mask_slots._local_mapping.clear()  # noqa: SLF001
        mask_slots._local_mapping.update(saved_masks)  # noqa: SLF001
