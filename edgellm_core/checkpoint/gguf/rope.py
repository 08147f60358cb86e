"""Says what a GGUF file's RoPE is in the words of transformers' ``rope_parameters``.

What the keys mean: llama.cpp, ``src/llama-model.cpp`` (``LLM_KV_ROPE_*``) and ``src/llama-context.cpp``
(``yarn_attn_factor``); what the tensors mean: ``rope_freqs`` and ``rope_factors_*`` divide the frequencies one by one.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellm_core.checkpoint.gguf.header import GgufHeader, GgufTensor
    from edgellm_core.checkpoint.gguf.metadata import Metadata
    from edgellm_core.gguf_form import GgufForm

ROPE_TENSORS: Final = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that hold divisors of RoPE's frequencies."""

DEFAULT_THETA: Final = 10_000.0
"""``rope.freq_base`` where a file does not state it (llama.cpp, ``rope_freq_base_train``)."""

LLAMA3: Final = (1.0, 4.0, 8192)
"""``low_freq_factor``, ``high_freq_factor`` and original context of every Llama 3.1 to 3.3."""

_CLOSE: Final = 2e-5
"""Largest relative difference of two divisors that are the same but for float32 arithmetic."""


def read_rope(header: GgufHeader, metadata: Metadata, config: dict[str, Any], form: GgufForm) -> dict[str, Any]:
    """Return ``rope_parameters``; what can't be said in them becomes a finding of ``metadata``.

    Args:
        header: of the file.
        metadata: its keys.
        config: config.json so far; ``_head_size`` and ``max_position_embeddings`` are read.
        form: how the family's files are written.
    """
    head = config["_head_size"]
    rotated = metadata.take_number("rope.dimension_count", head)
    if rotated != head and not form.partial_rotary:
        metadata.refuse("rope.dimension_count", rotated)
        rotated = head
    theta = float(metadata.take_number("rope.freq_base", DEFAULT_THETA))
    factors = _read_factors(header, metadata, rotated // 2)
    scaling = _read_scaling(metadata, config, form, factors, theta=theta, rotated=rotated)
    parameters = {"rope_theta": theta, **scaling}
    if rotated != head:
        parameters["partial_rotary_factor"] = rotated / head
    if not form.sliding_rope:
        return parameters
    local = float(metadata.take_number("rope.freq_base_swa", DEFAULT_THETA))
    return {"full_attention": parameters, "sliding_attention": {"rope_type": "default", "rope_theta": local}}


def _read_factors(header: GgufHeader, metadata: Metadata, count: int) -> dict[str, list[float]]:
    """Return the divisors that the file holds, by name of the tensor."""
    found = {}
    for tensor in header.tensors:
        if tensor.name not in ROPE_TENSORS:
            continue
        if tensor.element_type != "F32" or tensor.shape != (count,):
            metadata.findings.append(
                f"{tensor.name} is {tensor.element_type} {list(tensor.shape)}, and {count} float32 numbers are expected"
            )
            continue
        found[tensor.name] = _read_floats(tensor)
    return found


def _read_floats(tensor: GgufTensor) -> list[float]:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset)
        return list(struct.unpack(f"<{tensor.nbytes // 4}f", stream.read(tensor.nbytes)))


def _read_scaling(
    metadata: Metadata,
    config: Mapping[str, Any],
    form: GgufForm,
    factors: Mapping[str, list[float]],
    *,
    theta: float,
    rotated: int,
) -> dict[str, Any]:
    """Return the parameters of the scaling, with ``rope_type``."""
    kind = metadata.take("rope.scaling.type", "linear")  # llama.cpp's own default
    factor = metadata.take_number("rope.scaling.factor") or metadata.take_number("rope.scale_linear") or 1.0
    context = config.get("max_position_embeddings", 0)
    original = metadata.take_number("rope.scaling.original_context_length", context)
    attention = metadata.take_number("rope.scaling.attn_factor", 1.0)
    per_pair = {name: values for name, values in factors.items() if any(value != 1.0 for value in values)}
    if kind == "yarn" and not per_pair:
        return _yarn(metadata, form, factor, original, attention)
    if "rope_factors_long.weight" in factors or "rope_factors_short.weight" in factors or kind == "longrope":
        return _longrope(metadata, factors, kind, original, attention)
    if attention != 1.0:
        metadata.refuse("rope.scaling.attn_factor", attention)
    if kind not in {"none", "linear"} or (per_pair and kind == "linear" and factor != 1.0):
        metadata.refuse("rope.scaling.type", kind)
    if per_pair:
        return _frequency_factors(per_pair["rope_freqs.weight"], theta, rotated, context)
    if kind == "linear" and factor != 1.0:
        return {"rope_type": "linear", "factor": float(factor)}
    return {"rope_type": "default"}


