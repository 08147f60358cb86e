"""The KV cache as graph inputs and outputs.

``update()`` records an append operator and hands the full keys and values back to the model, so that latent keys,
shared caches and keys that change after the update all come out right. Windows live in the mask, not in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from edgellm_core.tracing import operators
from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.tracing.modeling_code import refused_as_untraceable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig, PreTrainedModel

KNOWN_LAYERS: Final = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
"""Cache layer classes whose contents are keys and values that grow, or nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KVState:
    """Shapes of one layer's cache, read from a forward of the model and never from config keys.

    Attributes:
        layer: index of the decoder layer.
        key: ``(kv_heads, head_dim)`` of the keys.
        value: ``(kv_heads, head_dim)`` of the values.
        sliding: the model asks this layer for the mask of its windowed layers.
    """

    layer: int
    key: tuple[int, int]
    value: tuple[int, int]
    sliding: bool


class TracedKVLayer(CacheLayerMixin):
    """One layer's cache while tracing: the past comes in as a graph input, the appended whole goes out."""

    supports_early_init = False

    def __init__(self, key: torch.Tensor, value: torch.Tensor, *, sliding: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it unannotated
        self.past_key, self.past_value = key, value
        self.keys, self.values = key, value
        self.is_sliding = sliding
        self.is_initialized = True
        self.updated = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the past is there from the start."""

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ARG002  # transformers' signature
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new keys and values, ``[batch, kv_heads, seq, head_dim]``, and return the whole.

        Raises:
            UntraceableModelError: called twice in one forward.
        """
        if self.updated:
            raise UntraceableModelError("The model", "it updates the KV cache of one layer twice in a forward")
        self.updated = True
        self.keys = operators.append(self.past_key, key_states)
        self.values = operators.append(self.past_value, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the past length (symbolic)."""
        return self.past_key.shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return ``(past + query_length, 0)``: full length whatever the window."""
        return self.past_key.shape[2] + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: no limit."""
        return -1


def traced_cache(states: Sequence[KVState], tensors: Sequence[torch.Tensor], depth: int) -> Cache:
    """Return the cache for one traced forward.

    Args:
        states: one entry per traced layer with a KV cache.
        tensors: past key and past value of each of them, ``[batch, kv_heads, past, head_dim]``.
        depth: layers of the whole model. Layers that are not traced get the cache object of the first traced one of
            their window type: models ask them for lengths only.
    """
    layers: list[Any] = [DummyLayer() for _ in range(depth)]
    for position, state in enumerate(states):
        layers[state.layer] = TracedKVLayer(tensors[2 * position], tensors[2 * position + 1], sliding=state.sliding)
    return Cache(layers=layers)


def probe_cache(model: PreTrainedModel, config: PreTrainedConfig, traced: Sequence[int]) -> list[KVState]:
    """Run one forward with transformers' own cache and return what it stored, per traced layer.

    Call it under the fake tensor mode of the model's parameters.

    Args:
        model: the weightless model, reduced to the traced layers.
        config: config of the whole model.
        traced: indices of the layers that the model still has.

    Raises:
        UntraceableModelError: the model keeps its state elsewhere, or in a form that is not keys and values.
    """
    name = type(model).__name__
    with refused_as_untraceable(name, "making its KV cache"):
        cache = DynamicCache(config=config)
    _refuse_unknown_layers(name, cache)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    with refused_as_untraceable(name, "a forward without weights"), torch.no_grad():
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True)
    returned = getattr(output, "past_key_values", None)
    if returned is not cache:
        raise UntraceableModelError(name, f"it returns {type(returned).__name__} instead of the KV cache it was given")
    _refuse_unknown_layers(name, cache)
    states = []
    for index, layer in enumerate(cache.layers):
        if index not in traced or isinstance(layer, DummyLayer) or layer.keys is None or layer.values is None:
            continue
        states.append(
            KVState(
                layer=index,
                key=(int(layer.keys.shape[1]), int(layer.keys.shape[3])),
                value=(int(layer.values.shape[1]), int(layer.values.shape[3])),
                sliding=bool(layer.is_sliding),
            )
        )
    if not states:
        raise UntraceableModelError(name, "it does not use the KV cache it was given")
    return states


def _refuse_unknown_layers(model: str, cache: Cache) -> None:
    for index, layer in enumerate(cache.layers):
        if type(layer) not in KNOWN_LAYERS:
            raise UntraceableModelError(model, f"layer {index} keeps its state in a {type(layer).__name__}")
