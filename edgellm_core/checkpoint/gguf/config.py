"""Says what a GGUF file's metadata means in the words of a config.json, and accounts for every key.

Source of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "LLM"; what llama.cpp makes of
them: its ``src/llama-model.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.gguf.metadata import Metadata, architecture, stop_tokens
from edgellm_core.checkpoint.gguf.rope import read_rope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.checkpoint.gguf.header import GgufHeader
    from edgellm_core.contract import ModelFamily
    from edgellm_core.gguf_form import GgufForm

COMMON_KEYS: Final[Mapping[str, str]] = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
"""Metadata key behind ``<architecture>.`` → key of config.json, in most architectures."""

ZERO_IS_NONE: Final = frozenset({"attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"})
"""Keys whose zero says that there is none."""

REQUIRED: Final = ("block_count", "context_length", "embedding_length", "attention.head_count")

ATTENTION_BIASES: Final = ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigReading:
    """What the metadata say.

    Attributes:
        config: contents of config.json.
        findings: what can't be read without a loss; empty when every key is accounted for.
    """

    config: dict[str, Any]
    findings: tuple[str, ...]


def read_gguf_config(header: GgufHeader, family: ModelFamily, form: GgufForm) -> ConfigReading:
    """Read config.json out of the metadata.

    Args:
        header: of the file, or of all parts.
        family: what the model is.
        form: how the file writes it; one of ``family.gguf_forms``.

    Raises:
        CorruptGgufError: the file has no ``general.architecture``.
    """
    metadata = Metadata(header)
    kind = header.fields.get("general.type", "model")
    if kind != "model":
        metadata.findings.append(f"general.type is {kind!r}, not 'model'")
    metadata.findings += [
        f"it has no {architecture(header)}.{key}" for key in (*REQUIRED, *form.required) if key not in metadata
    ]
    config: dict[str, Any] = {"model_type": family.model_types[0], "architectures": [family.architectures[0]]}
    config.update(form.implied)
    _read_keys(config, metadata, form)
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    _read_heads(config, metadata, form)
    _read_tensor_facts(config, header, metadata, form)
    config["rope_parameters"] = read_rope(header, metadata, config, form)
    _read_windows(config, metadata, form)
    for key, expected in form.stated.items():
        if (value := metadata.take(key, expected)) != expected:
            metadata.refuse(key, value)
    family.complete_gguf_config(config, metadata.take)
    metadata.finish()
    _read_token_ids(config, header)
    return ConfigReading(
        config={key: value for key, value in config.items() if not key.startswith("_")},
        findings=tuple(metadata.findings),
    )


def _read_keys(config: dict[str, Any], metadata: Metadata, form: GgufForm) -> None:
    """Translate the keys that have a counterpart."""
    for key, name in {**COMMON_KEYS, **form.keys}.items():
        if key not in metadata:
            continue
        if not name:
            metadata.take(key)
        elif (value := metadata.take_number(key)) is not None:
            config[name] = None if value == 0 and key in ZERO_IS_NONE else value


def _read_heads(config: dict[str, Any], metadata: Metadata, form: GgufForm) -> None:
    """Set the size of a head; keys and values of two sizes are refused."""
    hidden, heads = config.get("hidden_size", 0), config.get("num_attention_heads", 1) or 1
    size = metadata.take_number("attention.key_length")
    if size is None:
        rotated = metadata.take_number("rope.dimension_count")
        size = hidden // heads if rotated is None or form.partial_rotary else rotated
    if (values := metadata.take_number("attention.value_length", size)) != size:
        metadata.refuse("attention.value_length", values)
    scale = metadata.take("attention.scale") if "attention.scale" not in form.keys else None
    if scale is not None and abs(scale * size**0.5 - 1) > 1e-5:
        metadata.refuse("attention.scale", scale)
    if size * heads != hidden or "head_dim" in form.keys.values():
        config["head_dim"] = size
    config["_head_size"] = size


def _read_tensor_facts(config: dict[str, Any], header: GgufHeader, metadata: Metadata, form: GgufForm) -> None:
    """Set what the tensors say: the vocabulary, whether the head is tied, which biases there are."""
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    rows = shapes.get("token_embd.weight", (0,))[0]
    if (stated := metadata.take("vocab_size", rows)) != rows:
        metadata.findings.append(f"its vocab_size is {stated}, and token_embd.weight has {rows} rows")
    tokens = header.array_lengths.get("tokenizer.ggml.tokens", 0)
    if tokens > rows:
        metadata.findings.append(f"its tokenizer has {tokens} tokens, and token_embd.weight has {rows} rows")
    config["vocab_size"] = rows
    config["tie_word_embeddings"] = "output.weight" not in shapes
    if form.bias_flag:
        config[form.bias_flag] = any(f"blk.0.{tensor}" in shapes for tensor in ATTENTION_BIASES)
    for tensor, key in form.flags.items():
        config[key] = any(name.startswith(f"blk.0.{tensor}") for name in shapes)


def _read_windows(config: dict[str, Any], metadata: Metadata, form: GgufForm) -> None:
    """Set which layers have a window, where the file states it; a period is the family's own unless stated."""
    pattern = metadata.take("attention.sliding_window_pattern")
    layers = config.get("num_hidden_layers", 0)
    if pattern is None and form.window_period:
        pattern = form.window_period
    if pattern is None:
        return
    if not form.window_period:
        metadata.refuse("attention.sliding_window_pattern", pattern)
    elif isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        windowed = [(layer + 1) % pattern != 0 for layer in range(layers)]
    elif isinstance(pattern, list) and len(pattern) == layers:
        windowed = [bool(value) for value in pattern]
    else:
        metadata.refuse("attention.sliding_window_pattern", pattern)
        return
    if form.window_period:
        config["layer_types"] = ["sliding_attention" if value else "full_attention" for value in windowed]


def _read_token_ids(config: dict[str, Any], header: GgufHeader) -> None:
    """Set the ids of special tokens."""
    for key, field in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        value = header.fields.get(f"tokenizer.ggml.{field}")
        config[key] = value if isinstance(value, int) else None  # null, or transformers takes the class's own default
    config["eos_token_id"] = next(iter(stop_tokens(header)), None)
