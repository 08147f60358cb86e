"""Checkpoints whose experts are four-bit, in ModelOpt's form: scales of absmax / 7, two outputs in a byte."""

from __future__ import annotations

import json
import re

import torch
from safetensors.torch import load_file, save_file

EXPERT = re.compile(r".*\.experts\.\d+\.\w+\.weight")


def rounded(weight, group):
    """Return ``weight`` uint8 ``[out / 2, in]`` and ``weight_scale`` float32 ``[out, in / group]``."""
    blocks = weight.float().reshape(len(weight), -1, group)
    scale = (blocks.abs().amax(-1, keepdim=True) / 7).to(torch.float16).float()
    numbers = (blocks / scale).round().clamp(-7, 7).to(torch.int8).reshape(weight.shape) & 15
    return (numbers[0::2] | numbers[1::2] << 4).view(torch.uint8), scale[..., 0].contiguous()


def quantize_experts(folder, *, group, only=EXPERT):
    """Round the experts of a checkpoint with one file of weights, in place; return it.

    Args:
        folder: the checkpoint; linear layers of it may be quantized with the same group size.
        group: inputs that share a scale.
        only: expression for the names of the weights.
    """
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if only.fullmatch(name)]:
        tensors[name], scale = rounded(tensors[name], group)
        tensors[f"{name}_scale"] = scale
    save_file(tensors, path, metadata={"format": "pt"})
    described = folder / "hf_quant_config.json"
    if not described.is_file():
        quantization = {"quant_algo": "W4A16_AWQ", "group_size": group, "kv_cache_quant_algo": None}
        described.write_text(json.dumps({"quantization": quantization}), encoding="utf-8")
    return folder
