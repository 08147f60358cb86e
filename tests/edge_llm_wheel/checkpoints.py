"""The checkpoints that both exporters get: tiny, random, and quantized once by ``edgellm quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import edgellm_core
from edgellm_core.testing.checkpoints import write_tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

FP8_CACHE: Final = "-fp8kv"
"""End of the schemes with a KV cache in fp8, as in test matrices."""

SCHEMES: Final = ("fp16", "fp8", "fp8-fp8kv", "int4_awq", "nvfp4")

_SIZES: Final = {
    "vocab_size": 160, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "eos_token_id": 2,
}  # fmt: skip
"""Heads of 64, which the plugin takes; widths that blocks of 128 and the int4 plugin's tiles divide."""

_PLAIN: Final = {"rope_type": "default", "rope_theta": 10000.0}

CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "llama": {
        **_SIZES, "architectures": ["LlamaForCausalLM"], "head_dim": 64, "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    },
    "qwen2": {
        **_SIZES, "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True,
        "rope_parameters": {**_PLAIN, "rope_theta": 1000000.0},
    },
    "qwen3": {
        **_SIZES, "architectures": ["Qwen3ForCausalLM"], "head_dim": 64, "tie_word_embeddings": True,
        "rope_parameters": {**_PLAIN, "rope_theta": 1000000.0},
    },
    "phi3": {
        **_SIZES, "architectures": ["Phi3ForCausalLM"], "tie_word_embeddings": False, "pad_token_id": 0,
        "rope_parameters": _PLAIN,
    },
    "hunyuan_v1_dense": {
        **_SIZES, "architectures": ["HunYuanDenseV1ForCausalLM"], "head_dim": 64, "tie_word_embeddings": True,
        "pad_token_id": 0, "rope_parameters": _PLAIN,
    },
    "qwen3_moe": {
        **_SIZES, "architectures": ["Qwen3MoeForCausalLM"], "head_dim": 64, "tie_word_embeddings": False,
        "num_experts": 128, "num_experts_per_tok": 4, "moe_intermediate_size": 128, "norm_topk_prob": True,
        "rope_parameters": {**_PLAIN, "rope_theta": 1000000.0},
    },
}  # fmt: skip
"""``model_type`` → rest of its config: heads tied and not, biases (qwen2), norms by head, fused rows, experts."""

QUANTIZED: Final = tuple(family for family in CONFIGS if family != "qwen3_moe")
"""Families whose every layer ``edgellm quantize`` quantizes; experts stay in floats."""

CASES: Final = [
    (family, scheme)
    for family in CONFIGS
    for scheme in SCHEMES
    if (scheme == "fp16" or family in QUANTIZED) and (family, scheme) != ("phi3", "fp8-fp8kv")
]
"""phi3 projects queries, keys and values at once, and the scale of a cache lies with a projection of its own."""


def write_checkpoint(directory: Path, family: str, scheme: str) -> Path:
    """Write the checkpoint of a case; return its folder.

    Args:
        directory: parent of the folders of all cases.
        family: key of ``CONFIGS``.
        scheme: one of ``SCHEMES``.
    """
    source, wanted = directory / family / "fp16", directory / family / scheme
    if not source.is_dir():
        write_tiny_checkpoint(source, {"model_type": family, **CONFIGS[family]}, dtype="float16")
    if scheme != "fp16":
        settings: dict[str, Any] = {"calib_data": "builtin", "calib_samples": 4, "calib_length": 32}
        cache = "fp8" if scheme.endswith(FP8_CACHE) else None
        edgellm_core.quantize(source, wanted, precision=scheme.removesuffix(FP8_CACHE), kv_cache=cache, **settings)
    return wanted
