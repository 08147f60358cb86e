"""Reads and checks the header of a safetensors file; never the data.

Source of the format: https://github.com/huggingface/safetensors, section "Format": an unsigned little-endian 64-bit
length N, N bytes of JSON, then one buffer that the tensors' byte ranges cover without holes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.errors import CorruptSafetensorsError, TruncatedFileError
from edgellm_core.checkpoint.tensors import TensorEntry
from edgellm_core.errors import shown
from edgellm_core.settings import ELEMENT_BYTES
from edgellm_core.untrusted import CorruptJsonError, UnreadableFileError, parse_json, require_regular_file
from edgellm_core.untrusted.limits import SAFETENSORS_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LARGEST_RANK: Final = 64
"""Dimensions of a tensor; torch has no more (``c10::kMaxDim``)."""

_METADATA = "__metadata__"


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetensorsHeader:
    """What precedes the data of one safetensors file.

    Attributes:
        file: the file.
        raw: the JSON text as it lies in the file.
        file_bytes: size of the file.
        tensors: entries by name, in the order of their bytes.
        metadata: the free strings of ``__metadata__``.
    """

    file: Path
    raw: bytes
    file_bytes: int
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(file: Path) -> SafetensorsHeader:
    """Read and check the header of ``file``.

    Raises:
        UnreadableFileError: the file can't be read.
        TruncatedFileError: it is shorter than its header says.
        CorruptSafetensorsError: it breaks the format in another way.
    """
    try:
        file_bytes = require_regular_file(file)
        with file.open("rb") as stream:
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise TruncatedFileError(file, expected=8, found=file_bytes)
            (length,) = struct.unpack("<Q", prefix)
            _check_length(file, length, file_bytes)
            raw = stream.read(length)
    except OSError as error:
        raise UnreadableFileError(file, error) from error
    fields = _parse_json(file, raw)
    metadata = _check_metadata(file, fields.pop(_METADATA, {}))
    entries = [_entry(file, name, value, 8 + length) for name, value in fields.items()]
    entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
    _check_ranges(file, entries, data_start=8 + length, file_bytes=file_bytes)
    return SafetensorsHeader(
        file=file,
        raw=raw,
        file_bytes=file_bytes,
        tensors={entry.name: entry for entry in entries},
        metadata=metadata,
    )


def _check_length(file: Path, length: int, file_bytes: int) -> None:
    """Refuse a header length that the format or the file does not allow."""
    if length > SAFETENSORS_HEADER.most:
        limit = SAFETENSORS_HEADER
        raise CorruptSafetensorsError(file, f"its header claims {length} bytes, more than the {limit.most} allowed")
    if 8 + length > file_bytes:
        raise TruncatedFileError(file, expected=8 + length, found=file_bytes)


def _parse_json(file: Path, raw: bytes) -> dict[str, Any]:
    """Return the header's object; a name may occur once only."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise CorruptSafetensorsError(file, f"{twice!r} occurs twice in its header")
        return fields

    try:
        value = parse_json(raw.decode("utf-8"), file, pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise CorruptSafetensorsError(file, "its header is not UTF-8") from error
    except CorruptJsonError as error:
        raise CorruptSafetensorsError(file, f"its header is not JSON: {error.problem}") from error
    if not isinstance(value, dict):
        raise CorruptSafetensorsError(file, "its header is not a JSON object")
    return value


def _check_metadata(file: Path, value: Any) -> dict[str, str]:
    """Return ``__metadata__``, which may hold strings only; null stands for nothing, as in safetensors' own reader."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise CorruptSafetensorsError(file, f"{_METADATA} is not an object of strings")
    return value


def _entry(file: Path, name: str, value: Any, data_start: int) -> TensorEntry:
    """Return one tensor of the header after checking its fields against one another."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CorruptSafetensorsError(file, f"tensor {name!r} does not have exactly dtype, shape and data_offsets")
    element_type, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(element_type, str) or element_type not in ELEMENT_BYTES:
        raise CorruptSafetensorsError(file, f"tensor {name!r} has the unknown element type {shown(element_type)}")
    if not _are_sizes(shape):
        raise CorruptSafetensorsError(file, f"tensor {name!r} has the impossible shape {shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CorruptSafetensorsError(file, f"tensor {name!r} has the impossible byte range {shown(offsets)}")
    nbytes = math.prod(shape) * ELEMENT_BYTES[element_type]
    if offsets[1] - offsets[0] != nbytes:
        problem = f"tensor {name!r} ({element_type} {shape}) takes {nbytes} bytes, its range {offsets!r} does not"
        raise CorruptSafetensorsError(file, problem)
    return TensorEntry(
        name=name,
        element_type=element_type,
        shape=tuple(shape),
        file=file,
        offset=data_start + offsets[0],
        nbytes=nbytes,
    )


def _are_sizes(value: Any) -> bool:
    """Tell whether ``value`` is a list of integers ≥ 0 (``True`` is none)."""
    return (
        isinstance(value, list)
        and len(value) <= LARGEST_RANK
        and all(type(item) is int and item >= 0 for item in value)
    )


def _check_ranges(file: Path, entries: list[TensorEntry], *, data_start: int, file_bytes: int) -> None:
    """Refuse holes, overlaps and a file that ends elsewhere than its last tensor; ``entries`` in byte order."""
    position = data_start
    for entry in entries:
        if entry.offset != position:
            problem = "leaves a hole before" if entry.offset > position else "overlaps the tensor before"
            raise CorruptSafetensorsError(file, f"its header {problem} tensor {entry.name!r}")
        position += entry.nbytes
    if position > file_bytes:
        raise TruncatedFileError(file, expected=position, found=file_bytes)
    if position < file_bytes:
        raise CorruptSafetensorsError(file, f"{file_bytes - position} bytes follow its last tensor")
