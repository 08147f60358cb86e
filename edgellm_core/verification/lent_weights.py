"""Lends a session its large weights as inputs, so that ONNX Runtime makes no copies of them while it loads a graph.

A weight that is raised to float32 by a Cast is folded when a session is opened, and so is a Transpose behind it: the
session then held up to 2.6 times a layer's float32 size (ONNX Runtime 1.32). Raised here and handed over as an input, a
weight is in memory once. A large head is never raised whole: it is cut into blocks of rows, which are handed over as
they are stored, and each step raises one block at a time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.runtime.float32_twin import BFLOAT16, FLOAT, FLOAT16
from edgellm_core.verification.parts import BLOCK_ROWS, LARGE_TABLE
from edgellm_core.verification.segments import names_read

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping
    from pathlib import Path

    import onnx

LEAST_BYTES: Final = 2**20
"""Smaller weights stay where they are: optimizations of ONNX Runtime ask for their values."""

PRODUCTS: Final = frozenset({"Transpose", "MatMul", "Gemm"})
"""Operators that need no constant. In a quantized graph a weight is lent to these alone, since what is dequantized has
to be constant to be dequantized once."""

STORED: Final = {FLOAT: "<f4", FLOAT16: "<f2", BFLOAT16: "<u2"}
"""``onnx.TensorProto.DataType`` → numpy's type of the stored bytes; those of bfloat16 are bit patterns."""


class LendingSession:
    """An ONNX Runtime session that gets the same weights in every step; outside they are not among its inputs."""

    def __init__(self, session: Any, lent: Mapping[str, Any]) -> None:
        self._session, self._lent = session, dict(lent)

    def get_inputs(self) -> list[Any]:
        """Return the inputs that are not lent."""
        return [value for value in self._session.get_inputs() if value.name not in self._lent]

    def get_outputs(self) -> list[Any]:
        """Return the outputs."""
        found: list[Any] = self._session.get_outputs()
        return found

    def run_with_ort_values(self, names: list[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Run one step; see ``onnxruntime.InferenceSession``."""
        found: list[Any] = self._session.run_with_ort_values(names, {**feeds, **self._lent})
        return found


def lend(model: onnx.ModelProto, folder: Path, *, quantized: bool) -> dict[str, Any]:
    """Make the large weights of a prepared graph inputs, in place.

    Args:
        model: the graph, or a part of one.
        folder: where its external data lies.
        quantized: it holds low-bit weights.

    Returns:
        ``OrtValue`` of each new input, by name.
    """
    lent = dict(_cut_heads(model.graph, folder))
    _drop_unread(model.graph, lent)
    for name, tensor in _large_weights(model.graph, quantized=quantized).items():
        lent[name] = _lend_whole(model.graph, name, tensor, folder)
    _drop_unread(model.graph, lent)
    return lent


def _cut_heads(graph: onnx.GraphProto, folder: Path) -> Iterator[tuple[str, Any]]:
    """Let products with large narrow tables, ``[rows, width]``, take one block of rows at a time."""
    from onnx import helper

    tables = {t.name: t for t in graph.initializer if _is_external(t) and math.prod(t.dims) >= LARGE_TABLE}
    raised = {node.output[0]: node for node in graph.node if node.op_type == "Cast" and node.input[0] in tables}
    turned = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "Transpose" and (node.input[0] in raised or node.input[0] in tables)
    }
    nodes = []
    for node in graph.node:
        turn = turned.get(node.input[1]) if node.op_type == "MatMul" else None
        cast = raised.get(turn.input[0]) if turn is not None else None
        tensor = tables.get(cast.input[0] if cast is not None else turn.input[0]) if turn is not None else None
        if tensor is None or tensor.data_type not in (FLOAT16, BFLOAT16) or len(tensor.dims) != 2:
            nodes.append(node)
            continue
        stored = _mapped(tensor, folder)
        products = []
        for start in range(0, tensor.dims[0], BLOCK_ROWS):
            rows = stored[start : start + BLOCK_ROWS]
            name = f"{node.output[0]}/rows.{start}"
            _add_input(graph, name, tensor.data_type, rows.shape)
            yield name, _value(rows, tensor.data_type)
            block = name
            if cast is not None:
                nodes.append(helper.make_node("Cast", [name], [f"{name}/raised"], name=f"{name}/raise", to=FLOAT))
                block = f"{name}/raised"
            nodes += [
                helper.make_node("Transpose", [block], [f"{name}/T"], name=f"{name}/transpose", perm=[1, 0]),
                helper.make_node("MatMul", [node.input[0], f"{name}/T"], [f"{name}/product"], name=f"{name}/multiply"),
            ]
            products.append(f"{name}/product")
        nodes.append(helper.make_node("Concat", products, [node.output[0]], name=node.name, axis=-1))
    _set_nodes(graph, nodes)


def _large_weights(graph: onnx.GraphProto, *, quantized: bool) -> dict[str, onnx.TensorProto]:
    """Return the tensors behind large float32 weights, by the weight's name: its own, or that of a Cast's result."""
    large = {t.name: t for t in graph.initializer if _is_external(t) and _nbytes(t) >= LEAST_BYTES}
    found = {name: tensor for name, tensor in large.items() if tensor.data_type == FLOAT}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in large and node.attribute[0].i == FLOAT:
            found[node.output[0]] = large[node.input[0]]
    if not quantized:
        return found
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return {name: tensor for name, tensor in found.items() if readers.get(name, {""}) <= PRODUCTS}


def _lend_whole(graph: onnx.GraphProto, name: str, tensor: onnx.TensorProto, folder: Path) -> Any:
    _set_nodes(graph, [node for node in graph.node if name not in node.output])
    _add_input(graph, name, FLOAT, tuple(tensor.dims))
    stored = _mapped(tensor, folder)
    if tensor.data_type == FLOAT:
        return _value(stored, FLOAT)
    if tensor.data_type == FLOAT16:
        return _value(stored.astype(np.float32), FLOAT)
    wide = stored.astype(np.uint32)  # a bfloat16 is the upper half of a float32
    wide <<= 16
    return _value(wide.view(np.float32), FLOAT)


def _drop_unread(graph: onnx.GraphProto, lent: Container[str]) -> None:
    """Drop nodes and tensors that nothing reads any more, and tensors that are inputs now."""
    read = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            nodes.append(node)
            read.update(names_read(node))
    _set_nodes(graph, nodes[::-1])
    kept = [tensor for tensor in graph.initializer if tensor.name in read and tensor.name not in lent]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _mapped(tensor: onnx.TensorProto, folder: Path) -> np.ndarray[Any, Any]:
    """Return the stored values of an external tensor, mapped into memory."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    shape, offset = tuple(tensor.dims), int(entries.get("offset", 0))
    return np.memmap(folder / entries["location"], STORED[tensor.data_type], "r", offset, shape)


def _value(array: np.ndarray[Any, Any], element_type: int) -> Any:
    """Return an array as ONNX Runtime's value, which keeps it alive and copies nothing."""
    import onnxruntime

    if element_type == BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(array))


def _add_input(graph: onnx.GraphProto, name: str, element_type: int, shape: tuple[int, ...]) -> None:
    from onnx import helper

    graph.input.append(helper.make_tensor_value_info(name, element_type, shape))


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in STORED and bool(tensor.external_data)


def _nbytes(tensor: onnx.TensorProto) -> int:
    return int(math.prod(tensor.dims)) * (4 if tensor.data_type == FLOAT else 2)
