"""Families that compute in the type of the graph what Llama widens to float32; each is to be refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.contract import ModelFamily
from edgellm_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping


def narrow_norm(self: Any, hidden_states: Any) -> Any:
    """Llama's norm without ``to(float32)``."""
    mean = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden_states * (mean + self.variance_epsilon).rsqrt())


def narrow_squares(self: Any, hidden_states: Any) -> Any:
    """Llama's norm with squares in the type of the graph and their mean in float32."""
    mean = hidden_states.pow(2).float().mean(-1, keepdim=True)
    scaled = hidden_states.float() * (mean + self.variance_epsilon).rsqrt()
    return self.weight * scaled.to(hidden_states.dtype)


def rounded_frequencies(self: Any, x: Any, position_ids: Any) -> Any:
    """Llama's rotation with frequencies that were rounded to float16."""
    angles = position_ids[..., None].float() * self.inv_freq.half().float()
    return _tables(angles, x)


def narrow_angles(self: Any, x: Any, position_ids: Any) -> Any:
    """Llama's rotation with angles in the type of the graph."""
    return _tables((position_ids[..., None].float() * self.inv_freq).to(x.dtype), x)


def narrow_positions(self: Any, x: Any, position_ids: Any) -> Any:
    """Llama's rotation with positions in the type of the graph, which float16 counts to 2,048."""
    return _tables(position_ids[..., None].to(x.dtype).float() * self.inv_freq, x)


def _tables(angles: Any, x: Any) -> Any:
    import torch

    both = torch.cat((angles, angles), dim=-1)
    return both.cos().to(x.dtype), both.sin().to(x.dtype)


def _family(title: str, module: str, forward: Any) -> type[ModelFamily]:
    def module_forwards(_self: ModelFamily) -> Mapping[str, Any]:
        return {module: forward}

    return type(title, (ModelFamily,), {"name": title, "module_forwards": module_forwards})


@hookimpl
def edgellm_register_families() -> list[type[ModelFamily]]:
    """Register all."""
    return [
        _family("narrow-norm", "LlamaRMSNorm", narrow_norm),
        _family("narrow-squares", "LlamaRMSNorm", narrow_squares),
        _family("rounded-frequencies", "LlamaRotaryEmbedding", rounded_frequencies),
        _family("narrow-angles", "LlamaRotaryEmbedding", narrow_angles),
        _family("narrow-positions", "LlamaRotaryEmbedding", narrow_positions),
    ]
