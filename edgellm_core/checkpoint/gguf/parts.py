"""Files that one GGUF model was split into (``llama-gguf-split``): ``NAME-00001-of-00003.gguf``."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.errors import CorruptGgufError, MissingGgufPartError
from edgellm_core.checkpoint.gguf.header import GgufHeader, read_gguf_header
from edgellm_core.checkpoint.links import require_inside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PART_NAME: Final = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
"""Name of one part; llama.cpp, ``llama_split_path``."""


def read_gguf(file: Path) -> GgufHeader:
    """Read and check the header of a GGUF model: of one file, or of all parts where ``file`` is one of several.

    Raises:
        UnreadableFileError: a file can't be read.
        TruncatedFileError: a file ends before its header or its last tensor does.
        CorruptGgufError: a file breaks the format, or the parts do not belong together.
        MissingGgufPartError: a part is missing.
        LinkOutsideError: another part is a link to a file elsewhere.
    """
    header = read_gguf_header(file)
    count = header.fields.get("split.count", 0)
    name = PART_NAME.fullmatch(file.name)
    if not isinstance(count, int) or count <= 1:
        return header
    if name is None or int(name["count"]) != count:
        problem = f"it is one of {count} parts, and its name is not NAME-00001-of-{count:05d}.gguf; rename the parts"
        raise CorruptGgufError(file, problem)
    paths = [file.with_name(f"{name['name']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise MissingGgufPartError(file, missing, count)
    for path in paths:
        if path != file:
            require_inside(file.parent, path)
    return _joined(file, [header if path == file else read_gguf_header(path) for path in paths])


def _joined(file: Path, parts: Sequence[GgufHeader]) -> GgufHeader:
    """Return one header of all parts; the first one states what the model is."""
    first = parts[0]
    for number, part in enumerate(parts):
        found = (part.fields.get("split.no"), part.fields.get("split.count"))
        if found != (number, len(parts)):
            problem = f"it says that it is part {_counted(found[0])} of {found[1]}, its name says {number + 1}"
            raise CorruptGgufError(part.file, problem)
        for key, value in part.fields.items():
            if not key.startswith("split.") and first.fields.get(key) != value:
                raise CorruptGgufError(part.file, f"{key!r} is {value!r}, unlike in the first part")
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    names = {tensor.name for tensor in tensors}
    expected = first.fields.get("split.tensors.count", len(tensors))
    if len(names) != len(tensors) or expected != len(tensors):
        raise CorruptGgufError(file, f"its parts hold {len(names)} different tensors, and {expected} are promised")
    return replace(first, file=file, files=tuple(part.file for part in parts), tensors=tensors)


def _counted(number: Any) -> Any:
    """Return a part's number counted from 1, as file names do."""
    return number + 1 if isinstance(number, int) else number
