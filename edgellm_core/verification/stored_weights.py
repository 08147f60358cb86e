"""Compares what the graph's data file holds of quantized layers with the checkpoint, number for number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.targets.edge_llm.fragment_packing import unpack_fragments

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import onnx

    from edgellm_core.quantization.formats import LinearFormat
    from edgellm_core.quantization.layout import QuantizationLayout
    from edgellm_core.verification.quantized_weights import StoredTensors

TYPES: Final = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 7: torch.int64, 10: torch.float16, 16: torch.bfloat16,
    17: torch.float8_e4m3fn, 21: torch.uint8, 22: torch.uint8, 23: torch.uint8,
}  # fmt: skip
"""``onnx.TensorProto.DataType`` → type of its bytes."""

INT8: Final = 3
"""Four-bit weights in the fragments of target ``edge-llm``."""

PAIRED: Final = (21, 22, 23)
"""UINT4, INT4 and FLOAT4E2M1: two in a byte, the first in the low four bits."""


def differing_stored(
    model: onnx.ModelProto,
    folder: Path,
    stored: StoredTensors,
    layout: QuantizationLayout,
    names: Iterable[str],
) -> list[str]:
    """Return the initializers of quantized layers and caches that differ from the checkpoint's tensor of their name.

    Args:
        model: the graph without external data.
        folder: where the data lies.
        stored: the checkpoint.
        layout: what of it is quantized.
        names: initializers to look at; others than those are passed over.
    """
    wanted = set(names)
    return [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.name in wanted and tensor.external_data and is_stored(tensor.name, layout) and tensor.name in stored
        if not _equal(tensor, folder, stored.read(tensor.name), layout.linears.get(tensor.name.rpartition(".")[0]))
    ]


def is_stored(name: str, layout: QuantizationLayout) -> bool:
    """Return whether a tensor belongs to a quantized layer, or is a scale of the cache."""
    module, _, suffix = name.rpartition(".")
    form = layout.linears.get(module)
    return suffix in ("k_scale", "v_scale") or (form is not None and suffix in form.tensors(2, 2))


def _equal(tensor: onnx.TensorProto, folder: Path, stored: torch.Tensor, form: LinearFormat | None) -> bool:
    if form is not None and form.weight == "int4" and tensor.data_type == INT8:
        rows = unpack_fragments(_read(tensor, folder).numpy(), 2 * stored.shape[0], stored.shape[1])
        return torch.equal(torch.from_numpy(rows), stored)
    if form is not None and form.weight in ("int4", "uint4") and stored.dim() == 2:
        suffix = tensor.name.rpartition(".")[2]
        # pairs of outputs [out / 2, in] → [out, in] → the graph's [in, out]
        codes = torch.stack((stored & 15, stored >> 4), 1).flatten(0, 1) if suffix == "weight" else stored
        stored = codes.T
    elif tensor.data_type in PAIRED:
        stored = torch.stack((stored & 15, stored >> 4), 2).flatten(1)
    found = _read(tensor, folder)
    if found.is_floating_point() and found.dtype != torch.float8_e4m3fn:
        stored = stored.to(found.dtype)
    if found.numel() != stored.numel() or (found.dim() == 2 and found.shape != stored.shape):
        return False
    return torch.equal(_bytes(found), _bytes(stored))


def _read(tensor: onnx.TensorProto, folder: Path) -> torch.Tensor:
    """Return an initializer; numbers of four bits as their codes."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype: Any = TYPES[tensor.data_type]
    with (folder / place["location"]).open("rb") as stream:
        stream.seek(int(place.get("offset", 0)))
        flat = torch.frombuffer(bytearray(stream.read(int(place["length"]))), dtype=dtype)
    if tensor.data_type in PAIRED:
        flat = torch.stack((flat & 15, flat >> 4), 1).reshape(-1)
    return flat.reshape(list(tensor.dims))


def _bytes(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().reshape(-1).view(torch.uint8)
