"""What importers read and return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from edgellm_core.quantization.errors import QuantizedTensorMismatchError, UnsupportedQuantizationError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex

_DTYPES: Final = {"I32": "<i4", "I64": "<i8", "U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F16": "<u2", "BF16": "<u2",
                  "F32": "<u4"}  # fmt: skip
"""safetensors' element type → numpy's; floats as their bits, which are only moved."""

FLOATS: Final = ("F16", "BF16", "F32")


@dataclass(frozen=True, kw_only=True)
class ForeignCheckpoint:
    """A checkpoint in another tool's form.

    Attributes:
        directory: its folder.
        settings: ``quantization_config`` of its config.json.
        tensors: all of its tensors.
    """

    directory: Path
    settings: Mapping[str, Any]
    tensors: TensorIndex

    def refuse(self, what: str) -> NoReturn:
        """Say what can't be represented.

        Raises:
            UnsupportedQuantizationError: naming it.
        """
        raise UnsupportedQuantizationError(self.directory, what)

    def require(self, name: str, element_types: Sequence[str], rank: int) -> TensorEntry:
        """Return a tensor that must be there.

        Raises:
            QuantizedTensorMismatchError: it is missing, or of another type or rank.
        """
        entry = self.tensors.get(name)
        if entry is None or entry.element_type not in element_types or len(entry.shape) != rank:
            wanted = f"{' or '.join(element_types)} with {rank} dimension(s)"
            found = "nothing" if entry is None else f"{entry.element_type} {list(entry.shape)}"
            raise QuantizedTensorMismatchError(self.directory, name, wanted, found)
        return entry

    def require_shape(self, entry: TensorEntry, shape: tuple[int, ...]) -> None:
        """Refuse a tensor of another shape.

        Raises:
            QuantizedTensorMismatchError: naming both.
        """
        if tuple(entry.shape) != shape:
            raise QuantizedTensorMismatchError(self.directory, entry.name, str(list(shape)), str(list(entry.shape)))

    def read(self, name: str) -> NDArray[Any]:
        """Return a tensor; floats as their bits."""
        entry = self.tensors[name]
        dtype = np.dtype(_DTYPES[entry.element_type])
        count = entry.nbytes // dtype.itemsize
        return np.fromfile(entry.file, dtype, count=count, offset=entry.offset).reshape(entry.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTensor:
    """One tensor of the canonical form.

    Attributes:
        element_type: safetensors' spelling.
        shape: its dimensions.
        make: reads or computes it; its bytes are written as they lie in memory.
    """

    element_type: str
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an importer found.

    Attributes:
        layers: tensors of each quantized layer by suffix, by the path of its module.
        algorithms: ``quant_algo`` of each layer.
        replaced: names of the tensors that they are made from.
        others: further new tensors by name, such as the scales of a cache.
        kv_cache: ``kv_cache_quant_algo``; None for a cache that is not rounded.
        producer: what quantized the checkpoint.
    """

    layers: Mapping[str, Mapping[str, NewTensor]]
    algorithms: Mapping[str, str]
    replaced: frozenset[str]
    others: Mapping[str, NewTensor] = field(default_factory=dict)
    kv_cache: str | None = None
    producer: str = ""


Importer = Callable[[ForeignCheckpoint], Imported]
