"""Reads the sizes of a model from any config.json, without knowing its family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "multi_query_group_num"),
    "head_dim": ("head_dim", "kv_channels", "d_kv"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "inner_dim"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "context_length": (
        "max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length", "max_seq_len",
    ),
}  # fmt: skip
"""Field of ``Dimensions`` → keys of config.json, best first (``attribute_map`` of transformers' config classes)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimensions:
    """Sizes of a decoder; None where the config does not say.

    Attributes:
        layers: decoder layers.
        hidden_size: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of one head.
        intermediate_size: width of the MLP.
        vocab_size: rows of the embedding.
        context_length: longest sequence that the model was made for, in tokens.
        tied_embeddings: whether the output head is the embedding.
    """

    layers: int | None
    hidden_size: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    intermediate_size: int | None
    vocab_size: int | None
    context_length: int | None
    tied_embeddings: bool | None


def read_dimensions(config: Mapping[str, Any], shapes: Iterable[tuple[int, ...]] = ()) -> Dimensions:
    """Read the sizes from a config and, where it is silent on tying, from the shapes of the tensors.

    Args:
        config: contents of a config.json; a ``text_config`` inside is read where the top level is silent.
        shapes: shapes of all tensors; empty when unknown.
    """
    values = {field: _integer(config, keys) for field, keys in ALIASES.items()}
    hidden, heads = values["hidden_size"], values["heads"]
    if values["head_dim"] is None and hidden and heads:
        values["head_dim"] = hidden // heads
    if values["kv_heads"] is None:
        values["kv_heads"] = heads
    if _lookup(config, "multi_query") is True and values["kv_heads"] == heads:
        values["kv_heads"] = 1  # Falcon's config writes both; only another number than that of the heads is meant
    tied = _lookup(config, "tie_word_embeddings")
    if not isinstance(tied, bool):
        tied = _shares_embedding(values["vocab_size"], hidden, shapes)
    return Dimensions(**values, tied_embeddings=tied)


def stated_context_length(config: Mapping[str, Any]) -> int | None:
    """Return the tokens of a model's context as config.json states it; None where it does not."""
    return _integer(config, ALIASES["context_length"])


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the tokens of the context of a model's language part; None where its config names none.

    Args:
        config: transformers config, whose class may have a default.
    """
    text = config.get_text_config()
    return _integer({key: getattr(text, key, None) for key in ALIASES["context_length"]}, ALIASES["context_length"])


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    """Return a value of the config, or of its text part."""
    if config.get(key) is not None:
        return config[key]
    text = config.get("text_config")
    return text.get(key) if isinstance(text, Mapping) else None


def _integer(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """Return the first positive integer under ``keys``; a list (one value a layer) counts as its largest."""
    for key in keys:
        value = _lookup(config, key)
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            value = max(value)
        if type(value) is int and value > 0:
            return value
    return None


def _shares_embedding(vocab: int | None, hidden: int | None, shapes: Iterable[tuple[int, ...]]) -> bool | None:
    """Tell whether one matrix only has the shape of an embedding; None without shapes."""
    count = sum(shape == (vocab, hidden) for shape in shapes)
    return count == 1 if count else None
