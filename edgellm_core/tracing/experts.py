"""Mixture of experts: all experts run densely over all tokens, weighted by the routing.

Shapes stay static but for the number of tokens, no weights are gathered, and ONNX Runtime and TensorRT both take the
batched products. Experts that a token was not routed to get weight 0.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

IMPLEMENTATION: Final = "edgellm"
"""Name under which the dense experts stand in transformers' ``ExpertsInterface`` while a model is traced."""


def dense_experts(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Stand in for an experts function of transformers.

    Args:
        module: experts module with ``gate_up_proj`` (or ``up_proj``) and ``down_proj``, ``[experts, out, in]`` or
            transposed, as ``use_experts_implementation`` describes it.
        hidden_states: ``[tokens, hidden]``.
        top_k_index: ``[tokens, k]`` experts of each token; indices beyond the experts count for nothing.
        top_k_weights: ``[tokens, k]``.

    Returns:
        ``[tokens, hidden]``.
    """
    x = hidden_states.reshape(-1, hidden_states.shape[-1])
    up = module.gate_up_proj if module.has_gate else module.up_proj
    hidden = torch.matmul(x.unsqueeze(0), _as_in_out(module, up))
    if module.has_bias:
        bias = module.gate_up_proj_bias if module.has_gate else module.up_proj_bias
        hidden = hidden + bias.unsqueeze(1)
    hidden = module._apply_gate(hidden) if module.has_gate else module.act_fn(hidden)  # noqa: SLF001  # its interface
    output = torch.matmul(hidden, _as_in_out(module, module.down_proj))
    if module.has_bias:
        output = output + module.down_proj_bias.unsqueeze(1)
    if getattr(module, "has_post_expert_norm", False):
        output = module.post_expert_norm(output)
    routing = routing_weights(top_k_index, top_k_weights, experts=int(module.down_proj.shape[0]))
    mixed = (output * routing.t().unsqueeze(-1)).sum(0)
    return mixed.to(hidden_states.dtype).reshape(hidden_states.shape)


def _as_in_out(module: Any, weight: torch.Tensor) -> torch.Tensor:
    return weight if module.is_transposed else weight.transpose(1, 2)


def routing_weights(index: torch.Tensor, weights: torch.Tensor, *, experts: int) -> torch.Tensor:
    """Return ``[tokens, experts]``: the weight of each expert for each token, 0 where it was not chosen."""
    chosen = index.reshape(-1, index.shape[-1]).unsqueeze(-1) == torch.arange(experts, device=index.device)
    return (chosen.to(weights.dtype) * weights.reshape(-1, weights.shape[-1]).unsqueeze(-1)).sum(1)


@contextlib.contextmanager
def dense_experts_implementation(model: nn.Module) -> Iterator[None]:
    """Let the experts of a model run densely in the body."""
    from transformers.integrations.moe import ExpertsInterface

    ExpertsInterface.register(IMPLEMENTATION, dense_experts)
    configs = {id(c): c for module in model.modules() if (c := getattr(module, "config", None)) is not None}
    chosen = [config for config in configs.values() if hasattr(config, "_experts_implementation_internal")]
    saved = [config._experts_implementation_internal for config in chosen]  # noqa: SLF001  # no public query exists
    for config in chosen:
        config._experts_implementation_internal = IMPLEMENTATION  # noqa: SLF001
    try:
        yield
    finally:
        for config, implementation in zip(chosen, saved, strict=True):
            config._experts_implementation_internal = implementation  # noqa: SLF001
        ExpertsInterface._global_mapping.pop(IMPLEMENTATION, None)  # noqa: SLF001  # there is no unregister
