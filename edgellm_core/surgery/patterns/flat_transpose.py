"""The exchange of the last two axes as exporters write it for any number of dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgellm_core.surgery.patterns.pattern import Found, PatternRule, name_of
from edgellm_core.surgery.patterns.values import integers, producer, rank

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Editor, Stage


@dataclass(frozen=True, kw_only=True)
class FoundTranspose(Found):
    """An exchange of the last two of four axes.

    Attributes:
        x: the input.
    """

    x: gs.Tensor


class FlatTransposeToTranspose(PatternRule[FoundTranspose]):
    """``Reshape(Transpose(Reshape(x, [-1, m, n])), [*batch, n, m])`` → ``Transpose(x)`` of 4 dimensions.

    torch.onnx writes the keys of ``scaled_dot_product_attention`` so.
    """

    stage: ClassVar[Stage] = "clean"

    def find(self, node: gs.Node) -> FoundTranspose | None:
        """Return an exchange that ends with the reshape back; the shapes must be slices of the input's own shape."""
        transpose = producer(node.inputs[0], "Transpose") if node.op == "Reshape" else None
        flatten = producer(transpose.inputs[0], "Reshape") if transpose is not None else None
        if transpose is None or flatten is None or list(transpose.attrs.get("perm", ())) != [0, 2, 1]:
            return None
        x = flatten.inputs[0]
        if rank(x) != 4 or x.shape is None:
            return None
        flat, back = _parts(flatten.inputs[1], x), _parts(node.inputs[1], x)
        if flat not in ([None, 2, 3], [-1, 2, 3]) or back != [0, 1, 3, 2]:
            return None
        return FoundTranspose(inner=(transpose, flatten), x=x)

    def write(self, node: gs.Node, found: FoundTranspose, edit: Editor) -> None:
        """Write one transposition, and state its shape."""
        output = node.outputs[0]
        batch, heads, rows, columns = found.x.shape
        output.shape = [batch, heads, columns, rows]
        edit.node("Transpose", [found.x], output, name=name_of(node), perm=[0, 1, 3, 2])


def _parts(shape: gs.Tensor, x: gs.Tensor) -> list[int | None] | None:
    """Return which axis of ``x`` each entry of a shape is; None stands for the entry -1.

    Returns:
        None where an entry is something else.
    """
    concat = producer(shape, "Concat")
    if concat is None:
        return None
    found: list[int | None] = []
    for tensor in concat.inputs:
        values = integers(tensor)
        axes = _known_axes(values, x) if values is not None else _sliced_axes(tensor, x)
        if axes is None:
            return None
        found += axes
    return found


def _known_axes(values: list[int], x: gs.Tensor) -> list[int | None] | None:
    """Read constants: -1, or the size of an axis of x that is the only one of that size."""
    axes: list[int | None] = []
    for value in values:
        same = [axis for axis, size in enumerate(x.shape) if size == value]
        if value == -1:
            axes.append(None)
        elif len(same) == 1:
            axes.append(same[0])
        else:
            return None
    return axes


def _sliced_axes(tensor: gs.Tensor, x: gs.Tensor) -> list[int | None] | None:
    """Read ``Shape(x)[start:end]``."""
    piece = producer(tensor, "Slice", "Shape")
    if piece is None:
        return None
    if piece.op == "Shape":
        return _range(piece.attrs.get("start", 0), piece.attrs.get("end", 4)) if piece.inputs[0] is x else None
    whole = producer(piece.inputs[0], "Shape")
    bounds = [integers(value) for value in piece.inputs[1:3]]
    plain = len(piece.inputs) < 5 or integers(piece.inputs[4]) == [1]
    if whole is None or whole.inputs[0] is not x or None in bounds or not plain:
        return None
    if whole.attrs.get("start", 0) != 0 or "end" in whole.attrs:
        return None
    start, end = (value[0] for value in bounds if value is not None)
    return _range(start, end)


def _range(start: int, end: int) -> list[int | None]:
    return list(range(*slice(start, end).indices(4)))
