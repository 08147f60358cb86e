"""StarCoder2."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class Starcoder2Family(ModelFamily):
    """Layer norms, biases everywhere, an MLP without gate, and a window on every layer."""

    name: ClassVar[str] = "starcoder2"
    model_types: ClassVar[tuple[str, ...]] = ("starcoder2",)
    architectures: ClassVar[tuple[str, ...]] = ("Starcoder2ForCausalLM",)
    # BigCode's checkpoints keep these keys of their trainer; each states what the class always does, or repeats a key.
    harmless_config_keys: ClassVar[tuple[str, ...]] = (
        "activation_function", "attention_softmax_in_fp32", "layer_norm_epsilon", "mlp_type", "norm_type",
        "scale_attention_softmax_in_fp32", "scale_attn_weights",
    )  # fmt: skip
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="starcoder2", bias_flag="use_bias", keys={"attention.layer_norm_epsilon": "norm_epsilon"},
            tensors={"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes; the window is shorter than any prompt."""
        return {
            "model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 5,
            "use_bias": True, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }  # fmt: skip
