"""RoPE whose frequencies depend on the length ("dynamic" NTK scaling), computed in the graph.

transformers recomputes the frequencies in Python when a sequence outgrows ``max_position_embeddings``, which a trace
can't follow. Here both sets are in the graph and the largest position chooses. A graph keeps no state between calls:
transformers' habit of keeping the frequencies of an earlier, longer sequence is not copied.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

DYNAMIC = "dynamic"


@contextlib.contextmanager
def dynamic_frequencies(model: nn.Module) -> Iterator[None]:
    """Let the dynamic RoPE modules of a model choose their frequencies in the graph in the body."""
    changed = [module for module in model.modules() if _is_dynamic(module)]
    for module in changed:
        module.forward = _choosing(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _is_dynamic(module: Any) -> bool:
    kinds = getattr(module, "rope_type", None)
    return kinds == DYNAMIC or (isinstance(kinds, dict) and DYNAMIC in kinds.values())


def _choosing(module: Any) -> Callable[..., Any]:
    """Return the forward of a RoPE module without transformers' update of its frequencies."""
    usual, bare = module.forward, inspect.unwrap(type(module).forward)

    def forward(x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Any:
        layer = {} if layer_type is None else {"layer_type": layer_type}
        if layer_type is not None and module.rope_type[layer_type] != DYNAMIC:
            return usual(x, position_ids, **layer)
        buffer = "inv_freq" if layer_type is None else f"{layer_type}_inv_freq"
        stored = module._buffers[buffer]  # noqa: SLF001  # setattr refuses what is no plain tensor
        module._buffers[buffer] = _frequencies(module, stored, position_ids, layer_type)  # noqa: SLF001
        try:
            return bare(module, x, position_ids, **layer)
        finally:
            module._buffers[buffer] = stored  # noqa: SLF001

    return forward


def _frequencies(module: Any, stored: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None) -> torch.Tensor:
    """Return ``[rotary_dim / 2]``: the stored ones up to the original length, scaled ones beyond it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    length = position_ids.max() + 1
    compute: Any = ROPE_INIT_FUNCTIONS[DYNAMIC]
    scaled, _factor = compute(module.config, position_ids.device, seq_len=length, layer_type=layer_type)
    chosen: torch.Tensor = torch.where(length > module.original_max_seq_len, scaled, stored)
    return chosen
