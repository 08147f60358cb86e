"""Compares the config that was read out of a GGUF file with a second reading, RoPE by ggml's own formula."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

import numpy as np

from edgellm_core.checkpoint.errors import GgufReadersDisagreeError
from edgellm_core.checkpoint.gguf.config import COMMON_KEYS
from edgellm_core.checkpoint.gguf.metadata import NEUTRAL, architecture
from edgellm_core.checkpoint.gguf.rope import ROPE_TENSORS
from edgellm_core.checkpoint.gguf.second_reader import transformers_keys

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from edgellm_core.checkpoint.gguf.header import GgufHeader
    from edgellm_core.checkpoint.gguf.model import ModelOutline
    from edgellm_core.checkpoint.gguf.second_reader import Array, SecondReader
    from edgellm_core.gguf_form import GgufForm

COMPARED_OTHERWISE: Final = frozenset({"rope_theta", "head_dim"})
"""Keys of config.json that are compared with RoPE and the size of a head."""


def check_config(header: GgufHeader, reader: SecondReader, form: GgufForm, outline: ModelOutline) -> None:
    """Compare the config, as transformers understands it, with what the second reader finds in the file.

    Raises:
        GgufReadersDisagreeError: they differ.
    """
    ours = {key: name for key, name in {**COMMON_KEYS, **form.keys}.items() if name}
    for table in (ours, transformers_keys(architecture(header))):
        for key, name in table.items():
            expected = reader.number(key)
            found = getattr(outline.config, name, None)
            if expected is None or name in COMPARED_OTHERWISE or (not expected and found is None):
                continue
            if found is None or np.float32(found) != np.float32(expected):
                problem = f"{key} is {expected}, and {name} of the config is {found}"
                raise GgufReadersDisagreeError(header.file, problem)
    size = reader.number("attention.key_length")
    config = outline.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size is not None and size != head:
        raise GgufReadersDisagreeError(
            header.file, f"attention.key_length is {size}, and a head of the model is {head}"
        )
    for kind, (frequencies, scale) in outline.frequencies.items():
        expected_frequencies, expected_scale = ggml_frequencies(reader, form, kind, 2 * len(frequencies))
        close = np.allclose(frequencies.numpy(), expected_frequencies, rtol=1e-4, atol=0)
        if not close or abs(scale / expected_scale - 1) > 1e-4:
            finding = f"the model's RoPE{' of ' + kind if kind else ''} is not that of the file's rope keys and tensors"
            raise GgufReadersDisagreeError(header.file, finding)


def ggml_frequencies(reader: SecondReader, form: GgufForm, kind: str, rotated: int) -> tuple[Array, float]:
    """Return the inverse frequencies [rotated / 2] and the factor on cosine and sine that ggml computes.

    Source: ggml, ``rope_yarn`` in ``ggml-cpu/ops.cpp``; llama.cpp, ``llama-context.cpp`` for the factor.
    """
    sliding = kind.startswith("sliding")
    theta = reader.number("rope.freq_base_swa" if sliding else "rope.freq_base") or 10_000.0
    frequencies = np.float64(theta) ** (-np.arange(0, rotated, 2) / rotated)
    if sliding:
        return frequencies, 1.0
    for name in ROPE_TENSORS:
        if name in reader.tensors and name != f"rope_factors_{'short' if kind.endswith('long') else 'long'}.weight":
            frequencies = frequencies / reader.rows(name, range(rotated // 2))[:, 0]
    attention = reader.number("rope.scaling.attn_factor") or 1.0
    scaling = reader.metadata.get(f"{reader.metadata['general.architecture']}.rope.scaling.type", "linear")
    factor = reader.number("rope.scaling.factor") or reader.number("rope.scale_linear") or 1.0
    if scaling != "yarn":
        return frequencies / (factor if scaling == "linear" else 1.0), attention
    context = reader.number("rope.scaling.original_context_length") or reader.number("context_length")
    bounds = [
        rotated * math.log(context / ((reader.number(f"rope.scaling.yarn_{key}") or turns) * 2 * math.pi))
        / (2 * math.log(theta))
        for key, turns in (("beta_fast", 32.0), ("beta_slow", 1.0))
    ]  # fmt: skip
    if form.yarn_truncates:
        bounds = [math.floor(bounds[0]), math.ceil(bounds[1])]
    low, high = max(bounds[0], 0), min(bounds[1], rotated - 1)
    keeps = 1 - np.clip((np.arange(rotated // 2) - low) / max(high - low, 1e-3), 0, 1)
    stated = reader.number("rope.scaling.yarn_attn_factor")
    if stated is not None:
        return frequencies * (keeps + (1 - keeps) / factor), stated
    logarithm, multiplier = math.log(max(factor, 1.0)), reader.number("rope.scaling.yarn_log_multiplier") or 0.0
    scale = (1 + 0.1 * logarithm) / (1 + 0.1 * multiplier * logarithm) * attention
    return frequencies * (keeps + (1 - keeps) / factor), scale


def left_out_by_transformers(header: GgufHeader, form: GgufForm, config: Mapping[str, Any]) -> list[str] | None:
    """Return the keys and tensors that change the math and that transformers' own reader would drop.

    None where it does not read the architecture at all.
    """
    name = architecture(header)
    table = transformers_keys(name)
    if not table:
        return None
    prefix = f"{name}."
    keys = [
        key.removeprefix(prefix)
        for key, value in header.fields.items()
        if key.startswith(prefix) and value not in NEUTRAL.get(key.removeprefix(prefix), ())
    ]
    read = {*table, "rope.dimension_count", "attention.value_length", "attention.key_length", "vocab_size"}
    dropped = [key for key in keys if key not in read and form.keys.get(key, "?") != ""]
    tensors = {re.sub(r"^blk\.\d+\.", "", tensor.name) for tensor in header.tensors}
    dropped += [tensor for tensor in sorted(tensors) if tensor in ROPE_TENSORS]
    if name == "llama" and config.get("attention_bias"):
        dropped += sorted(tensor for tensor in tensors if tensor.endswith(".bias") and tensor.startswith("attn_"))
    return dropped
