"""A second reading of other tools' checkpoints: weights computed from their own tensors, by their published formulas.

It shares nothing with ``quantization/importers``, whose result it judges: neither the order of packed numbers nor the
rule for zero points is taken from there. Sources:

- GPTQ: AutoGPTQ 0.7 ``nn_modules/qlinear/qlinear_cuda_old.py``, GPTQModel 2 ``nn_modules/qlinear/torch.py``; where
  ``sym`` is set, zero points are 8 as Marlin's kernels have them (vLLM, ``uint4b8``), and what is stored is not read.
- AWQ: AutoAWQ 0.2 ``utils/packing_utils.py``, ``modules/linear/gemm.py``.
- compressed-tensors 0.12: ``compressors/quantized_compressors``, ``quantization/lifecycle/forward.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFormat:
    """How one tool stores a layer.

    Attributes:
        marker: suffix of the tensor that every layer of this format has.
        element_type: its type (safetensors' spelling).
        parts: suffixes of all tensors that a layer may have.
        rows: ``(tensors by suffix, settings, first, last)`` → float32 weight ``[last - first, in]`` of these outputs.
        outputs: number of outputs.
        carried: suffixes of tensors that the converted layer has too.
        centre: ``(tensors by suffix, settings)`` → mean of ``code - zero``, in steps, of a layer whose zero points can
            be stored in two ways; None where they can't.
    """

    marker: str
    element_type: str
    parts: tuple[str, ...]
    rows: Callable[[Mapping[str, torch.Tensor], Mapping[str, Any], int, int], torch.Tensor]
    outputs: Callable[[Mapping[str, torch.Tensor]], int]
    carried: tuple[str, ...] = ()
    centre: Callable[[Mapping[str, torch.Tensor], Mapping[str, Any]], float | None] = lambda _tensors, _settings: None


def _nibble(integers: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return four bits of each integer as float32, counted in fours from the lowest."""
    return ((integers >> (4 * place).int()) & 15).float()


def _gptq(tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any], first: int, last: int) -> torch.Tensor:
    codes, scales = tensors["qweight"][:, first:last], tensors["scales"][:, first:last].float()
    inputs = torch.arange(8 * len(codes))
    code = _nibble(codes[inputs // 8], (inputs % 8)[:, None])
    group = tensors["g_idx"].long() if "g_idx" in tensors else inputs // (len(inputs) // len(scales))
    if settings.get("sym", True):
        return ((code - 8) * scales[group]).T
    outputs = torch.arange(first, last)
    zero = _nibble(tensors["qzeros"][:, outputs // 8], outputs % 8)
    return ((code - zero[group] - _less(settings)) * scales[group]).T


def _less(settings: Mapping[str, Any]) -> int:
    """Return by how much GPTQ's stored zero points are too small."""
    label = str(settings.get("checkpoint_format") or settings.get("format")).lower()
    return 0 if label == "gptq_v2" else 1


def _gptq_centre(tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> float | None:
    if settings.get("sym", True):
        return None
    code, zero = (
        sum(float(((tensors[name] >> (4 * place)) & 15).double().mean()) for place in range(8)) / 8
        for name in ("qweight", "qzeros")
    )
    return code - zero - _less(settings)


def _awq(tensors: Mapping[str, torch.Tensor], _settings: Mapping[str, Any], first: int, last: int) -> torch.Tensor:
    outputs = torch.arange(first, last)
    place = (outputs % 8) // 2 + 4 * (outputs % 2)  # even outputs in the low half of an integer, odd ones in the high
    code = _nibble(tensors["qweight"][:, outputs // 8], place)
    zero = _nibble(tensors["qzeros"][:, outputs // 8], place)
    scales = tensors["scales"][:, first:last].float()
    group = torch.arange(len(code)) // (len(code) // len(scales))
    return ((code - zero[group]) * scales[group]).T


def _packed(tensors: Mapping[str, torch.Tensor], _settings: Mapping[str, Any], first: int, last: int) -> torch.Tensor:
    inputs, scales = torch.arange(int(tensors["weight_shape"][1])), tensors["weight_scale"][first:last].float()
    number = _nibble(tensors["weight_packed"][first:last][:, inputs // 8], inputs % 8) - 8
    group = inputs // (len(inputs) // scales.shape[1])
    if "weight_g_idx" in tensors and (tensors["weight_g_idx"] >= 0).all():
        group = tensors["weight_g_idx"].long()
    if "weight_zero_point" in tensors:
        outputs = torch.arange(first, last)
        zero = _nibble(tensors["weight_zero_point"][outputs // 8], (outputs % 8)[:, None]) - 8
        number -= zero[:, group]
    return number * scales[:, group]


def _float8(tensors: Mapping[str, torch.Tensor], _settings: Mapping[str, Any], first: int, last: int) -> torch.Tensor:
    scale = tensors["weight_scale"].float()
    return tensors["weight"][first:last].float() * (scale if scale.numel() == 1 else scale.reshape(-1, 1)[first:last])


_FLOAT8: Final = PublishedFormat(
    marker="weight", element_type="F8_E4M3", parts=("weight", "weight_scale", "weight_zero_point", "input_scale"),
    rows=_float8, outputs=lambda tensors: len(tensors["weight"]), carried=("input_scale",),
)  # fmt: skip

PUBLISHED: Final[Mapping[str, tuple[PublishedFormat, ...]]] = {
    "gptq": (
        PublishedFormat(
            marker="qweight", element_type="I32", parts=("qweight", "qzeros", "scales", "g_idx"),
            rows=_gptq, outputs=lambda tensors: tensors["qweight"].shape[1],
            centre=_gptq_centre,
        ),
    ),
    "awq": (
        PublishedFormat(
            marker="qweight", element_type="I32", parts=("qweight", "qzeros", "scales"),
            rows=_awq, outputs=lambda tensors: 8 * tensors["qweight"].shape[1],
        ),
    ),
    "compressed-tensors": (
        PublishedFormat(
            marker="weight_packed", element_type="I32",
            parts=("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
            rows=_packed, outputs=lambda tensors: len(tensors["weight_packed"]),
        ),
        _FLOAT8,
    ),
}  # fmt: skip
"""``quant_method`` → the forms of its layers."""

CACHE_SCALES: Final = {"self_attn.k_scale": "self_attn.k_proj.k_scale", "self_attn.v_scale": "self_attn.v_proj.v_scale"}
"""End of the name of a cache's scale in compressed-tensors → where ModelOpt has it."""
