"""A checkpoint with attention scores of several hundred, as trained Qwen2 have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

if TYPE_CHECKING:
    from pathlib import Path


def write_large_scores(folder: Path, *, size: float = 300.0) -> Qwen2ForCausalLM:
    """Write a tiny Qwen2 with key biases of ``size`` into a folder and return it, in float32.

    At 300, scores reach 600, and float32 itself is 1e-4 away from float64.
    """
    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=512, hidden_size=128, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=1, eos_token_id=2,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.normal_(1.0 if "norm" in name else 0.0, 0.1 if tensor.dim() == 1 else tensor.shape[-1] ** -0.5)
        for layer in model.model.layers:  # channels that RoPE hardly turns lift all scores alike
            for part, bias in ((layer.self_attn.q_proj, 8.0), (layer.self_attn.k_proj, size)):
                for start in range(0, part.out_features, 64):
                    for channel in (start + 31, start + 63):
                        part.weight[channel], part.bias[channel] = 0, bias
    model.save_pretrained(folder)
    return model