def _yarn(metadata: Metadata, form: GgufForm, factor: float, original: int, attention: float) -> dict[str, Any]:
    """Return YaRN's parameters.

    llama.cpp scales queries and keys by ``0.1 ln(factor) + 1`` as transformers does, times
    ``rope.scaling.attn_factor``; with ``yarn_log_multiplier`` (``mscale_all_dim``) divided by
    ``0.1 · multiplier · ln(factor) + 1``. Its converter writes transformers' ``attention_factor`` as
    ``yarn_attn_factor``.
    """
    parameters: dict[str, Any] = {
        "rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": original,
    }  # fmt: skip
    if (extrapolation := metadata.take_number("rope.scaling.yarn_ext_factor", 1.0)) not in {1.0, -1.0}:
        metadata.refuse("rope.scaling.yarn_ext_factor", extrapolation)
    for name in ("beta_fast", "beta_slow"):
        if (value := metadata.take_number(f"rope.scaling.yarn_{name}")) is not None:
            parameters[name] = float(value)
    logarithm = math.log(factor) if factor > 1 else 0.0
    multiplier = metadata.take_number("rope.scaling.yarn_log_multiplier", 0.0)
    stated = metadata.take_number("rope.scaling.yarn_attn_factor")
    if stated is not None:
        parameters["attention_factor"] = float(stated)
        if attention != 1.0 or multiplier:
            metadata.refuse("rope.scaling.yarn_attn_factor", stated)
    elif attention != 1.0 or multiplier:
        parameters["attention_factor"] = (0.1 * logarithm + 1) / (0.1 * multiplier * logarithm + 1) * attention
    if not form.yarn_truncates:
        parameters["truncate"] = False
    return parameters


def _longrope(
    metadata: Metadata, factors: Mapping[str, list[float]], kind: str, original: int, attention: float
) -> dict[str, Any]:
    """Return LongRoPE's parameters: two tables of divisors, and a factor on queries and keys."""
    tables = [factors.get(f"rope_factors_{name}.weight") for name in ("short", "long")]
    if None in tables or "rope_freqs.weight" in factors or kind == "yarn":
        metadata.findings.append("it needs rope_factors_long.weight and rope_factors_short.weight, and no other RoPE")
    short, long = (table or [] for table in tables)
    return {
        "rope_type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": float(attention),
        "original_max_position_embeddings": original,
    }  # fmt: skip


def _frequency_factors(factors: Sequence[float], theta: float, rotated: int, context: int) -> dict[str, Any]:
    """Return parameters that give these divisors: Llama 3's where they are its own, else a table of them."""
    if max(factors) == min(factors):
        return {"rope_type": "linear", "factor": factors[0]}
    frequencies = [theta ** (-2 * pair / rotated) for pair in range(len(factors))]
    for low, high, original in (LLAMA3, *_fitted(factors, frequencies)):
        expected = llama3_factors(frequencies, max(factors), low, high, original)
        if all(abs(a - b) <= _CLOSE * b for a, b in zip(factors, expected, strict=True)):
            return {
                "rope_type": "llama3", "factor": max(factors), "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }  # fmt: skip
    return {
        "rope_type": "longrope", "short_factor": list(factors), "long_factor": list(factors), "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }  # fmt: skip


def llama3_factors(
    frequencies: Sequence[float], factor: float, low: float, high: float, original: float
) -> list[float]:
    """Return Llama 3's divisor of each frequency: 1 for short waves, ``factor`` for long ones, smooth between."""
    factors = []
    for frequency in frequencies:
        turns = original * frequency / (2 * math.pi)  # of this pair within the original context
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _fitted(factors: Sequence[float], frequencies: Sequence[float]) -> list[tuple[float, float, int]]:
    """Return low, high and original context with which the two outermost divisors between 1 and the largest agree.

    The three are known up to a common factor; ``low_freq_factor`` is 1 in all models.
    """
    largest = max(factors)
    smooth = [(1 / value - 1 / largest) / (1 - 1 / largest) for value in factors]
    between = [pair for pair, value in enumerate(smooth) if 1e-3 < value < 1 - 1e-3]
    if len(between) < 2:
        return []
    first, last = between[0], between[-1]
    slope = (smooth[first] - smooth[last]) / (frequencies[first] - frequencies[last])
    start = smooth[first] - slope * frequencies[first]
    if start >= 0:
        return []
    width = -1 / start  # high - low, with low = 1
    original = slope * width * 2 * math.pi
    return [(1.0, round(1 + width, 4), round(original))]
