"""GLM-4-0414 and GLM-Z1."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class Glm4Family(ModelFamily):
    """Norms before and after each block, a fused gate and up, and RoPE on neighbouring channels of half a head."""

    name: ClassVar[str] = "glm4"
    model_types: ClassVar[tuple[str, ...]] = ("glm4",)
    architectures: ClassVar[tuple[str, ...]] = ("Glm4ForCausalLM",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="glm4", partial_rotary=True, keys={"attention.key_length": "head_dim"},
            tensors={
                "post_attention_norm": "post_self_attn_layernorm", "post_ffw_norm": "post_mlp_layernorm",
                "ffn_up": "mlp.gate_up_proj",
            },
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with biases on q, k and v."""
        return {
            "model_type": "glm4", "architectures": ["Glm4ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "attention_bias": True, "tie_word_embeddings": False, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        }  # fmt: skip
