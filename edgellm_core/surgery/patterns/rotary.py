"""Rotary position embeddings in plain operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.surgery.patterns.pattern import Found, PatternRule, miss, name_of
from edgellm_core.surgery.patterns.values import (
    dimension,
    either_order,
    integers,
    is_last_axis,
    producer,
    rank,
    same_known,
)

if TYPE_CHECKING:
    from edgellm_core.surgery.rule import Editor


@dataclass(frozen=True, kw_only=True)
class FoundRotary(Found):
    """A rotation of all channels in halves.

    Attributes:
        x: ``[batch, heads, seq, head_dim]``.
        cos: its angles' cosine, ``[batch or 1, 1, seq, head_dim]`` and equal in both halves.
        sin: like ``cos``.
        head_dim: number of channels.
    """

    x: gs.Tensor
    cos: gs.Tensor
    sin: gs.Tensor
    head_dim: int


class PlainRotary(PatternRule[FoundRotary]):
    """``x · cos + Concat(-x[half:], x[:half]) · sin`` → ``edgellm::Rotary(x, cos[:half], sin[:half])``."""

    def find(self, node: gs.Node) -> FoundRotary | None:
        """Return a rotation that ends with its sum."""
        if node.op != "Add":
            return None
        for straight, turned in either_order(node):
            first, second = producer(straight, "Mul"), producer(turned, "Mul")
            if first is None or second is None:
                continue
            for half, sin in either_order(second):
                found = _rotation(first, second, half, sin)
                if found is not None:
                    return found
        return None

    def write(self, node: gs.Node, found: FoundRotary, edit: Editor) -> None:
        """Write the semantic operator; layers share the halves of cosine and sine."""
        tables = [_half(found, table, edit) for table in (found.cos, found.sin)]
        edit.semantic(
            "Rotary",
            [found.x, *tables],
            node.outputs[0],
            name=name_of(node),
            interleaved=0,
            rotary_dim=found.head_dim,
        )


def _rotation(first: gs.Node, second: gs.Node, half: gs.Tensor, sin: gs.Tensor) -> FoundRotary | None:
    rotated = _rotated_half(half)
    if rotated is None:
        return None
    x, nodes = rotated
    for left, cos in either_order(first):
        if left is not x:
            continue
        size = dimension(x, -1)
        if rank(x) != 4 or not isinstance(size, int):
            miss("its input is not known to be [batch, heads, seq, head_dim]")
        for table in (cos, sin):
            _require_table(table, x)
        return FoundRotary(inner=(first, second, *nodes), x=x, cos=cos, sin=sin, head_dim=size)
    return None


def _rotated_half(tensor: gs.Tensor) -> tuple[gs.Tensor, tuple[gs.Node, ...]] | None:
    """Return x and the nodes of ``Concat(-x[half:], x[:half])``."""
    concat = producer(tensor, "Concat")
    if concat is None or len(concat.inputs) != 2 or not is_last_axis(int(concat.attrs["axis"]), tensor):
        return None
    negative = producer(concat.inputs[0], "Neg")
    if negative is None:
        return None
    upper, lower = negative.inputs[0], concat.inputs[1]
    split = producer(upper, "Split")
    if split is not None:
        return _split_in_half(split, lower, upper, (concat, negative, split))
    slices = (producer(lower, "Slice"), producer(upper, "Slice"))
    if slices[0] is None or slices[1] is None or slices[0].inputs[0] is not slices[1].inputs[0]:
        return None
    x = slices[0].inputs[0]
    size = dimension(x, -1)
    if not isinstance(size, int):
        miss("the number of channels of its input is not known")
    if _bounds(slices[0], size) != (0, size // 2) or _bounds(slices[1], size) != (size // 2, size):
        miss("it does not turn the first half of the channels against the second")
    return x, (concat, negative, slices[0], slices[1])


def _split_in_half(
    split: gs.Node, lower: gs.Tensor, upper: gs.Tensor, nodes: tuple[gs.Node, ...]
) -> tuple[gs.Tensor, tuple[gs.Node, ...]] | None:
    x = split.inputs[0]
    if len(split.outputs) != 2 or split.outputs[0] is not lower or split.outputs[1] is not upper:
        return None
    sizes = integers(split.inputs[1]) if len(split.inputs) > 1 else None
    if not is_last_axis(int(split.attrs.get("axis", 0)), x) or (sizes is not None and sizes[0] != sizes[1]):
        miss("it does not turn the first half of the channels against the second")
    return x, nodes


def _bounds(node: gs.Node, size: int) -> tuple[int, int] | None:
    """Return start and end of a ``Slice`` with step 1 along the last axis, or None."""
    given = [integers(tensor) for tensor in node.inputs[1:]]
    if len(given) < 3 or any(value is None or len(value) != 1 for value in given):
        return None
    start, end, axis, *step = (value[0] for value in given if value is not None)
    if not is_last_axis(axis, node.inputs[0]) or step not in ([], [1]):
        return None
    return slice(start, end).indices(size)[:2]


def _require_table(table: gs.Tensor, x: gs.Tensor) -> None:
    """Refuse a cosine or sine that the standard operator can't take.

    Raises:
        MissedError: it has another layout, differs from head to head, or its halves are not known to be equal.
    """
    known, size = rank(table), dimension(x, -1)
    if known not in {2, 4} or (known == 4 and dimension(table, 1) != 1):
        miss(f"its table {table.name!r} is not known to be [batch, 1, seq, {size}]")
    if dimension(table, -1) != size or not same_known(dimension(table, -2), dimension(x, 2)):
        miss(f"its table {table.name!r} is not known to have one row for each position")
    if known == 4 and dimension(table, 0) != 1 and not same_known(dimension(table, 0), dimension(x, 0)):
        miss(f"its table {table.name!r} is not known to be for the same batch")
    if not _halves_are_equal(table):
        miss(f"the two halves of its table {table.name!r} are not known to be equal")


_POINTWISE = frozenset({"Cos", "Sin", "Cast", "Identity"})
_LEADING = frozenset({"Unsqueeze", "Squeeze", "Gather", "Slice", "Expand"})


def _halves_are_equal(table: gs.Tensor) -> bool:
    """Follow a table to the concatenation of one value with itself, or to a constant with equal halves."""
    if isinstance(table, gs.Constant):
        values = np.asarray(table.values)
        first, second = np.split(values, 2, axis=-1) if values.shape[-1] % 2 == 0 else (values, None)
        return second is not None and bool(np.array_equal(first, second))
    node = producer(table)
    if node is None:
        return False
    if node.op in _POINTWISE:
        return _halves_are_equal(node.inputs[0])
    if node.op in {"Mul", "Div"}:
        return all(_one_value(tensor) or _halves_are_equal(tensor) for tensor in node.inputs)
    if node.op == "Concat":
        axis = int(node.attrs["axis"])
        return is_last_axis(axis, table) and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
    return node.op in _LEADING and _keeps_channels(node) and _halves_are_equal(node.inputs[0])


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


def _half(found: FoundRotary, table: gs.Tensor, edit: Editor) -> gs.Tensor:
    """Return the first half of a table as ``[batch, seq, head_dim / 2]``."""
    half = found.head_dim // 2

    def make() -> gs.Tensor:
        name = f"{table.name}.half"
        plain = table
        if rank(table) == 4:
            plain = edit.node("Squeeze", [table, edit.constant([1])], f"{name}.rows", name=f"{name}/rows", like=table)
        bounds = [edit.constant([bound]) for bound in (0, half, -1)]
        return edit.node("Slice", [plain, *bounds], name, name=name, like=table)

    sliced = edit.first(("half", table.name), make)
    batch = dimension(found.x, 0)
    if rank(table) == 4 and same_known(dimension(table, 0), batch):
        return sliced

    def spread() -> gs.Tensor:
        name = f"{table.name}.rows.{batch or found.x.name}"
        count = edit.node("Shape", [found.x], f"{name}.batch", name=f"{name}/batch", start=0, end=1)
        shape = edit.node("Concat", [count, edit.constant([1, 1])], f"{name}.shape", name=f"{name}/shape", axis=0)
        return edit.node("Expand", [sliced, shape], name, name=name, like=table)

    return edit.first(("spread", table.name, batch or found.x.name), spread)
