"""gpt-oss."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class GptOssFamily(ModelFamily):
    """Attention with sinks, windows on every other layer, and routed experts with biases and a clamped SwiGLU."""

    name: ClassVar[str] = "gpt_oss"
    model_types: ClassVar[tuple[str, ...]] = ("gpt_oss",)
    architectures: ClassVar[tuple[str, ...]] = ("GptOssForCausalLM",)
    # Names of OpenAI's own code for num_experts_per_tok and the original context of YaRN, which config.json has too.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("experts_per_token", "initial_context_length")
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="gpt-oss", experts=True, window_period=2, yarn_truncates=False,
            keys={
                "attention.key_length": "head_dim", "attention.sliding_window": "sliding_window",
                "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok",
                "expert_feed_forward_length": "intermediate_size",
            },
            required=("attention.sliding_window",),
            tensors={
                "post_attention_norm": "post_attention_layernorm", "attn_sinks.weight": "self_attn.sinks",
                "ffn_gate_inp": "mlp.router", "ffn_down_exps.weight": "mlp.experts.down_proj",
                "ffn_down_exps.bias": "mlp.experts.down_proj_bias",
            },
            interleaved={
                "mlp.experts.gate_up_proj": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
                "mlp.experts.gate_up_proj_bias": ("ffn_gate_exps.bias", "ffn_up_exps.bias"),
            },
            transposed=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes; the window is shorter than any prompt, and the clamp cuts."""
        return {
            "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "num_local_experts": 5, "num_experts_per_tok": 2, "swiglu_limit": 0.5, "attention_bias": True,
            "sliding_window": 5, "tie_word_embeddings": False,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "truncate": False, "original_max_position_embeddings": 16,
            },
        }  # fmt: skip
