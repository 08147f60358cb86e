"""HunYuan dense models: 0.5B, 1.8B, 4B, 7B, and Hunyuan-MT."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class HunYuanDenseV1Family(ModelFamily):
    """Llama's decoder with norms on the heads of q and k after RoPE, and a RoPE base stretched by alpha."""

    name: ClassVar[str] = "hunyuan_v1_dense"
    model_types: ClassVar[tuple[str, ...]] = ("hunyuan_v1_dense",)
    architectures: ClassVar[tuple[str, ...]] = ("HunYuanDenseV1ForCausalLM",)
    # One config class served all of Tencent's models. These say what the dense ones always do (RMS norms, norms on q
    # and k, RoPE), repeat a size, or belong to what is off: use_cla, add_classification_head, images and video.
    harmless_config_keys: ClassVar[tuple[str, ...]] = (
        "attention_head_dim", "cla_share_factor", "dense_list", "enable_lm_head_fp32", "im_end_id", "im_newline_id",
        "im_start_id", "image_token_id", "mask_init_id", "norm_type", "org_vocab_size", "pad_id", "pool_type",
        "text_end_id", "text_start_id", "use_qk_norm", "use_rotary_pos_emb", "video_end_id", "video_start_id",
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with a free head size, a tied head, biases, and an alpha that stretches the RoPE base."""
        return {
            "model_type": "hunyuan_v1_dense", "architectures": ["HunYuanDenseV1ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "attention_bias": True, "tie_word_embeddings": True, "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0, "alpha": 1000.0, "beta_fast": 32,
                "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
            },
        }  # fmt: skip
