"""StableLM 2, StableLM 3B and StableCode."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class StableLmFamily(ModelFamily):
    """Layer norms, RoPE on a quarter of each head; where stated, a parallel block and a norm for each head."""

    name: ClassVar[str] = "stablelm"
    model_types: ClassVar[tuple[str, ...]] = ("stablelm",)
    architectures: ClassVar[tuple[str, ...]] = ("StableLmForCausalLM",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="stablelm", partial_rotary=True, bias_flag="use_qkv_bias",
            flags={"attn_q_norm": "qk_layernorm"},
            keys={
                "attention.layer_norm_epsilon": "layer_norm_eps", "use_parallel_residual": "use_parallel_residual",
            },
            required=("use_parallel_residual",),
            tensors={
                "attn_q_norm": "self_attn.q_layernorm.norms.{e}", "attn_k_norm": "self_attn.k_layernorm.norms.{e}",
            },
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with everything on: parallel block, biases, and a layer norm for each head."""
        return {
            "model_type": "stablelm", "architectures": ["StableLmForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64,
            "use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        }  # fmt: skip
