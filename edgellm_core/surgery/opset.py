"""Raising a graph to a later opset, where that changes no operator's meaning.

onnx's own converter rewrites graphs in place with few adapters and many gaps. Here an operator is left as it is where
its later definition takes the node unchanged, rewritten where one of the few adapters below fits, and refused by name
otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.surgery.errors import OpsetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

OLDEST: Final = 13
"""Before opset 13, ``Softmax`` flattens its input and axes of ``Squeeze`` and others are attributes."""

_NEUTRAL: Final = frozenset(
    {
        ("Reshape", "allowzero"),
        ("Cast", "saturate"),
        ("Cast", "round_mode"),
        ("CastLike", "saturate"),
        ("CastLike", "round_mode"),
        ("ScatterND", "reduction"),
        ("ScatterElements", "reduction"),
        ("Shape", "start"),
        ("Resize", "antialias"),
        ("Resize", "keep_aspect_ratio_policy"),
        ("QuantizeLinear", "saturate"),
        ("QuantizeLinear", "block_size"),
        ("DequantizeLinear", "block_size"),
        ("QuantizeLinear", "output_dtype"),
        ("DequantizeLinear", "output_dtype"),
        ("QuantizeLinear", "precision"),
        ("BatchNormalization", "training_mode"),
        ("LayerNormalization", "stash_type"),
    }
)
"""Attributes that later definitions brought, whose default is the earlier behavior (read from ONNX's changelog)."""

_CHANGED: Final = {"GroupNormalization": 21, "GridSample": 20, "RoiAlign": 16, "DFT": 20, "AveragePool": 19}
"""Operators whose meaning changed with an unchanged form, and the opset that changed it."""

_REDUCTIONS: Final = frozenset(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)


def raise_opset(model: onnx.ModelProto, opset: int) -> None:
    """Raise the default domain of a graph.

    Args:
        model: changed in place; must not hold functions.
        opset: the opset to reach; a graph that has it or a later one stays as it is.

    Raises:
        OpsetError: naming the first operator that can't be raised.
    """
    from onnx import helper

    current = opset_of(model)
    if current < opset:
        if current < OLDEST:
            raise OpsetError(current, opset, "", f"graphs before opset {OLDEST} are not raised")
        for graph in graphs_of(model.graph):
            for node in list(graph.node):
                if node.domain in {"", "ai.onnx"}:
                    _raise_node(node, graph, current, opset)
    versions = {item.domain: item.version for item in model.opset_import if item.domain not in {"", "ai.onnx"}}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*item) for item in {"": max(current, opset), **versions}.items())


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of the default domain; 1 where the model names none."""
    return max((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), default=1)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the graphs in its nodes' attributes (branches, loop bodies)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs_of(inner)


def _raise_node(node: onnx.NodeProto, graph: onnx.GraphProto, current: int, opset: int) -> None:
    import onnx

    try:
        before = onnx.defs.get_schema(node.op_type, current)
        after = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        raise OpsetError(current, opset, node.op_type, "the file's or the later opset has no such operator") from None
    if before.since_version == after.since_version and not after.deprecated:
        return
    if node.op_type in _REDUCTIONS and _axes_to_input(node, graph):
        return
    if node.op_type == "Split" and len(node.input) == 1 and current < 18:
        node.attribute.append(onnx.helper.make_attribute("num_outputs", len(node.output)))
        return
    reason = _objection(node, before, after)
    if reason:
        raise OpsetError(current, opset, node.op_type, reason)


def _axes_to_input(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Make the attribute ``axes`` of a reduction its second input (opset 18); say whether there was one."""
    import numpy as np
    from onnx import numpy_helper

    axes = next((attribute for attribute in node.attribute if attribute.name == "axes"), None)
    if axes is None:
        return False
    name = f"{node.output[0]}.axes"
    graph.initializer.append(numpy_helper.from_array(np.asarray(axes.ints, dtype=np.int64), name))
    node.attribute.remove(axes)
    node.input.append(name)
    return True


def _objection(node: onnx.NodeProto, before: Any, after: Any) -> str:
    """Return why the later definition does not mean the same for a node; empty where it does."""
    if after.deprecated:
        return "the later opset has no such operator"
    if before.since_version < _CHANGED.get(node.op_type, 0) <= after.since_version:
        return "the later opset gives it another meaning"
    return _lost(node, after) or _added(node, before, after)


def _lost(node: onnx.NodeProto, after: Any) -> str:
    lost = [attribute.name for attribute in node.attribute if attribute.name not in after.attributes]
    if lost:
        return f"its attribute {lost[0]!r} is gone in the later opset"
    return "the later opset demands another input" if len(node.input) < after.min_input else ""


def _added(node: onnx.NodeProto, before: Any, after: Any) -> str:
    for name, attribute in after.attributes.items():
        default = attribute.default_value.SerializeToString()
        if name in before.attributes:
            if default != before.attributes[name].default_value.SerializeToString():
                return f"its attribute {name!r} has another default in the later opset"
        elif attribute.required or (attribute.default_value.type and not _is_neutral(node.op_type, name)):
            return f"the later opset gives it the attribute {name!r}"
    return ""


def _is_neutral(operator: str, attribute: str) -> bool:
    """Say whether an attribute that a later definition brought keeps, by default, what was before."""
    return (operator, attribute) in _NEUTRAL or (operator in _REDUCTIONS and attribute == "noop_with_empty_axes")
