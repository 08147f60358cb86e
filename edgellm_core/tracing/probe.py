"""Which states a model carries: one forward without weights over transformers' own cache."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicCache,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.tracing.layer_states import LayerState
from edgellm_core.tracing.modeling_code import refused_as_untraceable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig, PreTrainedModel

KNOWN_LAYERS: Final = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    DynamicIndexedLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    DummyLayer,
)
"""Cache layer classes whose contents are keys and values that grow, convolution and recurrent states, or nothing."""


def cache_argument(model: PreTrainedModel) -> str:
    """Return the argument that takes the cache: ``past_key_values``, or ``cache_params`` in models without attention.

    The output has it under the same name. Models of the second kind multiply the hidden states by the attention mask,
    so they take that of the new tokens only.
    """
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in ("past_key_values", "cache_params") if name in parameters), "past_key_values")


def probe_cache(model: PreTrainedModel, config: PreTrainedConfig, traced: Sequence[int]) -> list[LayerState]:
    """Run one forward with transformers' own cache and return what it stored, per traced layer.

    Call it under the fake tensor mode of the model's parameters.

    Args:
        model: the weightless model, reduced to the traced layers.
        config: config of the whole model.
        traced: indices of the layers that the model still has.

    Raises:
        UntraceableModelError: the model keeps its state elsewhere, or in a form that is not known.
    """
    name = type(model).__name__
    with refused_as_untraceable(name, "making its KV cache"):
        cache = DynamicCache(config=config)
    _refuse_unknown_layers(name, cache)
    argument = cache_argument(model)
    given: dict[str, Any] = {"input_ids": torch.zeros(2, 3, dtype=torch.long), argument: cache, "use_cache": True}
    with refused_as_untraceable(name, "a forward without weights"), torch.no_grad():
        output = model(**given)
    returned = getattr(output, argument, None)
    if returned is not cache:
        raise UntraceableModelError(name, f"it returns {type(returned).__name__} instead of the KV cache it was given")
    _refuse_unknown_layers(name, cache)
    found = [_layer_state(index, cache.layers[index]) for index in range(len(cache.layers)) if index in traced]
    states = [state for state in found if state.tensors()]
    if not states:
        raise UntraceableModelError(name, "it does not use the KV cache it was given")
    return states


def _layer_state(index: int, layer: Any) -> LayerState:
    """Return what transformers' cache layer holds after a forward."""
    held = {"key": "keys", "value": "values", "indexer": "indexer_keys"}
    kept: dict[str, Any] = {part: getattr(layer, name, None) for part, name in held.items()}
    fields: dict[str, Any] = {"types": {part: tensor.dtype for part, tensor in kept.items() if tensor is not None}}
    keys, values = kept["key"], kept["value"]
    if keys is not None and values is not None:
        fields["key"] = int(keys.shape[1]), int(keys.shape[3])
        fields["value"] = int(values.shape[1]), int(values.shape[3])
        fields["sliding"] = bool(layer.is_sliding)
    if kept["indexer"] is not None:
        fields["indexer"] = int(kept["indexer"].shape[2])
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        fields["conv"] = _shapes(layer.conv_states)
        fields["recurrent"] = _shapes(layer.recurrent_states)
    return LayerState(layer=index, **fields)


def _shapes(states: dict[int, torch.Tensor | None]) -> dict[int, tuple[tuple[int, ...], torch.dtype]]:
    """Return sizes without the batch, and element types, of the states that the model made."""
    return {
        number: (tuple(int(size) for size in state.shape[1:]), state.dtype)
        for number, state in states.items()
        if state is not None
    }


def _refuse_unknown_layers(model: str, cache: Cache) -> None:
    for index, layer in enumerate(cache.layers):
        if type(layer) not in KNOWN_LAYERS:
            raise UntraceableModelError(model, f"layer {index} keeps its state in a {type(layer).__name__}")
        if getattr(layer, "indexer_position_ids", None) is not None:
            raise UntraceableModelError(model, f"layer {index} caches the positions of its indexer's keys")
