"""The weights of a quantized checkpoint as transformers reads them: dequantized one at a time, when it asks for one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgellm_core.verification.dequantize import dequantize, rounded

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from pathlib import Path

    import torch

    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.quantization.formats import LinearFormat
    from edgellm_core.quantization.layout import QuantizationLayout

KV_SCALES = ("k_scale", "v_scale")
"""Suffixes of the scales of keys and values."""

QUERY_SCALE = "q_scale"
"""Suffix of the scale of queries, which only kernels of a device round."""


class StoredTensors:
    """Reads tensors of a checkpoint with safetensors' own reader; each file is opened once."""

    def __init__(self, tensors: TensorIndex) -> None:
        self._tensors = tensors
        self._files: dict[Path, Any] = {}
        self._lock = threading.Lock()  # transformers loads in several threads

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as it is stored."""
        from safetensors import safe_open

        entry = self._tensors[name]
        with self._lock:
            if entry.file not in self._files:
                self._files[entry.file] = safe_open(entry.file, framework="pt")
            tensor: torch.Tensor = self._files[entry.file].get_tensor(name)
        return tensor

    def rows(self, name: str) -> StoredRows:
        """Return a table whose rows are read when they are asked for, and of which nothing stays in memory."""
        entry = self._tensors[name]
        rows, width = entry.shape
        return StoredRows(entry.file, name, (rows, width))

    def close(self) -> None:
        """Let go of the files, and with them of the pages that reading mapped into memory."""
        with self._lock:
            self._files.clear()

    def of_linear(self, module: str, form: LinearFormat, *, weight: bool) -> dict[str, torch.Tensor]:
        """Return the tensors of a quantized layer by suffix, with those of its weight or without."""
        suffixes = form.tensors(2, max(1, form.block_size))
        chosen = (suffix for suffix in suffixes if suffix.startswith("weight") == weight)
        return {suffix: self.read(f"{module}.{suffix}") for suffix in chosen}


@dataclass(frozen=True, slots=True)
class StoredRows:
    """A table of a checkpoint, read with safetensors' own reader.

    Attributes:
        file: the safetensors file.
        name: the tensor.
        shape: rows and width.
    """

    file: Path
    name: str
    shape: tuple[int, int]

    def __getitem__(self, index: slice) -> torch.Tensor:
        """Return rows ``[start:stop]`` as they are stored; the file is closed again, and so not mapped any more."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as file:
            rows: torch.Tensor = file.get_slice(self.name)[index].clone()
        return rows


class LazyWeight:
    """One weight, made when it is indexed, as transformers indexes a slice of a safetensors file."""

    def __init__(
        self, stored: StoredTensors, name: str, form: LinearFormat | None, scale_type: torch.dtype | None
    ) -> None:
        self._stored, self._name, self._form, self._scale_type = stored, name, form, scale_type

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Return the weight; float32 where it is a floating-point number that is rounded."""
        return self._made()[index]

    def _made(self) -> torch.Tensor:
        if self._form is not None and self._scale_type is not None:
            module = self._name.removesuffix(".weight")
            parts = self._stored.of_linear(module, self._form, weight=True)
            return dequantize(self._form, parts, self._scale_type)
        tensor = self._stored.read(self._name)
        if self._scale_type is None or not tensor.is_floating_point():
            return tensor
        return rounded(tensor, self._scale_type)


def lazy_state(
    tensors: TensorIndex,
    layout: QuantizationLayout,
    stored: StoredTensors,
    scale_type: torch.dtype,
    wide: Container[str] = (),
) -> Mapping[str, LazyWeight]:
    """Return every weight of the model by its name in the checkpoint, without what only quantization needs.

    Args:
        tensors: all tensors of the checkpoint.
        layout: what of it is quantized.
        stored: reads them.
        scale_type: element type of the graph: weights that are not quantized, and scales, are rounded to it.
        wide: weights that stay float32 in such a graph.
    """
    import torch

    own = {f"{module}.{suffix}" for module, form in layout.linears.items() for suffix in form.tensors(2, 1 << 10)}
    weights = {f"{module}.weight": form for module, form in layout.linears.items()}
    return {
        name: LazyWeight(stored, name, weights.get(name), torch.float32 if name in wide else scale_type)
        for name in tensors
        if name in weights or (name not in own and not name.endswith((*KV_SCALES, QUERY_SCALE)))
    }
