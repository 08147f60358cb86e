"""Cosine and sine of rotary position embeddings: their layouts and what has to hold for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.surgery.patterns.pattern import miss
from edgellm_core.surgery.patterns.values import dimension, integers, is_last_axis, producer, rank, same_known

if TYPE_CHECKING:
    from edgellm_core.surgery.rule import Editor


def require_table(table: gs.Tensor, x: gs.Tensor, *, interleaved: bool) -> None:
    """Refuse a cosine or sine that the standard operator can't take.

    Args:
        table: cosine or sine for each channel.
        x: what is rotated, ``[batch, heads, seq, head_dim]``.
        interleaved: whether neighbouring channels are a pair, or those half of the channels apart.

    Raises:
        MissedError: it has another layout, differs from head to head, or within a pair as far as is known.
    """
    known, size = rank(table), dimension(x, -1)
    if known not in {2, 4} or (known == 4 and dimension(table, 1) != 1):
        miss(f"its table {table.name!r} is not known to be [batch, 1, seq, {size}]")
    if dimension(table, -1) != size or not same_known(dimension(table, -2), dimension(x, 2)):
        miss(f"its table {table.name!r} is not known to have one row for each position")
    if known == 4 and dimension(table, 0) != 1 and not same_known(dimension(table, 0), dimension(x, 0)):
        miss(f"its table {table.name!r} is not known to be for the same batch")
    if not _pairs_are_equal(table, interleaved=interleaved):
        parts = "neighbours" if interleaved else "two halves"
        miss(f"the {parts} of its table {table.name!r} are not known to be equal")


_POINTWISE = frozenset({"Cos", "Sin", "Cast", "Identity"})
_LEADING = frozenset({"Unsqueeze", "Squeeze", "Gather", "Slice", "Expand"})


def _pairs_are_equal(table: gs.Tensor, *, interleaved: bool) -> bool:
    """Follow a table to where one value becomes both channels of a pair, or to a constant where they are equal."""
    node = producer(table)
    if node is None:
        return isinstance(table, gs.Constant) and _equal_numbers(np.asarray(table.values), interleaved=interleaved)
    if node.op in {"Mul", "Div"}:
        return all(_one_value(tensor) or _pairs_are_equal(tensor, interleaved=interleaved) for tensor in node.inputs)
    if node.op == "Reshape":
        return interleaved and merges_pairs(node) and _repeats(node.inputs[0])
    if node.op == "Concat":
        both = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return not interleaved and both and is_last_axis(int(node.attrs["axis"]), table)
    passes = node.op in _POINTWISE or (node.op in _LEADING and _keeps_channels(node))
    return passes and _pairs_are_equal(node.inputs[0], interleaved=interleaved)


def _equal_numbers(values: np.ndarray[Any, Any], *, interleaved: bool) -> bool:
    if values.shape[-1] % 2:
        return False
    first, second = (values[..., ::2], values[..., 1::2]) if interleaved else np.split(values, 2, axis=-1)
    return np.array_equal(first, second)


def merges_pairs(node: gs.Node) -> bool:
    """Say whether a ``Reshape`` turns ``[…, n, 2]`` into ``[…, 2 · n]``."""
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if before is None or after is None or len(before) != len(after) + 1 or before[-1] != 2:
        return False
    leading = zip(before[:-2], after[:-1], strict=True)
    return after[-1] == 2 * before[-2] and all(same_known(*pair) for pair in leading)


def _repeats(tensor: gs.Tensor) -> bool:
    """Say whether ``[…, n, 2]`` holds each number twice: ``Expand(Unsqueeze(x, -1))``, or that joined with itself."""
    node = producer(tensor, "Expand", "Concat")
    if node is None or (node.op == "Concat" and any(one is not node.inputs[0] for one in node.inputs)):
        return False
    if node.op == "Concat" and not is_last_axis(int(node.attrs["axis"]), tensor):
        return False
    column = producer(node.inputs[0], "Unsqueeze")
    return column is not None and dimension(column.outputs[0], -1) == 1


def _one_value(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and tensor.values.size == 1


def _keeps_channels(node: gs.Node) -> bool:
    """Say whether an operator moves whole rows of the last axis only."""
    source, result = dimension(node.inputs[0], -1), dimension(node.outputs[0], -1)
    if not isinstance(source, int) or source != result or source == 1:
        return False
    if node.op == "Gather":
        depth = rank(node.inputs[0])
        axis = int(node.attrs.get("axis", 0))
        return depth is not None and axis % depth != depth - 1
    if node.op == "Slice":
        axes = integers(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is not None and not any(is_last_axis(axis, node.inputs[0]) for axis in axes)
    if node.op in {"Unsqueeze", "Squeeze"}:
        axes, deep = integers(node.inputs[1]) if len(node.inputs) > 1 else None, max(rank(t) or 0 for t in _ends(node))
        return axes is not None and all(axis % deep != deep - 1 for axis in axes)
    return True


def _ends(node: gs.Node) -> tuple[gs.Tensor, gs.Tensor]:
    return node.inputs[0], node.outputs[0]


def half_table(table: gs.Tensor, x: gs.Tensor, edit: Editor, *, interleaved: bool) -> gs.Tensor:
    """Return one number of each pair of a table's channels as ``[batch, seq, head_dim / 2]``; layers share it."""

    def make() -> gs.Tensor:
        name = f"{table.name}.half"
        plain = table
        if rank(table) == 4:
            plain = edit.node("Squeeze", [table, edit.constant([1])], f"{name}.rows", name=f"{name}/rows", like=table)
        size = int(table.shape[-1])
        bounds = [edit.constant([bound]) for bound in ((0, size, -1, 2) if interleaved else (0, size // 2, -1))]
        return edit.node("Slice", [plain, *bounds], name, name=name, like=table)

    sliced = edit.first(("half", table.name), make)
    batch = dimension(x, 0)
    if rank(table) == 4 and same_known(dimension(table, 0), batch):
        return sliced

    def spread() -> gs.Tensor:
        name = f"{table.name}.rows.{batch or x.name}"
        count = edit.node("Shape", [x], f"{name}.batch", name=f"{name}/batch", start=0, end=1)
        shape = edit.node("Concat", [count, edit.constant([1, 1])], f"{name}.shape", name=f"{name}/shape", axis=0)
        return edit.node("Expand", [sliced, shape], name, name=name, like=table)

    return edit.first(("spread", table.name, batch or x.name), spread)
