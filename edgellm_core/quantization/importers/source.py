"""What importers read and return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from edgellm_core.quantization.errors import (
    ContradictoryQuantizationError,
    QuantizedTensorMismatchError,
    UnsupportedQuantizationError,
)

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

    def contradict(self, what: str) -> NoReturn:
        """Say which setting and which tensors exclude each other.

        Raises:
            ContradictoryQuantizationError: naming both.
        """
        raise ContradictoryQuantizationError(self.directory, what)

    def flag(self, settings: Mapping[str, Any], key: str, *, default: bool) -> bool:
        """Return a setting that is true or false; ``default`` where it is not set.

        Raises:
            ContradictoryQuantizationError: it is neither.
        """
        value = settings.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.contradict(f"{key!r} must be true or false and is {value!r}")
        return value

    def require_groups(self, settings: Mapping[str, Any], module: str, *, inputs: int, groups: int) -> None:
        """Refuse a layer whose scales are not those of the ``group_size`` that the settings name.

        Args:
            settings: of the layer; ``group_size`` -1 means one group of all inputs, none nothing.
            module: path of the layer.
            inputs: its inputs.
            groups: the groups that its scales are for.

        Raises:
            UnsupportedQuantizationError: the groups don't divide the inputs.
            ContradictoryQuantizationError: there are more or fewer groups than the settings say.
        """
        if not groups or inputs % groups:
            self.refuse(f"{groups} groups of the {inputs} inputs of {module!r}")
        size = settings.get("group_size")
        if size is None:
            return
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
            self.contradict(f"'group_size' must be -1 or a positive number and is {size!r}")
        wanted = 1 if size == -1 else -(-inputs // size)
        if groups != wanted:
            self.contradict(
                f"group_size {size} means {wanted} groups of the {inputs} inputs of {module!r}, whose scales are those "
                f"of {groups}"
            )

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
        notes: which rule settled what the checkpoint leaves open; sentences for the user.
    """

    layers: Mapping[str, Mapping[str, NewTensor]]
    algorithms: Mapping[str, str]
    replaced: frozenset[str]
    others: Mapping[str, NewTensor] = field(default_factory=dict)
    kv_cache: str | None = None
    producer: str = ""
    notes: Sequence[str] = ()


Importer = Callable[[ForeignCheckpoint], Imported]
