"""Quantized twins of a small Llama: the packed checkpoint that is built, and the weights that it stands for."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tests.corpus.case import Made
from tests.corpus.checkpoints import edit_json, edit_tensors, llama
from tests.packed_checkpoints import awq_integers, plain_integers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GROUP = 32
Parts = dict[str, Any]

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP, "zero_point": True}


def packed(
    folder: Path,
    quantization: dict[str, Any],
    pack: Callable[..., Parts],
    *,
    symmetric: bool = True,
    shuffled: bool = False,
    group: int = GROUP,
    head: bool = False,
    plain_layers: tuple[str, ...] = (),
    change: Callable[[str, Parts], Parts] = lambda _module, parts: parts,
    **fields: Any,
) -> Made:
    """Quantize every projection of a small Llama to four bits.

    Args:
        folder: where both checkpoints go.
        quantization: ``quantization_config``.
        pack: ``(codes, zeros, scales, group of each input)`` → tensors of a layer by suffix.
        symmetric: all zero points are 8.
        shuffled: groups are not neighbours (act-order).
        group: inputs in a group.
        head: lm_head is quantized too.
        plain_layers: ends of the paths of layers that are not quantized.
        change: replaces the packed tensors of a layer.
        fields: fields of the config.
    """
    source = llama(folder, **{"hidden_size": 64, "intermediate_size": 64, **fields})
    original = shutil.copytree(source, folder / "original")
    generator, new, plain = np.random.default_rng(3), {}, {}

    def quantize(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name, tensor in tensors.items():
            quantized = name.endswith("_proj.weight") or (head and name == "lm_head.weight")
            if not quantized or name.removesuffix(".weight").endswith(plain_layers or ("\0",)):
                new[name] = plain[name] = tensor
                continue
            module, inputs = name.removesuffix(".weight"), tensor.shape[1]
            member = np.arange(inputs) // group
            if shuffled:
                member = generator.permutation(member)
            codes, zeros, scales = _rounded(tensor.numpy(), member, symmetric=symmetric)
            weight = (codes - zeros[:, member]) * scales[:, member].astype(np.float64)
            plain[name] = torch.from_numpy(weight).float()
            parts = change(module, pack(codes, zeros, scales, member))
            for suffix, part in parts.items():
                array = part if isinstance(part, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(part))
                new[f"{module}.{suffix}"] = array
        return new

    edit_tensors(source, quantize)
    edit_tensors(original, lambda _tensors: plain)
    edit_json(source / "config.json", quantization_config=quantization)
    return Made(source, original)


def _rounded(weight: Any, member: Any, *, symmetric: bool) -> tuple[Any, Any, Any]:
    """Return codes ``[out, in]``, zero points and float16 scales ``[out, groups]``."""
    groups = [weight[:, member == group] for group in range(member.max() + 1)]
    low = np.stack([g.min(1) for g in groups], 1).clip(max=0)
    high = np.stack([g.max(1) for g in groups], 1).clip(min=0)
    if symmetric:
        scales = (np.maximum(-low, high) / 7).astype(np.float16)
        zeros = np.full(scales.shape, 8)
    else:
        scales = ((high - low) / 15).astype(np.float16)
        zeros = np.clip(np.round(-low / scales), 1, 15).astype(int)
    codes = np.clip(np.round(weight / scales[:, member]) + zeros[:, member], 0, 15).astype(int)
    return codes, zeros, scales


def gptq(codes: Any, zeros: Any, scales: Any, member: Any, *, less: int = 1) -> Parts:
    """Return a layer as AutoGPTQ stores it; ``less`` 0 as the second format has zero points."""
    return {
        "qweight": plain_integers(codes).T, "qzeros": plain_integers(zeros.T - less), "scales": scales.T,
        "g_idx": member.astype(np.int32),
    }  # fmt: skip


def gptq_v2(*layer: Any) -> Parts:
    """Return a layer of the second format."""
    return gptq(*layer, less=0)


def awq(codes: Any, zeros: Any, scales: Any, _member: Any) -> Parts:
    """Return a layer as AutoAWQ stores it."""
    return {"qweight": awq_integers(codes.T), "qzeros": awq_integers(zeros.T), "scales": scales.T}


def compressed(codes: Any, zeros: Any, scales: Any, member: Any) -> Parts:
    """Return a layer as compressed-tensors packs it."""
    found: Parts = {
        "weight_packed": plain_integers(codes), "weight_scale": scales, "weight_shape": np.array(codes.shape),
    }  # fmt: skip
    if (zeros != 8).any():
        found["weight_zero_point"] = plain_integers(zeros.T).T
    if (np.diff(member) < 0).any():
        found["weight_g_idx"] = member.astype(np.int32)
    return found


FOUR_BITS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}


def compressed_settings(layout: str, weights: Parts, inputs: Parts | None = None, **settings: Any) -> Parts:
    """Return ``quantization_config`` of compressed-tensors with one group of layers."""
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups, "ignore": ["lm_head"],
            "quantization_status": "compressed", **settings}  # fmt: skip


def float8(
    folder: Path, *, by_channel: bool = False, cache: bool = False, change: Callable[[Parts], Parts] = lambda t: t,
    **settings: Any,
) -> Made:  # fmt: skip
    """Write a small Llama with every projection in FP8, as LLM Compressor does, with static scales of the inputs."""
    source = llama(folder, hidden_size=64, intermediate_size=64)

    def quantize(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        new = dict(tensors)
        for name, tensor in tensors.items():
            if name.endswith("_proj.weight"):
                largest = tensor.abs().amax(1, keepdim=True) if by_channel else tensor.abs().max().reshape(1)
                new[f"{name}_scale"] = largest / 448
                new[name] = (tensor / new[f"{name}_scale"]).to(torch.float8_e4m3fn)
                new[name.replace(".weight", ".input_scale")] = torch.tensor([0.01 + 0.001 * (len(new) % 7)])
        if cache:
            for layer in range(2):
                new[f"model.layers.{layer}.self_attn.k_scale"] = torch.tensor([0.01 + 0.01 * layer])
                new[f"model.layers.{layer}.self_attn.v_scale"] = torch.tensor([0.03 + 0.01 * layer])
        return change(new)

    edit_tensors(source, quantize)
    weights = FLOAT8 | {"strategy": "channel" if by_channel else "tensor"}
    known = {"kv_cache_scheme": FLOAT8} if cache else {}
    config = compressed_settings("float-quantized", weights, FLOAT8, **(known | settings))
    edit_json(source / "config.json", quantization_config=config)
    return Made(source)


def modelopt(folder: Path, *, change: Callable[[Parts], Parts] = lambda t: t, **quantization: Any) -> Made:
    """Write a small Llama with every projection in FP8, as ModelOpt does; ``quantization`` is described in its file."""
    made = float8(folder, change=lambda tensors: change({n: t.reshape(()) if t.shape == (1,) else t
                                                         for n, t in tensors.items()}))  # fmt: skip
    edit_json(made.source / "config.json", remove=("quantization_config",))
    described = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None, **quantization}}
    (made.source / "hf_quant_config.json").write_text(json.dumps(described))
    return made
