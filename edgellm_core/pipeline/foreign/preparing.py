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

    model = copied(foreign.model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _hoist_constants(model.graph)
    for value in model.graph.output:  # exporters give their dimensions names of their own
        value.type.tensor_type.ClearField("shape")
    _number_dimensions(model.graph)
    raise_opset(model, opset)
    model.ir_version = max(model.ir_version, IR_VERSION)
    return _with_shapes(onnx.shape_inference.infer_shapes(model, data_prop=True))


def _number_dimensions(graph: onnx.GraphProto) -> None:
    """Make symbols that are numbers numbers: the exporter of transformers calls the size 8 ``"8"``."""
    for value in graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param.isdigit():
                dimension.dim_value = int(dimension.dim_param)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """State the shapes that only a symbolic computation finds: TorchScript computes its ``Reshape`` in the graph.

    ONNX's own inference names most of those dimensions anew. ONNX Runtime's tool follows sums and products of symbols.
    """
    inferred = _symbolic(model, merging=False) or _symbolic(model, merging=True)
    if inferred is None:
        return model
    values = [*inferred.graph.value_info, *inferred.graph.output]
    shapes = {value.name: value for value in values if value.type.tensor_type.HasField("shape")}
    result = copied(model)
    for value in (*result.graph.value_info, *result.graph.output):
        found = shapes.pop(value.name, None)
        if found is not None and not _is_known(value):
            value.type.CopyFrom(found.type)
    outputs = {value.name for value in result.graph.output}
    result.graph.value_info.extend(value for name, value in shapes.items() if name not in outputs)
    return result


def _symbolic(model: onnx.ModelProto, *, merging: bool) -> onnx.ModelProto | None:
    """Return a copy with the shapes that ONNX Runtime's tool finds, or None where it gives up.

    Args:
        model: the graph.
        merging: where two symbols meet in one broadcast, take them for equal; otherwise the tool gives up there.
    """
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    tool = SymbolicShapeInference(_INT_MAX, merging, guess_output_rank=False, verbose=0)
    try:
        tool._preprocess(copied(model))  # noqa: SLF001  # infer_shapes() writes a file where it gives up
        found = False
        while tool.run_:
            found = tool._infer_impl()  # noqa: SLF001
        tool._update_output_from_vi()  # noqa: SLF001
    except Exception:  # noqa: BLE001  # it stops with whatever a node that it can't follow raises
        return None
    inferred: onnx.ModelProto | None = tool.out_mp_ if found else None
    return inferred


_INT_MAX: Final = 2**31 - 1
"""What the tool takes for unbounded: its default."""


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _is_known(value: onnx.ValueInfoProto) -> bool:
    """Say whether every dimension has a size or an exporter's symbol; ONNX's inference calls its own ``unk__N``."""
    if not value.type.tensor_type.HasField("shape"):
        return False
    dimensions = value.type.tensor_type.shape.dim
    return all(d.HasField("dim_value") or (d.dim_param and not d.dim_param.startswith("unk__")) for d in dimensions)


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
