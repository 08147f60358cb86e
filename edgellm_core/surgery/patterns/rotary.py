"""Rotary position embeddings in plain operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.surgery.patterns.pattern import Found, PatternRule, miss, name_of
from edgellm_core.surgery.patterns.rotary_tables import half_table, merges_pairs, require_table
from edgellm_core.surgery.patterns.values import dimension, either_order, integers, is_last_axis, producer, rank

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Editor


@dataclass(frozen=True, kw_only=True)
class FoundRotary(Found):
    """A rotation of all channels.

    Attributes:
        x: ``[batch, heads, seq, head_dim]``.
        cos: its angles' cosine, ``[batch or 1, 1, seq, head_dim]`` and equal in both channels of a pair.
        sin: like ``cos``.
        head_dim: number of channels.
        interleaved: whether neighbouring channels are a pair, or those half of the channels apart.
    """

    x: gs.Tensor
    cos: gs.Tensor
    sin: gs.Tensor
    head_dim: int
    interleaved: bool


class PlainRotary(PatternRule[FoundRotary]):
    """``x · cos + turned(x) · sin`` → ``edgellm::Rotary(x, cos, sin)``, with one angle for each pair of channels.

    ``turned(x)`` is ``Concat(-x[half:], x[:half])``, or ``-x[1::2]`` and ``x[::2]`` in turn.
    """

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
        """Write the semantic operator; layers share the tables."""
        tables = [half_table(table, found.x, edit, interleaved=found.interleaved) for table in (found.cos, found.sin)]
        edit.semantic(
            "Rotary",
            [found.x, *tables],
            node.outputs[0],
            name=name_of(node),
            interleaved=int(found.interleaved),
            rotary_dim=found.head_dim,
        )


def _rotation(first: gs.Node, second: gs.Node, turned: gs.Tensor, sin: gs.Tensor) -> FoundRotary | None:
    cast = producer(turned, "Cast")
    source = turned if cast is None else cast.inputs[0]
    pairs = _turned_pairs(source)
    rotated = pairs or _rotated_half(source)
    if rotated is None:
        return None
    x, nodes = rotated
    for left, cos in either_order(first):
        if not _is_cast_of(left, x, turned if cast is not None else None):
            continue
        size = dimension(x, -1)
        if rank(x) != 4 or not isinstance(size, int):
            miss("its input is not known to be [batch, heads, seq, head_dim]")
        for table in (cos, sin):
            require_table(table, x, interleaved=pairs is not None)
        inner = (first, second, *([] if cast is None else [cast]), *nodes)
        return FoundRotary(inner=inner, x=left, cos=cos, sin=sin, head_dim=size, interleaved=pairs is not None)
    return None


def _is_cast_of(left: gs.Tensor, x: gs.Tensor, turned: gs.Tensor | None) -> bool:
    """Say whether a tensor is x, or where the turned x is cast, x in the type of that."""
    if turned is None:
        return left is x
    cast = producer(left, "Cast")
    return cast is not None and cast.inputs[0] is x and left.dtype is not None and left.dtype == turned.dtype


def _turned_pairs(tensor: gs.Tensor) -> tuple[gs.Tensor, tuple[gs.Node, ...]] | None:
    """Return x and the nodes of ``-x[1::2]`` and ``x[::2]`` in turn."""
    merge = producer(tensor, "Reshape")
    stack = producer(merge.inputs[0], "Concat") if merge is not None else None
    if merge is None or stack is None or len(stack.inputs) != 2 or not merges_pairs(merge):
        return None
    columns = [producer(one, "Unsqueeze") for one in stack.inputs]
    negative = producer(columns[0].inputs[0], "Neg") if columns[0] is not None else None
    if columns[1] is None or negative is None or not is_last_axis(int(stack.attrs["axis"]), merge.inputs[0]):
        return None
    odd, even = producer(negative.inputs[0], "Slice"), producer(columns[1].inputs[0], "Slice")
    if odd is None or even is None or odd.inputs[0] is not even.inputs[0]:
        return None
    x = odd.inputs[0]
    size = dimension(x, -1)
    if not isinstance(size, int) or [_strided(one, size) for one in (odd, even)] != [(1, size, 2), (0, size, 2)]:
        return None
    if dimension(tensor, -1) != size or rank(tensor) != rank(x):
        return None
    return x, (merge, stack, *(one for one in columns if one is not None), negative, odd, even)


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
    found = _strided(node, size)
    return None if found is None or found[2] != 1 else found[:2]


def _strided(node: gs.Node, size: int) -> tuple[int, int, int] | None:
    """Return start, end and step of a ``Slice`` along the last axis, or None."""
    given = [integers(tensor) for tensor in node.inputs[1:]]
    if len(given) < 3 or any(value is None or len(value) != 1 for value in given):
        return None
    start, end, axis, *step = (value[0] for value in given if value is not None)
    if not is_last_axis(axis, node.inputs[0]):
        return None
    return slice(start, end, step[0] if step else 1).indices(size)
