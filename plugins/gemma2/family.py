"""Gemma 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm

if TYPE_CHECKING:
    from collections.abc import Callable


class Gemma2Family(ModelFamily):
    """Gemma's decoder with norms before and after each block, softcaps, and windows on every other layer."""

    name: ClassVar[str] = "gemma2"
    model_types: ClassVar[tuple[str, ...]] = ("gemma2",)
    architectures: ClassVar[tuple[str, ...]] = ("Gemma2ForCausalLM",)
    # hidden_act repeats hidden_activation, sliding_window_size repeats sliding_window in the checkpoints of Google.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("hidden_act", "sliding_window_size")
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="gemma2", norm_offset=1.0, window_period=2,
            keys={
                "attention.key_length": "head_dim", "attention.sliding_window": "sliding_window",
                "attn_logit_softcapping": "attn_logit_softcapping",
                "final_logit_softcapping": "final_logit_softcapping", "attention.scale": "",
            },
            tensors={
                "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
                "post_ffw_norm": "post_feedforward_layernorm",
            },
        ),
    )  # fmt: skip

    def complete_gguf_config(self, config: dict[str, Any], take: Callable[[str], Any]) -> None:
        """Set the scale of the scores: by the width of a head, and of the model in the one of 27 B (46 layers)."""
        scale = take("attention.scale")
        wide = config.get("num_hidden_layers") == 46  # llama.cpp, LLM_TYPE_27B
        heads = config.get("num_attention_heads") or 1
        scalar = config.get("hidden_size", 0) // heads if wide else config.get("head_dim")
        config["query_pre_attn_scalar"] = scalar if scale is None else round(scale**-2)

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes; caps are low enough to bend, the window is shorter than any prompt."""
        return {
            "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "sliding_window": 5, "query_pre_attn_scalar": 8, "tie_word_embeddings": True,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        }  # fmt: skip
