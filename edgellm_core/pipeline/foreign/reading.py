"""Reads an ONNX file without its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgellm_core.pipeline.foreign.errors import MissingDataError, NotAGraphError, UnsupportedGraphError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

CONSTANT_BYTES: Final = 1 << 20
"""Largest initializer that rules may look into; larger ones are names without a value."""

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
    if not file.is_file():
        raise MissingDataError(path, tensor.name, f"{file} does not exist")
    end = int(fields.get("offset", 0)) + int(fields.get("length", 0))
    if file.stat().st_size < end:
        raise MissingDataError(path, tensor.name, f"{file} has {file.stat().st_size} bytes, and it ends at {end}")
    return location.as_posix()


def _loaded(tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto:
    """Return a small tensor with its value."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor

    loaded = onnx.TensorProto()
    loaded.CopyFrom(tensor)
    if _is_external(loaded):
        load_external_data_for_tensor(loaded, str(folder))
        loaded.data_location = onnx.TensorProto.DEFAULT
        del loaded.external_data[:]
    return loaded
