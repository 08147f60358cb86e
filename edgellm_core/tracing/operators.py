"""Semantic operators of the ONNX domain ``edgellm``, as they are recorded while a model is traced.

Each is one node in the exported program. They have no kernel: a target's surgery rules lower them, and the parity gate
executes the lowered graph. Shapes are ``[batch, heads, seq, head_dim]`` unless said otherwise.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.onnx.ops import symbolic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DOMAIN: Final = "edgellm"
_VERSION: Final = 1


@dataclass
class Recorder:
    """Counts the operators of one traced forward, by operator and decoder layer (None = outside the layers)."""

    calls: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    layer: int | None = None

    def count(self, operator: str, attributes: Mapping[str, Any]) -> None:  # noqa: ARG002  # for subclasses
        """Count one call, with these attributes, in the current layer."""
        self.calls[operator, self.layer] += 1


_recorders: list[Recorder] = []


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Count the operators that the body emits, from zero."""
    recorder.calls.clear()
    _recorders.append(recorder)
    try:
        yield
    finally:
        _recorders.remove(recorder)


_computing: ContextVar[bool] = ContextVar("computing", default=False)


@contextlib.contextmanager
def computed() -> Iterator[None]:
    """Compute the operators in the body, on real tensors, instead of recording them."""
    token = _computing.set(True)
    try:
        yield
    finally:
        _computing.reset(token)


def _emit(
    name: str,
    inputs: Sequence[torch.Tensor | None],
    attributes: Mapping[str, float],
    *,
    dtype: torch.dtype,
    shape: Sequence[int | torch.SymInt],
) -> torch.Tensor:
    attrs: dict[str, Any] = {key: int(v) if isinstance(v, bool) else v for key, v in attributes.items()}
    if _computing.get():
        from edgellm_core.tracing.reference import FORMULAS

        return FORMULAS[name](*inputs, **attrs)
    for recorder in _recorders:
        recorder.count(name, attrs)
    return symbolic(f"{DOMAIN}::{name}", inputs, attrs, dtype=dtype, shape=shape, version=_VERSION)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return ``x / sqrt(mean(x²) + epsilon) * weight`` over the last axis, computed in float32, in the wider type."""
    x, weight = _in_one_type(x, weight)
    return _emit("RMSNorm", (x, weight), {"epsilon": epsilon}, dtype=x.dtype, shape=x.shape)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    """Return ``(x - mean) / sqrt(var + epsilon) * weight + bias`` over the last axis, computed in float32.

    The result has the widest type of the three.
    """
    inputs = _in_one_type(x, weight) if bias is None else _in_one_type(x, weight, bias)
    x = inputs[0]
    return _emit("LayerNorm", inputs, {"epsilon": epsilon}, dtype=x.dtype, shape=x.shape)


def _in_one_type(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return tensors in their widest type: the result of a norm in ONNX has the type of its weight, torch promotes."""
    widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return tuple(tensor.to(widest) for tensor in tensors)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return ``x · weightᵀ + bias``; ``x`` is ``[…, in]``, ``weight`` ``[out, in]``, ``bias`` ``[out]``."""
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return _emit("Linear", inputs, {}, dtype=x.dtype, shape=(*x.shape[:-1], weight.shape[0]))


def experts(
    x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """Return ``Σ weights · down · (silu(gate · x) * (up · x))`` over the experts that each token was routed to.

    Args:
        x: ``[tokens, hidden]``.
        index: int64 ``[tokens, k]``, the experts of each token; those beyond the last one count for nothing.
        weights: ``[tokens, k]``, in the type of ``x`` or float32; the products and their sum have that type too.
        gate_up: ``[experts, 2 * inner, hidden]``, the rows of the gates first.
        down: ``[experts, hidden, inner]``.
    """
    return _emit("Experts", (x, index, weights, gate_up, down), {}, dtype=x.dtype, shape=x.shape)


def rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool, rotary_dim: int
) -> torch.Tensor:
    """Rotate the first ``rotary_dim`` channels of ``x`` by the angles of ``cos`` and ``sin``.

    Args:
        x: query or key.
        cos: ``[batch, seq, rotary_dim / 2]``.
        sin: like ``cos``.
        interleaved: pairs are neighbours (2i, 2i+1) instead of halves (i, i + rotary_dim / 2).
        rotary_dim: number of channels that are rotated.
    """
    attributes = {"interleaved": interleaved, "rotary_dim": rotary_dim}
    return _emit("Rotary", (x, cos, sin), attributes, dtype=x.dtype, shape=x.shape)


def append(past: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return ``past`` followed by ``new`` along the sequence axis (2)."""
    shape = [*new.shape]
    shape[2] = past.shape[2] + new.shape[2]
    return _emit("Append", (past, new), {}, dtype=new.dtype, shape=shape)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    sinks: torch.Tensor | None,
    *,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    """Return ``softmax(softcap(query · keyᵀ · scale) + mask) · value`` with grouped key/value heads.

    Args:
        query: ``[batch, heads, seq, head_dim]``.
        key: ``[batch, kv_heads, past + seq, head_dim]``.
        value: ``[batch, kv_heads, past + seq, value_dim]``.
        mask: ``[batch or 1, 1, seq, past + seq]``; boolean (True = attend) or additive.
        sinks: ``[heads]`` logits of an extra key without a value, or None.
        scale: factor on the logits.
        softcap: ``tanh(x / softcap) * softcap`` before the mask; 0 for none.
    """
    inputs: list[torch.Tensor | None] = [query, key, value, mask]
    if sinks is not None:
        inputs.append(sinks)
    shape = (query.shape[0], query.shape[1], query.shape[2], value.shape[3])
    return _emit("Attention", inputs, {"scale": scale, "softcap": softcap}, dtype=query.dtype, shape=shape)


