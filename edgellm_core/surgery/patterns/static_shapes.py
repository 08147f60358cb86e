"""Dimensions that are known before the graph runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgellm_core.surgery.patterns.values import integers, producer
from edgellm_core.surgery.rule import Editor, NearMiss, Rule, graph_output

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Stage


class ShapeToConstant(Rule):
    """``Shape(x)``, or an entry or slice of it, whose dimensions are all numbers → a constant."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match ``Shape``, ``Gather(Shape)`` and ``Slice(Shape)`` of known dimensions."""
        if node.domain or _value(node) is None:
            return False
        return graph_output(node, graph) or True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the numbers."""
        edit.replace(node.outputs[0], edit.constant(_value(node)))


def _value(node: gs.Node) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    if node.op == "Shape":
        return _numbers(_dimensions(node))
    if node.op not in {"Gather", "Slice"}:
        return None
    shape = producer(node.inputs[0], "Shape")
    sizes = _dimensions(shape) if shape is not None else None
    given = [integers(tensor) for tensor in node.inputs[1:]]
    if sizes is None or None in given:
        return None
    if node.op == "Gather":
        index = np.asarray(node.inputs[1].values)
        if int(node.attrs.get("axis", 0)) != 0 or np.any(index >= len(sizes)) or np.any(index < -len(sizes)):
            return None
        picked = _numbers([sizes[int(position)] for position in index.reshape(-1)])
        return None if picked is None else picked.reshape(index.shape)
    start, end = given[0], given[1]
    step = given[3][0] if len(given) > 3 and given[3] is not None else 1
    assert start is not None
    assert end is not None
    return _numbers(sizes[start[0] : end[0] : step])


def _dimensions(shape: gs.Node) -> list[int | str | None] | None:
    sizes = shape.inputs[0].shape
    if sizes is None:
        return None
    return list(sizes)[shape.attrs.get("start", 0) : shape.attrs.get("end")]


def _numbers(sizes: list[int | str | None] | None) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    if sizes is None or not all(isinstance(size, int) and size >= 0 for size in sizes):
        return None
    return np.asarray(sizes, dtype=np.int64)
