"""Writes a safetensors file tensor by tensor, in one pass and without holding it."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.checkpoint.gguf.values import DTYPES, row_chunks
from edgellm_core.settings import LARGEST_FP16

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

    from edgellm_core.checkpoint.gguf.plan import Target
    from edgellm_core.events import Reporter

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_ENTRY_BYTES: Final = 96
"""Room for one tensor in the header, beside its name and shape."""


def write_safetensors(path: Path, targets: Sequence[Target], report: Reporter) -> dict[str, str]:
    """Write all tensors of a plan; return the element type of each.

    Numbers keep their type; what was quantized becomes float16, or float32 where a value leaves float16's range.

    Raises:
        OSError: the file can't be written.
    """
    room = 64 + sum(_ENTRY_BYTES + len(target.name) + 22 * len(target.shape) for target in targets)
    room += -room % 8
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    with path.open("wb") as stream:
        stream.seek(8 + room)
        for index, target in enumerate(targets):
            report.progress(index, len(targets), "tensors dequantized")
            begin = stream.tell()
            element_type = _write_tensor(stream, target)
            offsets = [begin - 8 - room, stream.tell() - 8 - room]
            header[target.name] = {"dtype": element_type, "shape": target.shape, "data_offsets": offsets}
        text = json.dumps(header).encode().ljust(room)
        stream.seek(0)
        stream.write(struct.pack("<Q", room) + text)
    return {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}


def _write_tensor(stream: BinaryIO, target: Target) -> str:
    """Write the data of one tensor; return its element type."""
    types = {source.element_type for source in target.sources} or {"F32"}
    begin = stream.tell()
    wanted = DTYPES[types.pop()] if len(types) == 1 and types <= DTYPES.keys() else torch.float16
    for chunk in row_chunks(target):
        if wanted is torch.float16 and chunk.dtype is not wanted and _overflows(chunk):
            wanted = torch.float32
            stream.seek(begin)
            break
        _write(stream, chunk.to(wanted))
    else:
        return _NAMES[wanted]
    for chunk in row_chunks(target):
        _write(stream, chunk.to(wanted))
    return _NAMES[wanted]


def _overflows(chunk: torch.Tensor) -> bool:
    """Say whether float16 can't hold a finite value; what is not finite is left to the checks that name it."""
    largest = float(chunk.abs().amax())
    if largest <= LARGEST_FP16:
        return False
    return bool((torch.isfinite(chunk) & (chunk.abs() > LARGEST_FP16)).any())


def _write(stream: BinaryIO, chunk: torch.Tensor) -> None:
    stream.write(chunk.contiguous().view(torch.uint8).numpy().data.cast("B"))
