"""Reads a GGUF file by code that shares nothing with the conversion: transformers' reader, and the ``gguf`` package.

A conversion that drops, swaps or misplaces something is refused by what is compared with it here, although the
checkpoint that it wrote is the original that a build is compared with.
"""

from __future__ import annotations

import importlib
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Array = np.ndarray[Any, Any]


class SecondReader:
    """Headers and data of all parts, as transformers and the ``gguf`` package read them."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the headers."""
        from transformers.integrations.gguf.reader import read_gguf_metadata

        self.metadata: dict[str, Any] = read_gguf_metadata(str(files[0]))[0]
        self.tensors: dict[str, tuple[Path, int, int, tuple[int, ...]]] = {}
        for file in files:
            for name, kind, offset, shape in _tensor_table(file):
                self.tensors[name] = (file, kind, offset, shape)

    def rows(self, name: str, rows: Sequence[int] | Array) -> Array:
        """Return rows of a tensor, leading dimensions flattened, as float32; one-dimensional ones have one column."""
        import gguf

        file, kind, offset, shape = self.tensors[name]
        columns = shape[-1] if len(shape) > 1 else 1
        elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        picked = read_rows(file, offset, columns // elements * size, rows)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return np.asarray(gguf.dequantize(picked, gguf.GGMLQuantizationType(kind)), np.float32)

    def number(self, key: str) -> Any:
        """Return a number of the metadata; None where there is none, or one for each layer."""
        value = self.metadata.get(f"{self.metadata['general.architecture']}.{key}")
        if isinstance(value, list):
            value = value[0] if len(set(value)) == 1 else None
        return value


def transformers_keys(name: str) -> Mapping[str, str]:
    """Return transformers' own table of metadata keys for an architecture; empty where it does not read it."""
    ggml: Any = importlib.import_module("transformers.integrations.ggml")
    tables: Mapping[str, Mapping[str, str | None]] = ggml.GGUF_CONFIG_MAPPING
    table = tables.get(name) or tables.get({"gpt-oss": "gpt_oss"}.get(name, re.sub("moe$", "_moe", name))) or {}
    return {key: value for key, value in table.items() if value}


def read_rows(file: Path, offset: int, width: int, rows: Sequence[int] | Array) -> Array:
    """Read rows of ``width`` bytes: uint8 [rows, width]. Mapped pages would count as memory of the process."""
    picked = np.empty((len(rows), width), np.uint8)
    with file.open("rb", buffering=0) as stream:
        if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            stream.seek(offset + int(rows[0]) * width)
            stream.readinto(picked.data.cast("B"))
            return picked
        for place, row in enumerate(rows):
            stream.seek(offset + int(row) * width)
            stream.readinto(picked[place].data)
    return picked


def _tensor_table(file: Path) -> Iterator[tuple[str, int, int, tuple[int, ...]]]:
    """Yield name, ggml type, place in the file and shape of every tensor, as another reader than ours finds them."""
    from transformers.integrations.gguf.reader import GgufHeader as TransformersHeader

    try:
        header = TransformersHeader.from_file(str(file))
    except ValueError:  # an element type that it does not know: the gguf package's reader, which takes much longer
        import gguf

        for tensor in gguf.GGUFReader(file).tensors:
            shape = tuple(int(size) for size in reversed(tensor.shape))
            yield tensor.name, int(tensor.tensor_type), int(tensor.data_offset), shape
        return
    for info in header.tensors:
        yield info.name, info.ggml_type, header.data_start + info.offset, info.shape
