"""Mixture of experts: one semantic operator where the experts are SwiGLU, else dense products over all tokens.

In dense products shapes stay static but for the number of tokens, no weights are gathered, and ONNX Runtime and
TensorRT both take the batched products. Experts that a token was not routed to get weight 0.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

from edgellm_core.tracing import operators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    ExpertsFunction = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

IMPLEMENTATION: Final = "edgellm"
"""Name under which these functions stand in transformers' ``ExpertsInterface`` while a model is traced."""


def captured_experts(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Record the semantic operator for experts that :func:`is_swiglu` accepts; see :func:`dense_experts`."""
    x = hidden_states.reshape(-1, hidden_states.shape[-1])
    index, weights = (chosen.reshape(-1, chosen.shape[-1]) for chosen in (top_k_index, top_k_weights))
    mixed = operators.experts(x, index, weights, module.gate_up_proj, module.down_proj)
    return mixed.reshape(hidden_states.shape)


def is_swiglu(module: Any) -> bool:
    """Say whether experts are ``down · (silu(gate) * up)`` without biases, the gates' rows first, by random numbers."""
    if not module.has_gate or module.has_bias or module.is_transposed or getattr(module, "has_post_expert_norm", False):
        return False
    with _disable_current_modes(), torch.no_grad():
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0), device="cpu") * 4
        x[-1] *= 1e4  # beyond any limit that an activation may clamp to
        try:
            gated = module._apply_gate(x)  # noqa: SLF001  # its interface
        except (TypeError, RuntimeError, ValueError, AttributeError):  # needs weights, which a traced model has not
            return False
        gate, up = x.chunk(2, -1)
        return bool(gated.shape == up.shape and torch.allclose(gated, functional.silu(gate) * up))


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
def traceable_experts(model: nn.Module) -> Iterator[None]:
    """Let the experts of a model run as the semantic operator in the body, or densely where they are none."""
    from transformers.integrations.moe import ExpertsInterface

    ExpertsInterface.register(IMPLEMENTATION, _chosen(model))
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


def _chosen(model: nn.Module) -> ExpertsFunction:
    """Return the experts function of a model; which experts are SwiGLU is tried before anything is traced."""
    swiglu = {id(module) for module in model.modules() if hasattr(module, "is_transposed") and is_swiglu(module)}

    def run(
        module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        function = captured_experts if id(module) in swiglu else dense_experts
        return function(module, hidden_states, top_k_index, top_k_weights)

    return run