def attention_mask(
    valid: torch.Tensor,
    input_ids: torch.Tensor,
    *,
    causal: bool,
    window: int,
    chunk: int,
) -> torch.Tensor:
    """Return the boolean mask ``[batch, 1, seq, past + seq]`` of an attention with left padding.

    A position attends to the valid ones that ``causal``, ``window`` and ``chunk`` allow, and always to itself, so that
    a padded position's softmax is never over nothing.

    Args:
        valid: ``[batch, past + seq]``, non-zero for tokens and 0 for padding.
        input_ids: ``[batch, seq]``; only its length is used.
        causal: only keys at or before the query.
        window: only the last ``window`` keys; 0 for all.
        chunk: only keys in the query's chunk of ``chunk`` positions; 0 for all.
    """
    attributes = {"causal": causal, "window": window, "chunk": chunk}
    shape = (input_ids.shape[0], 1, input_ids.shape[1], valid.shape[1])
    return _emit("AttentionMask", (valid, input_ids), attributes, dtype=torch.bool, shape=shape)


def full_length(valid: torch.Tensor, length: int | torch.SymInt) -> torch.Tensor:
    """Return ``valid`` unchanged, its second dimension declared to be ``length`` (past + seq).

    ``torch.export`` can't express that one input's dimension is the sum of two others.
    """
    return _emit("FullLength", (valid,), {}, dtype=valid.dtype, shape=(valid.shape[0], length))


def layer_input(hidden: torch.Tensor, layer: int) -> torch.Tensor:
    """Mark the hidden state ``[batch, seq, hidden]`` that enters decoder layer ``layer``."""
    marked = _emit("LayerInput", (hidden,), {"layer": layer}, dtype=hidden.dtype, shape=hidden.shape)
    for recorder in _recorders:
        recorder.layer = layer
    return marked


def layer_output(hidden: torch.Tensor, layer: int) -> torch.Tensor:
    """Mark the hidden state ``[batch, seq, hidden]`` that leaves decoder layer ``layer``."""
    for recorder in _recorders:
        recorder.layer = None
    return _emit("LayerOutput", (hidden,), {"layer": layer}, dtype=hidden.dtype, shape=hidden.shape)
