"""Gemma 3 without a vision tower: 270M and 1B."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm

if TYPE_CHECKING:
    from collections.abc import Callable


class Gemma3TextFamily(ModelFamily):
    """Gemma 2's decoder with norms on q and k instead of softcaps, and a RoPE for each kind of layer."""

    name: ClassVar[str] = "gemma3_text"
    model_types: ClassVar[tuple[str, ...]] = ("gemma3_text",)
    architectures: ClassVar[tuple[str, ...]] = ("Gemma3ForCausalLM",)
    # transformers 4.5x saved it beside layer_types, which decide.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("_sliding_window_pattern",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="gemma3", norm_offset=1.0, window_period=6, sliding_rope=True,
            keys={
                "attention.key_length": "head_dim", "attention.sliding_window": "sliding_window",
                "final_logit_softcapping": "final_logit_softcapping", "attention.scale": "",
            },
            tensors={
                "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
                "post_ffw_norm": "post_feedforward_layernorm",
            },
        ),
    )  # fmt: skip

    def complete_gguf_config(self, config: dict[str, Any], take: Callable[[str], Any]) -> None:
        """Set the scale of the scores: by the width of a head, and of the model in the one of 27 B (62 layers)."""
        layers, heads = config.get("num_hidden_layers", 0), config.get("num_attention_heads") or 1
        scale = take("attention.scale")
        wide = layers == 62  # llama.cpp, LLM_TYPE_27B
        scalar = config.get("hidden_size", 0) // heads if wide else config.get("head_dim")
        config["query_pre_attn_scalar"] = scalar if scale is None else round(scale**-2)
        if not take("attention.sliding_window"):
            config["layer_types"] = ["full_attention"] * layers

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes; windowed and full layers turn differently, the window is shorter than any prompt."""
        return {
            "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "sliding_window": 5, "query_pre_attn_scalar": 8, "tie_word_embeddings": True,
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            },
        }  # fmt: skip
