"""Command R, Command R+ and Aya 23."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class CohereFamily(ModelFamily):
    """A parallel block behind one layer norm without bias, RoPE on neighbouring channels, and scaled logits."""

    name: ClassVar[str] = "cohere"
    model_types: ClassVar[tuple[str, ...]] = ("cohere",)
    architectures: ClassVar[tuple[str, ...]] = ("CohereForCausalLM",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="command-r", flags={"attn_q_norm": "use_qk_norm"}, required=("logit_scale",),
            keys={"attention.layer_norm_epsilon": "layer_norm_eps", "logit_scale": "logit_scale"},
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with biases and norms on q and k."""
        return {
            "model_type": "cohere", "architectures": ["CohereForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "logit_scale": 0.25,
            "use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": True, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        }  # fmt: skip
