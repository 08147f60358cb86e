"""Reads an ONNX graph by meaning: constants, who makes a value, who takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

PLUGIN_DOMAIN = "trt_edgellm"
ROUNDING_DOMAIN = "trt"

STRAY_ATTRIBUTES = ("_outputs",)
"""What onnxscript leaves on custom nodes; no runtime reads it."""


class Graph:
    """The graph of an exported model, with its weights.

    Attributes:
        model: the file.
        nodes: in the order of the file, which is topological.
    """

    def __init__(self, path: Path) -> None:
        """Read a file and its external data."""
        self.model = onnx.load(path)
        self.nodes = list(self.model.graph.node)
        self._constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._makers = {name: node for node in self.nodes for name in node.output}
        self._takers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._takers.setdefault(name, []).append(node)
            if node.op_type == "Constant" and not node.domain:
                self._constants[node.output[0]] = attributes(node)["value"]

    def constant(self, name: str) -> np.ndarray | None:
        """Return the array of a constant value; numbers of 4 and 8 bits without a numpy type as ml_dtypes has them."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_constant(self, name: str) -> bool:
        """Say whether a value is a constant."""
        return name in self._constants

    def kind(self, name: str) -> str:
        """Return element type and shape of a constant, like ``FLOAT16[64]``."""
        tensor = self._constants[name]
        return f"{onnx.TensorProto.DataType.Name(tensor.data_type)}{list(tensor.dims)}"

    def maker(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a value."""
        return self._makers.get(name)

    def takers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that take a value."""
        return self._takers.get(name, [])

    def is_input(self, name: str) -> bool:
        """Say whether a value is an input of the graph."""
        return any(value.name == name for value in self.model.graph.input)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node, texts as str, without what is stray."""
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {
        name: value.decode() if isinstance(value, bytes) else list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if name not in STRAY_ATTRIBUTES
    }


def described(value: onnx.ValueInfoProto) -> tuple[str, str, tuple[int | str, ...]]:
    """Return name, element type and shape of a graph input or output; symbols as they are written."""
    tensor = value.type.tensor_type
    shape = tuple(size.dim_param or size.dim_value for size in tensor.shape.dim)
    return value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), shape
