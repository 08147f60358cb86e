"""Granite 3 (dense)."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class GraniteFamily(ModelFamily):
    """Llama's decoder with four multipliers: of embeddings, attention, residual branches and logits."""

    name: ClassVar[str] = "granite"
    model_types: ClassVar[tuple[str, ...]] = ("granite",)
    architectures: ClassVar[tuple[str, ...]] = ("GraniteForCausalLM",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="granite", flags={"ffn_up.bias": "mlp_bias"}, paired_rows=("attn_q", "attn_k"),
            keys={
                "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
                "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
            },
            required=("attention.scale",),
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with biases and four multipliers, none of them 1."""
        return {
            "model_type": "granite", "architectures": ["GraniteForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64,
            "embedding_multiplier": 3.0, "attention_multiplier": 0.6, "residual_multiplier": 0.7, "logits_scaling": 2.0,
            "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        }  # fmt: skip
