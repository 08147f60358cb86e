"""DBRX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgellm_core.contract import ModelFamily

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.contract import ModuleForward


class DbrxFamily(ModelFamily):
    """Sixteen routed experts in one loop, one projection for clipped q, k and v, norms without biases."""

    name: ClassVar[str] = "dbrx"
    model_types: ClassVar[tuple[str, ...]] = ("dbrx",)
    architectures: ClassVar[tuple[str, ...]] = ("DbrxForCausalLM",)

    def module_forwards(self) -> Mapping[str, ModuleForward]:
        """Run all experts on all tokens: the loop of transformers asks which experts were chosen."""
        from .experts import all_experts

        return {"DbrxExperts": all_experts}

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with four experts, and clipping that cuts."""
        return {
            "model_type": "dbrx", "architectures": ["DbrxForCausalLM"], "vocab_size": 131, "n_layers": 2, "n_heads": 6,
            "d_model": 96, "max_seq_len": 64, "attn_config": {"kv_n_heads": 2, "clip_qkv": 1.5, "rope_theta": 1e4},
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 112, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 96},
        }  # fmt: skip
