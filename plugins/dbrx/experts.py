"""Experts of DBRX without a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.tracing.experts import routing_weights

if TYPE_CHECKING:
    import torch


def all_experts(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Return the sum over the experts, weighted by the routing, in the shape of ``hidden_states``.

    Args:
        module: ``DbrxExperts``; its weights are ``[experts * ffn_hidden_size, hidden_size]``.
        hidden_states: ``[batch, seq, hidden]``.
        top_k_index: ``[tokens, k]`` experts of each token.
        top_k_weights: ``[tokens, k]``.
    """
    shape = (module.num_experts, module.ffn_hidden_size, module.hidden_size)
    w1, v1, w2 = (weight.view(shape) for weight in (module.mlp.w1, module.mlp.v1, module.mlp.w2))
    x = hidden_states.reshape(-1, module.hidden_size)
    inner = module.mlp.activation_fn(x @ w1.transpose(1, 2)) * (x @ v1.transpose(1, 2))
    routing = routing_weights(top_k_index, top_k_weights, experts=module.num_experts)
    mixed: torch.Tensor = ((inner @ w2) * routing.t().unsqueeze(-1)).sum(0)
    return mixed.reshape(hidden_states.shape)
