"""ATen operators that move elements without changing them, and those that make tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.tracing.aten_table import ConversionTable, element_type, rank
from edgellm_core.tracing.converter import Converter, UnsupportedOperatorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import fx

_END: Final = 2**62
"""Slice ends from here on mean "to the end" (ATen passes 2^63 - 1)."""

TABLE: Final = ConversionTable()


@TABLE.converts("sym_size.int")
def sym_size(c: Converter, _node: fx.Node, x: fx.Node, dim: int) -> Any:
    """One dimension as an int64 scalar."""
    axis = dim % rank(x)
    return c.emit("Squeeze", [c.emit("Shape", [c.values[x]], start=axis, end=axis + 1)])


@TABLE.converts("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int")
def reshape(c: Converter, node: fx.Node, x: fx.Node, *arguments: Any) -> Any:
    """Reshape, with a constant shape wherever that is possible.

    TensorRT loses the number of heads behind a computed shape; 0 copies a dimension and -1 infers one.
    """
    before, after = list(x.meta["val"].shape), list(node.meta["val"].shape)
    constant: list[int | None] = []
    for axis, dim in enumerate(after):
        copied = axis < len(before) and not isinstance(before[axis], int) and str(before[axis]) == str(dim)
        constant.append(dim if isinstance(dim, int) else 0 if copied else None)
    if constant.count(None) == 1:
        constant = [-1 if dim is None else dim for dim in constant]
    if None not in constant and 0 not in [dim for dim in after if isinstance(dim, int)]:
        return c.emit("Reshape", [c.values[x], c.ints(*[int(dim) for dim in constant if dim is not None])])
    if not arguments or not isinstance(arguments[-1], (list, tuple)) or len(arguments) > 1:
        msg = f"{node.target} with several computed dimensions"
        raise UnsupportedOperatorError(msg)
    return c.emit("Reshape", [c.values[x], c.shape(list(arguments[-1]))])


@TABLE.converts("transpose.int")
def transpose(c: Converter, _node: fx.Node, x: fx.Node, a: int, b: int) -> Any:
    """Swap two axes."""
    order = list(range(rank(x)))
    order[a], order[b] = order[b], order[a]
    return c.emit("Transpose", [c.values[x]], perm=order)


@TABLE.converts("t.default")
def matrix_transpose(c: Converter, _node: fx.Node, x: fx.Node) -> Any:
    """Transpose a matrix; a vector stays as it is."""
    return c.emit("Transpose", [c.values[x]], perm=[1, 0]) if rank(x) == 2 else c.values[x]


@TABLE.converts("numpy_T.default")
def reversed_axes(c: Converter, _node: fx.Node, x: fx.Node) -> Any:
    """All axes in reverse order."""
    return c.emit("Transpose", [c.values[x]], perm=list(range(rank(x)))[::-1])


@TABLE.converts("repeat.default")
def repeat(c: Converter, _node: fx.Node, x: fx.Node, counts: Sequence[Any]) -> Any:
    """The whole tensor several times along each axis; extra counts are for new axes in front."""
    value, new = c.values[x], len(counts) - rank(x)
    if new:
        value = c.emit("Unsqueeze", [value, c.ints(*range(new))])
    return c.emit("Tile", [value, c.shape(list(counts))])


@TABLE.converts("repeat_interleave.self_int")
def repeat_interleave(c: Converter, node: fx.Node, x: fx.Node, count: Any, dim: int | None = None) -> Any:
    """Each element several times in a row along one axis; the axes behind it must be of known size."""
    sizes = list(x.meta["val"].shape)
    axis = 0 if dim is None else dim % len(sizes)
    behind = sizes[axis + 1 :]
    if dim is None or not all(isinstance(size, int) for size in [count, *behind]):
        msg = f"{node.target} of computed sizes"
        raise UnsupportedOperatorError(msg)
    apart = c.emit("Unsqueeze", [c.values[x], c.ints(axis + 1)])
    spread = c.emit("Expand", [apart, c.ints(*[1] * (axis + 1), count, *[1] * len(behind))])
    return c.emit("Reshape", [spread, c.ints(*[0] * axis, -1, *behind)])


@TABLE.converts("permute.default")
def permute(c: Converter, _node: fx.Node, x: fx.Node, order: Sequence[int]) -> Any:
    """Reorder the axes."""
    return c.emit("Transpose", [c.values[x]], perm=[axis % len(order) for axis in order])


@TABLE.converts("unsqueeze.default")
def unsqueeze(c: Converter, _node: fx.Node, x: fx.Node, dim: int) -> Any:
    """Insert an axis of length 1."""
    return c.emit("Unsqueeze", [c.values[x], c.ints(dim)])


@TABLE.converts("squeeze.dim", "squeeze.dims")
def squeeze(c: Converter, _node: fx.Node, x: fx.Node, dim: Any) -> Any:
    """Drop axes of length 1; ATen keeps the others."""
    sizes = x.meta["val"].shape
    axes = [axis for axis in ([dim] if isinstance(dim, int) else dim) if sizes[axis] == 1]
    return c.emit("Squeeze", [c.values[x], c.ints(*axes)]) if axes else c.values[x]


@TABLE.converts("expand.default", "broadcast_to.default")
def expand(c: Converter, _node: fx.Node, x: fx.Node, shape: Sequence[Any], *, implicit: bool = False) -> Any:
    """Broadcast; -1 keeps a dimension, which Expand writes as 1."""
    del implicit  # how autograd sees it
    dims = [1 if isinstance(dim, int) and dim < 0 else dim for dim in shape]
    return c.emit("Expand", [c.values[x], c.shape(dims)])


@TABLE.converts("cat.default")
def cat(c: Converter, node: fx.Node, tensors: Sequence[fx.Node], dim: int = 0) -> Any:
    """Concatenate along one axis."""
    return c.emit("Concat", [c.value(tensor, element_type(node)) for tensor in tensors], axis=dim)


@TABLE.converts("stack.default")
def stack(c: Converter, node: fx.Node, tensors: Sequence[fx.Node], dim: int = 0) -> Any:
    """Concatenate along a new axis."""
    parts = [c.emit("Unsqueeze", [c.value(tensor, element_type(node)), c.ints(dim)]) for tensor in tensors]
    return c.emit("Concat", parts, axis=dim)


@TABLE.converts("split.Tensor", "split_with_sizes.default", "chunk.default")
def split(c: Converter, node: fx.Node, x: fx.Node, _sizes: Any, dim: int = 0) -> Any:
    """Cut along one axis into parts of known sizes."""
    sizes = [part.shape[dim] for part in node.meta["val"]]
    if not all(isinstance(size, int) for size in sizes):
        msg = f"{node.target} into parts of symbolic size"
        raise UnsupportedOperatorError(msg)
    if len(sizes) == 1:
        return [c.values[x]]
    return c.emit("Split", [c.values[x], c.ints(*sizes)], len(sizes), axis=dim)


@TABLE.converts("slice.Tensor")
def slice_(  # ATen's signature
    c: Converter, _node: fx.Node, x: fx.Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    """Cut out a range of one axis; bounds may be symbolic."""
    if (start is None or start == 0) and (end is None or (isinstance(end, int) and end >= _END)) and step == 1:
        return c.values[x]
    bounds = [0 if start is None else start, _END if end is None else end]
    return c.emit("Slice", [c.values[x], *(c.shape([bound]) for bound in bounds), c.ints(dim), c.ints(step)])


@TABLE.converts("select.int")
def select(c: Converter, _node: fx.Node, x: fx.Node, dim: int, index: Any) -> Any:
    """Take one index of an axis and drop the axis."""
    return c.emit("Gather", [c.values[x], c.value(index, torch.int64)], axis=dim)


@TABLE.converts("arange.default", "arange.start", "arange.start_step")
def arange(c: Converter, node: fx.Node, *bounds: Any, **_kwargs: Any) -> Any:
    """A range of numbers."""
    dtype = element_type(node)
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    return c.emit("Range", [c.value(bound, dtype) for bound in (start, end, step)])


def _filled(c: Converter, node: fx.Node, shape: Sequence[Any], number: Any) -> Any:
    dtype = element_type(node)
    if all(isinstance(dim, int) for dim in shape) and isinstance(number, (bool, int, float)):
        return c.constant(torch.full(tuple(shape), number, dtype=dtype))
    value = c.value(number, dtype)
    return c.emit("Expand", [value, c.shape(list(shape))]) if shape else value


@TABLE.converts("full.default")
def full(c: Converter, node: fx.Node, shape: Sequence[Any], number: Any, **_kwargs: Any) -> Any:
    """A tensor of one number."""
    return _filled(c, node, shape, number)


@TABLE.converts("new_full.default")
def new_full(c: Converter, node: fx.Node, _x: fx.Node, shape: Sequence[Any], number: Any, **_kwargs: Any) -> Any:
    """A tensor of one number, in the element type of another one."""
    return _filled(c, node, shape, number)


@TABLE.converts("zeros.default", "new_zeros.default")
def zeros(c: Converter, node: fx.Node, *arguments: Any, **_kwargs: Any) -> Any:
    """A tensor of zeros."""
    return _filled(c, node, arguments[-1], 0)


@TABLE.converts("ones.default", "new_ones.default")
def ones(c: Converter, node: fx.Node, *arguments: Any, **_kwargs: Any) -> Any:
    """A tensor of ones."""
    return _filled(c, node, arguments[-1], 1)


@TABLE.converts("zeros_like.default", "ones_like.default", "full_like.default")
def filled_like(c: Converter, node: fx.Node, x: fx.Node, number: Any = None, **_kwargs: Any) -> Any:
    """One number in the shape of another tensor."""
    filler = number if "full" in str(node.target) else int("ones" in str(node.target))
    return c.emit("Expand", [c.value(filler, element_type(node)), c.emit("Shape", [c.values[x]])])


@TABLE.converts("_assert_tensor_metadata.default", "_assert_scalar.default")
def assertion(_c: Converter, _node: fx.Node, *_args: Any, **_kwargs: Any) -> None:
    """Checks of the trace itself; nothing to compute."""
