"""The states of the decoder layers as graph inputs and outputs.

``update()`` records an append operator and hands the full keys and values back to the model, so that latent keys,
shared caches and keys that change after the update all come out right. Windows live in the mask, not in the cache.
Convolution and recurrent states always have a previous value, which is zero at the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer, LinearAttentionLayer

from edgellm_core.tracing import operators
from edgellm_core.tracing.errors import UntraceableModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellm_core.tracing.layer_states import LayerState

Tensors = dict[str, torch.Tensor]
"""The states of one layer by :attr:`StateTensor.part`."""


class TracedKVLayer(CacheLayerMixin):
    """One layer's keys and values while tracing: the past comes in as a graph input, the appended whole goes out."""

    supports_early_init = False

    def __init__(self, past: Mapping[str, torch.Tensor], *, sliding: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it unannotated
        self.past = past
        self.keys, self.values = past["key"], past["value"]
        self.indexer_keys = past.get("indexer")
        self.indexer_position_ids: torch.Tensor | None = None
        self.is_sliding = sliding
        self.is_initialized = True
        self.updated: set[str] = set()

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
        self._once("KV cache")
        self.keys = operators.append(self.past["key"], key_states)
        self.values = operators.append(self.past["value"], value_states)
        return self.keys, self.values

    def update_indexer(self, indexer_key_states: torch.Tensor) -> torch.Tensor:
        """Append new keys of a sparse attention's indexer, ``[batch, seq, size]``, and return the whole.

        Raises:
            UntraceableModelError: called twice in one forward.
        """
        self._once("indexer's keys")
        whole = operators.append(self.past["indexer"].unsqueeze(1), indexer_key_states.unsqueeze(1))
        self.indexer_keys = whole.squeeze(1)
        return self.indexer_keys

    def _once(self, what: str) -> None:
        if what in self.updated:
            raise UntraceableModelError("The model", f"it updates the {what} of one layer twice in a forward")
        self.updated.add(what)

    def get_seq_length(self) -> int:
        """Return the past length (symbolic)."""
        return self.past["key"].shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return ``(past + query_length, 0)``: full length whatever the window."""
        return self.past["key"].shape[2] + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: no limit."""
        return -1

    def present(self) -> Tensors:
        """Return the states after the forward, by part."""
        after: dict[str, Any] = {"key": self.keys, "value": self.values, "indexer": self.indexer_keys}
        return {part: after[part] for part in self.past if part in after}


class TracedStateLayer(LinearAttentionLayer):
    """One layer's convolution and recurrent states while tracing.

    Models write into them, so each is a copy of its graph input.
    """

    def __init__(self, state: LayerState, past: Mapping[str, torch.Tensor]) -> None:
        numbers = [*state.conv, *state.recurrent]
        LinearAttentionLayer.__init__(self, number_of_states=max(numbers) + 1)
        self.parts = {
            tensor.part: (tensor.part.partition("_")[0], int(tensor.part.partition("_")[2] or 0))
            for tensor in state.tensors()
            if not tensor.grows
        }
        for part, (kind, number) in self.parts.items():
            self._of(kind)[number] = past[part].clone()
            self.has_previous_state[number] = True
            (self.is_conv_states_initialized if kind == "conv" else self.is_recurrent_states_initialized)[number] = True

    def _of(self, kind: str) -> dict[int, Any]:
        return self.conv_states if kind == "conv" else self.recurrent_states

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,  # noqa: ARG002  # transformers' signature
        **kwargs: Any,  # noqa: ARG002
    ) -> torch.Tensor:
        """Append the inputs of a convolution, ``[batch, channels, seq]``, keep the last ones and return all."""
        past: Any = self.conv_states[state_idx]
        whole = torch.cat([past, conv_states], dim=-1)
        self.conv_states[state_idx] = whole[..., -past.shape[-1] :]
        return whole

    def update_recurrent_state(
        self,
        recurrent_states: torch.Tensor,
        state_idx: int = 0,
        **kwargs: Any,  # noqa: ARG002  # transformers' signature
    ) -> torch.Tensor:
        """Replace a recurrent state."""
        past: Any = self.recurrent_states[state_idx]
        self.recurrent_states[state_idx] = recurrent_states.to(past.dtype)
        return recurrent_states.to(past.dtype)

    def present(self) -> Tensors:
        """Return the states after the forward, by part."""
        return {part: self._of(kind)[number] for part, (kind, number) in self.parts.items()}


class TracedHybridLayer(TracedStateLayer, TracedKVLayer):  # type: ignore[override]  # as transformers' own hybrids
    """A layer with attention and states."""

    def __init__(self, state: LayerState, past: Mapping[str, torch.Tensor]) -> None:
        TracedKVLayer.__init__(self, past, sliding=state.sliding)
        TracedStateLayer.__init__(self, state, past)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: all states are there from the start."""

    def get_max_length(self) -> int:
        """Return -1: no limit."""
        return -1

    def present(self) -> Tensors:
        """Return the states after the forward, by part."""
        return {**TracedKVLayer.present(self), **TracedStateLayer.present(self)}


def traced_cache(states: Sequence[LayerState], tensors: Sequence[torch.Tensor], depth: int) -> Cache:
    """Return the cache for one traced forward.

    Args:
        states: one entry per traced layer that carries anything.
        tensors: the past of their ``tensors()``, in order.
        depth: layers of the whole model. Layers that are not traced carry nothing.
    """
    layers: list[Any] = [DummyLayer() for _ in range(depth)]
    given = iter(tensors)
    for state in states:
        layers[state.layer] = _traced_layer(state, {tensor.part: next(given) for tensor in state.tensors()})
    return Cache(layers=layers)


def _traced_layer(state: LayerState, past: Tensors) -> TracedKVLayer | TracedStateLayer:
    has_states = bool(state.conv or state.recurrent)
    if state.key is None:
        return TracedStateLayer(state, past)
    return TracedHybridLayer(state, past) if has_states else TracedKVLayer(past, sliding=state.sliding)


def present_tensors(cache: Cache, states: Sequence[LayerState]) -> list[torch.Tensor]:
    """Return the states after the forward, in the order of ``states`` and their ``tensors()``."""
    found: list[torch.Tensor] = []
    for state in states:
        layer: Any = cache.layers[state.layer]
        after = layer.present()
        found += [after[tensor.part] for tensor in state.tensors()]
    return found
