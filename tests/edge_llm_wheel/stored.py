"""Weights of a checkpoint by what they do, in the form in which they are to be in the graph."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors.torch import load_file

from tests.edge_llm_wheel.weights import by_rows, joined

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.edge_llm_wheel.weights import Parts, Weights

ROLES: Final = {
    "self_attn": {"qkv": (("q_proj", "k_proj", "v_proj"), ("qkv_proj",)), "o": (("o_proj",),)},
    "mlp": {"gate_up": (("gate_proj", "up_proj"), ("gate_up_proj",)), "down": (("down_proj",),)},
}
"""Part of a layer → role → names of its modules, one by one or fused."""

HEAD_NORMS: Final = (("q_norm", "k_norm"), ("query_layernorm", "key_layernorm"))


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        found |= load_file(path)
    return found


def stored_weights(directory: Path) -> Weights:
    """Return the weights of a checkpoint, by the roles of ``exported_weights``.

    Scales are rounded to float16; those of nvfp4 stay float32, but for the one that input blocks are dequantized with.
    """
    tensors = read_tensors(directory)
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("model.layers."))
    found: Weights = {}
    channels = []
    for index in range(layers):
        prefix = f"model.layers.{index}"
        sparse = f"{prefix}.mlp.gate.weight" in tensors
        if sparse:
            found[f"layers.{index}.router"] = stored_parts(tensors, f"{prefix}.mlp.gate")
            found[f"layers.{index}.experts"] = stored_experts(tensors, f"{prefix}.mlp.experts")
        for part, roles in ROLES.items():
            for role, choices in roles.items() if not (sparse and part == "mlp") else ():
                names = next(names for names in choices if f"{prefix}.{part}.{names[0]}.weight" in tensors)
                modules = [f"{prefix}.{part}.{name}" for name in names]
                found[f"layers.{index}.{role}"] = joined([stored_parts(tensors, module) for module in modules])
        gammas = [f"{prefix}.self_attn.{name}.weight" for names in HEAD_NORMS for name in names]
        present = [float16(tensors[name]) for name in gammas if name in tensors]
        found |= {f"layers.{index}.head_norm.{place}": {"weight": gamma} for place, gamma in enumerate(present)}
        channels += [
            float16(tensors[f"{prefix}.{name}.weight"]) for name in ("input_layernorm", "post_attention_layernorm")
        ]
    channels.append(float16(tensors["model.norm.weight"]))
    head = "lm_head" if "lm_head.weight" in tensors else "model.embed_tokens"
    found["head"] = stored_parts(tensors, head)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    found["norms"] = {"epsilon": np.full(len(channels), config["rms_norm_eps"], np.float32)}
    return found | {f"channels.{place}": {"weight": scale} for place, scale in enumerate(channels)}


def stored_scales(directory: Path, layer: int) -> list[float]:
    """Return the scales of queries, keys and values of a layer; 1 where none is stored."""
    tensors = read_tensors(directory)
    names = [f"model.layers.{layer}.self_attn.{kind}_proj.{kind}_scale" for kind in "qkv"]
    return [tensors[name].item() if name in tensors else 1.0 for name in names]


def stored_experts(tensors: Mapping[str, torch.Tensor], prefix: str) -> Parts:
    """Return the weights of experts that are stored one by one."""
    count = sum(name.startswith(prefix) and name.endswith("down_proj.weight") for name in tensors)
    gate, up, down = (
        np.stack([float16(tensors[f"{prefix}.{expert}.{part}_proj.weight"]) for expert in range(count)])
        for part in ("gate", "up", "down")
    )
    return {"gate_up": np.concatenate([gate, up], axis=1), "down": down}


def stored_parts(tensors: Mapping[str, torch.Tensor], module: str) -> Parts:
    """Return weight, scales and bias of a linear layer."""
    own = {name.rpartition(".")[2]: value for name, value in tensors.items() if name.rpartition(".")[0] == module}
    weight, scale = own["weight"], own.get("weight_scale")
    bias = {"bias": float16(own["bias"])} if "bias" in own else {}
    if "pre_quant_scale" in own:
        message = f"{module} has a pre_quant_scale, but its smoothing is meant to be folded"
        raise ValueError(message)
    if scale is None:
        return by_rows({"weight": float16(weight), **bias})
    if weight.dtype == torch.float8_e4m3fn:
        scales = {name: float16(own[name]) for name in ("weight_scale", "input_scale")}
        return by_rows({"weight": as_bytes(weight), **scales, **bias})
    halves = [as_bytes(weight) & 15, as_bytes(weight) >> 4]
    if "weight_scale_2" not in own:
        rows = np.stack(halves, axis=1).reshape(-1, weight.shape[1]).astype(np.int8)
        return by_rows({"weight": (rows ^ 8) - 8, "weight_scale": float16(scale), **bias})
    numbers = np.stack(halves, axis=-1).reshape(len(weight), -1)
    wide = {name: own[name].numpy() for name in ("weight_scale_2", "input_scale")}
    back = {"input_scale_back": float16(own["input_scale"])}  # scales of blocks are float16 after them
    return by_rows({"weight": numbers, "weight_scale": as_bytes(scale), **wide, **back, **bias})


def float16(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor rounded to float16."""
    array: np.ndarray[Any, Any] = tensor.to(torch.float16).numpy()
    return array


def as_bytes(tensor: torch.Tensor) -> np.ndarray:
    """Return numbers of 8 bits as bytes."""
    array: np.ndarray[Any, Any] = tensor.view(torch.uint8).numpy()
    return array
