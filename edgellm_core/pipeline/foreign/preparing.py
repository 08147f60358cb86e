"""Brings a foreign graph into the form that rules take: no functions, no Constant nodes, opset, shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.surgery.opset import graphs_of, raise_opset

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    from edgellm_core.pipeline.foreign.reading import ForeignGraph

IR_VERSION: Final = 11
"""First version of the file format that holds opset 23 (ONNX 1.18)."""


def prepare(foreign: ForeignGraph, opset: int) -> onnx.ModelProto:
    """Return the graph of a file in the form that rules take.

    Args:
        foreign: the file; its model is not changed.
        opset: lowest opset that the result has.

    Raises:
        OpsetError: an operator can't be raised to it.
    """
    import onnx
    from onnx import inliner

    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _hoist_constants(model.graph)
    raise_opset(model, opset)
    model.ir_version = max(model.ir_version, IR_VERSION)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def import_prepared(model: onnx.ModelProto, foreign: ForeignGraph) -> gs.Graph:
    """Return a prepared graph for rules; parameters are no longer among its inputs."""
    from edgellm_core.tracing.graph_import import import_graph

    graph = import_graph(model)
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name not in foreign.parameters]
    return graph


def _hoist_constants(main: onnx.GraphProto) -> None:
    """Make the tensors of ``Constant`` nodes initializers."""
    import onnx

    for graph in graphs_of(main):
        kept = []
        for node in graph.node:
            value = _constant(node)
            if value is None:
                kept.append(node)
                continue
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        if len(kept) < len(graph.node):
            copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
            del graph.node[:]
            graph.node.extend(copies)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    import numpy as np
    import onnx

    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"} or not node.attribute:
        return None
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor: onnx.TensorProto = value
        return tensor
    types = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if attribute.name not in types:
        return None
    return onnx.numpy_helper.from_array(np.asarray(value, dtype=types[attribute.name]))
