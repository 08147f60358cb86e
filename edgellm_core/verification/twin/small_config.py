"""A small config.json of a real one, for the tests of a family: small widths, few layers, every flag as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.tracing.configuration import GENERATION_KEYS, METADATA_KEYS
from edgellm_core.tracing.modeling_code import quiet_libraries
from edgellm_core.verification.twin.layers import layer_kinds
from edgellm_core.verification.twin.make import one_thread
from edgellm_core.verification.twin.original import on_meta
from edgellm_core.verification.twin.shrink import shrink
from edgellm_core.verification.twin.sizes import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from transformers import PreTrainedConfig

    from edgellm_core.verification.twin.sizes import Fields

SHORT_LENGTHS: Final = {"max_position_embeddings": 64, "sliding_window": 5}
"""Lengths of a test: a context of some prompts, and a window that is shorter than any of them."""

SHOWN: Final = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "tie_word_embeddings", "rope_parameters")  # fmt: skip
"""Sizes that a reader looks for; said even where the config class has the same default."""


def small_config(config: PreTrainedConfig) -> Fields:
    """Return the keys of a small model's config.json that are not transformers' defaults.

    Args:
        config: of the real model; not changed.

    Raises:
        TwinNotMadeError: there is no small model of the kind.
    """
    config_class = type(config)

    def make_config(fields: Mapping[str, Any]) -> PreTrainedConfig:
        return config_class.from_dict(dict(fields))

    with one_thread(), quiet_libraries():
        small = shrink(config, make_config)
        defaults = config_class().to_dict()
        fields = {key: value for key, value in small.fields.items() if _is_said(key, value, defaults)}
        for lengths in _short_lengths(small.fields):
            changed = {**fields, **lengths}
            if _has_same_layers(changed, fields, make_config):
                return changed
    return fields


def _is_said(key: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    if key in SHOWN:
        return value is not None
    return key not in METADATA_KEYS | GENERATION_KEYS | {"model_type"} and defaults.get(key) != value


def _short_lengths(fields: Fields) -> Iterator[Fields]:
    """Yield short lengths, the most first; a RoPE that changes with the length has lengths that fit the context's."""
    lengths = {key: short for key, short in SHORT_LENGTHS.items() if isinstance(fields.get(key), int)}
    rope_types = {part.get("rope_type", "default") for part in parts(fields)}
    if rope_types == {"default"}:
        yield lengths
    yield {key: short for key, short in lengths.items() if key != "max_position_embeddings"}


def _has_same_layers(
    changed: Fields, fields: Fields, make_config: Callable[[Mapping[str, Any]], PreTrainedConfig]
) -> bool:
    """Return whether transformers makes the same layers of both; its code can raise any class where it does not."""
    try:
        return layer_kinds(on_meta(make_config(changed))) == layer_kinds(on_meta(make_config(fields)))
    except Exception:  # noqa: BLE001
        return False
