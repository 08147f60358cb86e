"""Gemma 1 and 1.1, and CodeGemma."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class GemmaFamily(ModelFamily):
    """RMS norms that multiply by 1 + w, embeddings times √hidden, and a gated MLP with tanh GELU."""

    name: ClassVar[str] = "gemma"
    model_types: ClassVar[tuple[str, ...]] = ("gemma",)
    architectures: ClassVar[tuple[str, ...]] = ("GemmaForCausalLM",)
    # Gemma 1.1 writes the tanh GELU there; transformers computes it whatever hidden_act says.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("hidden_activation",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="gemma", keys={"attention.key_length": "head_dim"}, norm_offset=1.0,
            implied={"hidden_act": "gelu_pytorch_tanh"},
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with a free head size and a tied head."""
        return {
            "model_type": "gemma", "architectures": ["GemmaForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        }  # fmt: skip
