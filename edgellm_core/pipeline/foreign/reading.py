"""Reads an ONNX file without its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.links import require_inside
from edgellm_core.pipeline.foreign.errors import MissingDataError, NotAGraphError, UnsupportedGraphError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

CONSTANT_BYTES: Final = 1 << 20
"""Largest initializer that rules may look into; larger ones are names without a value."""

FOUR_BIT_TYPES: Final = (21, 22, 23)
"""UINT4, INT4 and FLOAT4E2M1 of ``onnx.TensorProto.DataType``, packed in pairs."""

MOST_DIGITS: Final = 18
"""Digits of the largest offset: what a signed number of 64 bits holds."""

PLAIN_TYPES: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13})
"""``onnx.TensorProto.DataType`` of tensors that numpy itself holds; others are never looked into."""


@dataclass(frozen=True, kw_only=True)
class ForeignGraph:
    """An ONNX file without its weights.

    Attributes:
        path: the file.
        model: the graph; large initializers are inputs without a value, small ones are loaded.
        initializers: all initializers as the file has them, by name; those outside of it are not loaded.
        parameters: names of the initializers that have no value in ``model``.
        data_files: names of the files beside it that hold initializers, relative to its folder.
    """

    path: Path
    model: onnx.ModelProto
    initializers: Mapping[str, onnx.TensorProto]
    parameters: frozenset[str]
    data_files: tuple[str, ...]


def read_graph(path: Path) -> ForeignGraph:
    """Read an ONNX file; of its weights only small constants.

    Raises:
        NotAGraphError: it is none.
        MissingDataError: data that it keeps in other files is not there.
        UnsupportedGraphError: it holds what surgery would lose.
    """
    import onnx

    model = _parse(path)
    _refuse_unsupported(path, model)
    originals = {tensor.name: tensor for tensor in model.graph.initializer}
    files = sorted({_require_data(path, tensor) for tensor in originals.values() if _is_external(tensor)})
    overridable = {value.name for value in model.graph.input}
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    del stripped.graph.initializer[:]
    parameters = set()
    for name, tensor in originals.items():
        if name in overridable:
            parameters.add(name)
        elif tensor.data_type in PLAIN_TYPES and size_of(tensor) <= CONSTANT_BYTES:
            stripped.graph.initializer.append(_loaded(tensor, path.parent))
        else:
            parameters.add(name)
            stripped.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    return ForeignGraph(
        path=path,
        model=stripped,
        initializers=originals,
        parameters=frozenset(parameters - overridable),
        data_files=tuple(files),
    )


def size_of(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor's elements, unpacked."""
    import onnx

    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    dims: list[int] = list(tensor.dims)
    return math.prod(dims) * itemsize


def _parse(path: Path) -> onnx.ModelProto:
    import onnx

    if not path.is_file():
        raise NotAGraphError(path, "there is no such file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own exceptions share no base but Exception
        raise NotAGraphError(path, "it can't be parsed") from error
    if not model.graph.node or not model.graph.output:
        raise NotAGraphError(path, "it holds no graph")
    return model


def _refuse_unsupported(path: Path, model: onnx.ModelProto) -> None:
    graph = model.graph
    if graph.sparse_initializer:
        raise UnsupportedGraphError(path, "sparse initializers")
    if model.training_info:
        raise UnsupportedGraphError(path, "training information")
    for value in (*graph.input, *graph.output):
        if value.type.WhichOneof("value") not in {"tensor_type", None}:
            raise UnsupportedGraphError(path, f"the input or output {value.name!r} that is not a tensor")
    from edgellm_core.surgery.opset import graphs_of

    for inner in graphs_of(graph):
        if inner is not graph and any(map(_is_external, inner.initializer)):
            raise UnsupportedGraphError(path, "weights outside of the file in the body of a loop or branch")


def _is_external(tensor: onnx.TensorProto) -> bool:
    import onnx

    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _require_data(path: Path, tensor: onnx.TensorProto) -> str:
    """Return the name of the file that holds a tensor, which must lie in the graph's folder and be long enough."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = Path(fields.get("location", ""))
    if not location.name or location.is_absolute() or ".." in location.parts:
        raise MissingDataError(path, tensor.name, f"its place {str(location)!r} is not inside of the graph's folder")
    file = path.parent / location
    require_inside(path.parent, file)
    if not file.is_file():
        raise MissingDataError(path, tensor.name, f"{file} does not exist")
    offset, length = (_byte_count(path, tensor, key, fields.get(key, "0")) for key in ("offset", "length"))
    stored = _stored_bytes(path, tensor)
    if length not in (0, stored):
        raise MissingDataError(path, tensor.name, f"its length is {length} bytes, and its shape takes {stored}")
    end = offset + stored
    if file.stat().st_size < end:
        raise MissingDataError(path, tensor.name, f"{file} has {file.stat().st_size} bytes, and it ends at {end}")
    return location.as_posix()


def _stored_bytes(path: Path, tensor: onnx.TensorProto) -> int:
    """Return the bytes that a tensor takes in a file, where two numbers of four bits share one."""
    import onnx

    try:
        numbers, unpacked = math.prod(tensor.dims), size_of(tensor)
    except KeyError:
        raise MissingDataError(path, tensor.name, f"its type {tensor.data_type} is none of ONNX") from None
    if any(size < 0 for size in tensor.dims) or tensor.data_type == onnx.TensorProto.STRING:
        raise MissingDataError(path, tensor.name, "it has a negative size or holds strings, which no file can have")
    return -(-numbers // 2) if tensor.data_type in FOUR_BIT_TYPES else unpacked


def _byte_count(path: Path, tensor: onnx.TensorProto, key: str, value: str) -> int:
    """Return a number of bytes as ONNX writes it, decimal and without a sign; Python's limit on digits is far above."""
    if not (value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS):
        raise MissingDataError(path, tensor.name, f"its {key} must be a number of bytes and is {value[:40]!r}")
    return int(value)


def _loaded(tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto:
    """Return a small tensor with its value."""
    import onnx

    loaded = onnx.TensorProto()
    loaded.CopyFrom(tensor)
    if _is_external(loaded):
        # onnx's own reader warns of unknown keys and fails at odd values; what is read here was checked.
        fields = {entry.key: entry.value for entry in tensor.external_data}
        with (folder / fields["location"]).open("rb") as stream:
            stream.seek(int(fields.get("offset", "0")))
            loaded.raw_data = stream.read(_stored_bytes(folder, tensor))
        loaded.data_location = onnx.TensorProto.DEFAULT
        del loaded.external_data[:]
    return loaded
