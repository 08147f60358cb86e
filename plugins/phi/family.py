"""Phi 1, 1.5 and 2."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class PhiFamily(ModelFamily):
    """Attention and MLP side by side behind one layer norm, and RoPE on a part of each head."""

    name: ClassVar[str] = "phi"
    model_types: ClassVar[tuple[str, ...]] = ("phi",)
    architectures: ClassVar[tuple[str, ...]] = ("PhiForCausalLM",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="phi2", partial_rotary=True, bias_flag="",
            keys={"attention.layer_norm_epsilon": "layer_norm_eps"}, implied={"hidden_act": "gelu_new"},
            tensors={
                "output_norm": "model.final_layernorm", "attn_output": "self_attn.dense", "ffn_up": "mlp.fc1",
                "ffn_down": "mlp.fc2",
            },
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with RoPE on half a head, and norms on q and k, which no released checkpoint has."""
        return {
            "model_type": "phi", "architectures": ["PhiForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "qk_layernorm": True,
            "hidden_act": "gelu_new", "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        }  # fmt: skip
