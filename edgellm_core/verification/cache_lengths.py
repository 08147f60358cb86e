"""How long transformers' cache is before its later layers have been reached.

A model makes its masks and positions from the lengths of the cache before the first decoder layer runs. Where the model
is run part by part, the layers of later parts have not seen the steps before yet; here is what they will hold then, in
tensors without data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class CacheLengths:
    """Layers of a cache that hold no data.

    Attributes:
        layers: one for each decoder layer; what the cache's ``layers`` are meanwhile.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.layers: list[Any] = DynamicCache(config=config).layers

    def add(self, batch: int, tokens: int) -> None:
        """Count ``tokens`` tokens of each of ``batch`` sequences."""
        states = torch.empty(batch, 1, tokens, 1, device="meta")
        for layer in self.layers:
            if isinstance(layer, DynamicLayer):
                layer.update(states, states)
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                layer.has_previous_state = dict.fromkeys(layer.has_previous_state, True)
