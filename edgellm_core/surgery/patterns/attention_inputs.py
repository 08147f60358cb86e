"""Queries, keys, values and masks of an attention in plain operators: their layouts and what has to hold for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.surgery.patterns.pattern import miss
from edgellm_core.surgery.patterns.values import dimension, integers, producer, rank, same_known, same_type

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Editor


@dataclass(frozen=True, slots=True)
class Turned:
    """Keys as ``[batch, kv_heads, keys, head_dim]``.

    Attributes:
        tensor: where they come from.
        order: permutation of its axes that makes them; None where they are so already.
    """

    tensor: gs.Tensor
    order: tuple[int, ...] | None = None

    def dimension(self, axis: int) -> int | str | None:
        """Return one of their dimensions."""
        return dimension(self.tensor, axis if self.order is None else self.order[axis])

    @property
    def length(self) -> int | str | None:
        """Number of keys."""
        return self.dimension(2)

    def write(self, edit: Editor, name: str) -> gs.Tensor:
        """Return them, transposed where that is needed."""
        if self.order is None:
            return self.tensor
        return edit.node(
            "Transpose", [self.tensor], f"{name}.keys", name=f"{name}/keys", like=self.tensor, perm=list(self.order)
        )


def turned_keys(tensor: gs.Tensor) -> Turned:
    """Return the keys whose last two axes a product of matrices needs exchanged.

    Raises:
        MissedError: they are not the result of a transposition.
    """
    node = producer(tensor, "Transpose")
    if node is None:
        return Turned(tensor, (0, 1, 3, 2))
    order = [int(axis) for axis in node.attrs.get("perm", (3, 2, 1, 0))]
    if len(order) != 4:
        miss(f"its keys have {len(order)} dimensions, not 4")
    order[2], order[3] = order[3], order[2]
    return Turned(node.inputs[0], None if order == [0, 1, 2, 3] else tuple(order))


def unrepeated(tensor: gs.Tensor) -> tuple[gs.Tensor, int] | None:
    """Return keys or values before ``Reshape(Expand(Unsqueeze(x, 2)))`` repeats each head, and how often it does.

    The layout is proved from the shapes: only the new axis grows, and it is merged with the heads before it.
    """
    merge = producer(tensor, "Reshape")
    expand = producer(merge.inputs[0], "Expand") if merge is not None else None
    unsqueeze = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if expand is None or unsqueeze is None:
        return None
    source, spread = unsqueeze.inputs[0], expand.outputs[0]
    axes = integers(unsqueeze.inputs[1])
    if rank(source) != 4 or axes not in ([2], [-3]) or rank(spread) != 5 or rank(tensor) != 4:
        return None
    heads, times, width = dimension(source, 1), dimension(spread, 2), dimension(source, 3)
    if not isinstance(heads, int) or not isinstance(times, int) or not isinstance(width, int):
        return None
    grown = [dimension(spread, axis) for axis in (0, 1, 3, 4)]
    merged = [dimension(tensor, axis) for axis in (0, 1, 2, 3)]
    kept = [dimension(source, axis) for axis in (0, 1, 2, 3)]
    expected = [kept[0], heads * times, kept[2], width]
    same = all(_may_be_same(*pair) for pair in zip([*grown, *merged], [*kept, *expected], strict=True))
    return (source, times) if same else None


def _may_be_same(first: int | str | None, second: int | str | None) -> bool:
    """Say whether two dimensions are equal, or two symbols: exporters give one size several names.

    An axis of size 1 that grows unseen leaves keys and mask of different lengths, which does not run.
    """
    return same_known(first, second) or (isinstance(first, str) and isinstance(second, str))


def require_shapes(query: gs.Tensor, keys: Turned, value: gs.Tensor) -> None:
    """Refuse shapes that the standard operator does not take, or that are not known.

    Raises:
        MissedError: naming what is in the way.
    """
    for label, tensor in (("query", query), ("keys", keys.tensor), ("value", value)):
        if rank(tensor) != 4:
            miss(f"its {label} {tensor.name!r} is not known to have 4 dimensions")
    if not same_known(keys.dimension(0), dimension(query, 0)) or not same_known(
        dimension(value, 0), dimension(query, 0)
    ):
        miss("its query, keys and values are not known to have the same batch")
    if not same_type(query, keys.tensor) or not same_type(query, value):
        miss("its query, keys and values are not known to have the same element type")
    heads, kv_heads = dimension(query, 1), keys.dimension(1)
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or heads % kv_heads:
        miss(f"its {heads} query heads are not known to be a multiple of its {kv_heads} key heads")
    if not same_known(dimension(value, 1), kv_heads):
        miss("its keys and values are not known to have the same heads")


def require_mask(mask: gs.Tensor, query: gs.Tensor, length: int | str | None) -> None:
    """Refuse a mask that the standard operator does not take.

    Raises:
        MissedError: naming what is in the way.
    """
    depth = rank(mask)
    if depth not in {2, 4}:
        miss(f"its mask {mask.name!r} is not known to have 2 or 4 dimensions")
    if mask.dtype is None:
        miss(f"the element type of its mask {mask.name!r} is not known")
    for axis, size in ((-2, dimension(query, 2)), (-1, length)):
        given = dimension(mask, axis)
        if isinstance(given, int) and isinstance(size, int) and given != size and (axis, given) != (-2, 1):
            miss(f"its mask {mask.name!r} has {given} entries along axis {axis}, not {size}")
    if depth == 4 and dimension(mask, 1) not in {1, dimension(query, 1)}:
        miss(f"its mask {mask.name!r} is not known to be for one or for all heads")
    if depth == 4 and dimension(mask, 0) != 1 and not same_known(dimension(mask, 0), dimension(query, 0)):
        miss(f"its mask {mask.name!r} is not known to be for the same batch")
