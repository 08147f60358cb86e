"""The table from ATen operators to ONNX operators (opset 23).

Each conversion takes the converter, the fx node and the node's arguments, and returns the name of its value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import fx

from edgellm_core.tracing.converter import Conversion, Converter, UnsupportedOperatorError, semantic
from edgellm_core.tracing.operators import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_END: Final = 2**62
"""Slice ends from here on mean "to the end" (ATen passes 2^63 - 1)."""

TABLE: Final[dict[str, Conversion]] = {"onnx_symbolic._symbolic.default": semantic}


def converts(*names: str) -> Callable[[Conversion], Conversion]:
    """Enter a conversion into the table under the names of ATen overloads."""

    def enter(conversion: Conversion) -> Conversion:
        TABLE.update({f"aten.{name}": conversion for name in names})
        return conversion

    return enter


def _dtype(node: Any) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def _rank(node: fx.Node) -> int:
    return len(node.meta["val"].shape)


def _unary(op: str, **attributes: Any) -> Conversion:
    return lambda c, node, x, *_args, **_kwargs: c.emit(op, [c.value(x, _dtype(node))], **attributes)


def _binary(op: str) -> Conversion:
    def convert(c: Converter, node: fx.Node, x: Any, y: Any, *, alpha: float = 1) -> Any:
        dtype = _dtype(node)
        right = c.value(y, dtype)
        if alpha != 1:
            right = c.emit("Mul", [right, c.constant(alpha, dtype)])
        return c.emit(op, [c.value(x, dtype), right])

    return convert


def _comparison(op: str) -> Conversion:
    def convert(c: Converter, _node: fx.Node, x: Any, y: Any) -> Any:
        operands = [a.meta["val"] if isinstance(a, fx.Node) else a for a in (x, y)]
        dtype = torch.result_type(operands[0], operands[1])
        return c.emit(op, [c.value(x, dtype), c.value(y, dtype)])

    return convert


for _name, _op in {
    "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "sin": "Sin", "cos": "Cos", "tanh": "Tanh",
    "sigmoid": "Sigmoid", "relu": "Relu", "softplus": "Softplus", "erf": "Erf", "reciprocal": "Reciprocal",
    "floor": "Floor", "logical_not": "Not", "bitwise_not": "Not",
}.items():  # fmt: skip
    converts(f"{_name}.default")(_unary(_op))
for _name, _op in {
    "add.Tensor": "Add", "add.Scalar": "Add", "sub.Tensor": "Sub", "sub.Scalar": "Sub", "mul.Tensor": "Mul",
    "mul.Scalar": "Mul", "div.Tensor": "Div", "div.Scalar": "Div", "pow.Tensor_Scalar": "Pow", "pow.Scalar": "Pow",
    "pow.Tensor_Tensor": "Pow", "maximum.default": "Max", "minimum.default": "Min", "logical_and.default": "And",
    "logical_or.default": "Or",
}.items():  # fmt: skip
    converts(_name)(_binary(_op))
for _name, _op in {
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
}.items():  # fmt: skip
    converts(f"{_name}.Tensor", f"{_name}.Scalar")(_comparison(_op))


@converts(
    "contiguous.default", "clone.default", "alias.default", "detach.default", "detach_.default", "dropout.default",
    "lift_fresh_copy.default",
)  # fmt: skip
def same(c: Converter, _node: fx.Node, x: fx.Node, *_args: Any, **_kwargs: Any) -> Any:
    """Layout, dropout at inference and aliases change no value."""
    return c.values[x]


@converts(
    "to.dtype", "to.device", "to.dtype_layout", "to.other", "type_as.default", "_to_copy.default", "float.default"
)
def cast(c: Converter, node: fx.Node, x: fx.Node, *_args: Any, **_kwargs: Any) -> Any:
    """Cast to the node's own element type, where that differs."""
    return c.value(x, _dtype(node))


@converts("ne.Tensor", "ne.Scalar")
def not_equal(c: Converter, node: fx.Node, x: Any, y: Any) -> Any:
    """``x != y`` as Not(Equal)."""
    return c.emit("Not", [_comparison("Equal")(c, node, x, y)])


@converts("bitwise_and.Tensor", "__and__.Tensor", "bitwise_or.Tensor", "__or__.Tensor")
def boolean_logic(c: Converter, node: fx.Node, x: fx.Node, y: fx.Node) -> Any:
    """``x & y`` and ``x | y`` of booleans."""
    if _dtype(node) != torch.bool:
        msg = f"{node.target} of integers"
        raise UnsupportedOperatorError(msg)
    return c.emit("And" if "and" in str(node.target) else "Or", [c.values[x], c.values[y]])


@converts("rsub.Scalar", "rsub.Tensor")
def reversed_sub(c: Converter, node: fx.Node, x: Any, y: Any) -> Any:
    """``y - x``."""
    return c.emit("Sub", [c.value(y, _dtype(node)), c.value(x, _dtype(node))])


@converts("rsqrt.default")
def rsqrt(c: Converter, _node: fx.Node, x: fx.Node) -> Any:
    """``1 / sqrt(x)``."""
    return c.emit("Reciprocal", [c.emit("Sqrt", [c.values[x]])])


@converts("silu.default")
def silu(c: Converter, _node: fx.Node, x: fx.Node) -> Any:
    """``x * sigmoid(x)``."""
    return c.emit("Mul", [c.values[x], c.emit("Sigmoid", [c.values[x]])])


@converts("gelu.default")
def gelu(c: Converter, _node: fx.Node, x: fx.Node, *, approximate: str = "none") -> Any:
    """Gelu, exact or by tanh."""
    return c.emit("Gelu", [c.values[x]], approximate=approximate)


@converts("clamp.default", "clamp_min.default", "clamp_max.default")
def clamp(c: Converter, node: fx.Node, x: fx.Node, *bounds: Any, **named: Any) -> Any:
    """Clip to constant bounds."""
    low = named.get("min", bounds[0] if bounds and "clamp_max" not in str(node.target) else None)
    high = named.get("max", bounds[-1] if len(bounds) > 1 or (bounds and "clamp_max" in str(node.target)) else None)
    limits = ["" if bound is None else c.constant(bound, _dtype(node)) for bound in (low, high)]
    return c.emit("Clip", [c.values[x], *limits])


@converts("where.self")
def where(c: Converter, node: fx.Node, condition: fx.Node, x: Any, y: Any) -> Any:
    """Choose by a boolean."""
    return c.emit("Where", [c.values[condition], c.value(x, _dtype(node)), c.value(y, _dtype(node))])


@converts("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(c: Converter, node: fx.Node, x: fx.Node, mask: fx.Node, value: Any) -> Any:
    """Put a number where the mask is True."""
    return c.emit("Where", [c.values[mask], c.value(value, _dtype(node)), c.values[x]])


def _reduction(op: str) -> Conversion:
    def convert(
        c: Converter,
        node: fx.Node,
        x: fx.Node,
        dim: Any = None,
        keepdim: bool = False,
        **_kwargs: Any,
    ) -> Any:
        axes = [dim] if isinstance(dim, int) else list(dim or range(_rank(x)))
        return c.emit(op, [c.value(x, _dtype(node)), c.ints(*axes)], keepdims=int(keepdim))

    return convert


converts("mean.dim", "mean.default")(_reduction("ReduceMean"))
converts("sum.dim_IntList", "sum.default")(_reduction("ReduceSum"))
converts("amax.default")(_reduction("ReduceMax"))
converts("amin.default")(_reduction("ReduceMin"))


@converts("softmax.int", "_softmax.default")
def softmax(c: Converter, node: fx.Node, x: fx.Node, dim: int, *_args: Any) -> Any:
    """Softmax in the node's element type."""
    return c.emit("Softmax", [c.value(x, _dtype(node))], axis=dim)


@converts("cumsum.default")
def cumsum(c: Converter, node: fx.Node, x: fx.Node, dim: int, **_kwargs: Any) -> Any:
    """Running sum along one axis."""
    return c.emit("CumSum", [c.value(x, _dtype(node)), c.constant(dim, torch.int64)])


@converts("embedding.default")
def embedding(c: Converter, _node: fx.Node, weight: fx.Node, ids: fx.Node, *_args: Any) -> Any:
    """Rows of a table."""
    return c.emit("Gather", [c.values[weight], c.values[ids]], axis=0)


@converts("linear.default")
def linear(c: Converter, _node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> Any:
    """``x · weightᵀ + bias`` stays one semantic operator; the target decides how weights lie."""
    inputs = [c.values[x], c.values[weight], *([] if bias is None else [c.values[bias]])]
    return c.emit("Linear", inputs, domain=DOMAIN)


@converts("matmul.default", "bmm.default", "mm.default")
def matmul(c: Converter, _node: fx.Node, x: fx.Node, y: fx.Node) -> Any:
    """Matrix product."""
    return c.emit("MatMul", [c.values[x], c.values[y]])


@converts("addmm.default")
def addmm(c: Converter, _node: fx.Node, bias: fx.Node, x: fx.Node, y: fx.Node) -> Any:
    """``bias + x · y``."""
    return c.emit("Add", [c.emit("MatMul", [c.values[x], c.values[y]]), c.values[bias]])


@converts("layer_norm.default")
def layer_norm(  # ATen's signature
    c: Converter,
    node: fx.Node,
    x: fx.Node,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """LayerNormalization; a missing weight is ones."""
    scale = c.constant(torch.ones(tuple(shape), dtype=_dtype(node))) if weight is None else c.values[weight]
    inputs = [c.values[x], scale, *([] if bias is None else [c.values[bias]])]
    return c.emit("LayerNormalization", inputs, axis=-len(shape), epsilon=float(eps))


@converts("sym_size.int")
def sym_size(c: Converter, _node: fx.Node, x: fx.Node, dim: int) -> Any:
    """One dimension as an int64 scalar."""
    return c.emit("Squeeze", [c.emit("Shape", [c.values[x]], start=dim, end=dim + 1)])


@converts("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int")
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
    if not arguments or not isinstance(arguments[-1], (list, tuple)):
        msg = f"{node.target} with several computed dimensions"
        raise UnsupportedOperatorError(msg)
    return c.emit("Reshape", [c.values[x], c.shape(list(arguments[-1]))])


@converts("transpose.int")
def transpose(c: Converter, _node: fx.Node, x: fx.Node, a: int, b: int) -> Any:
    """Swap two axes."""
    order = list(range(_rank(x)))
    order[a], order[b] = order[b], order[a]
    return c.emit("Transpose", [c.values[x]], perm=order)


@converts("t.default")
def matrix_transpose(c: Converter, _node: fx.Node, x: fx.Node) -> Any:
    """Transpose a matrix."""
    return c.emit("Transpose", [c.values[x]], perm=[1, 0])


@converts("permute.default")
def permute(c: Converter, _node: fx.Node, x: fx.Node, order: Sequence[int]) -> Any:
    """Reorder the axes."""
    return c.emit("Transpose", [c.values[x]], perm=[axis % len(order) for axis in order])


@converts("unsqueeze.default")
def unsqueeze(c: Converter, _node: fx.Node, x: fx.Node, dim: int) -> Any:
    """Insert an axis of length 1."""
    return c.emit("Unsqueeze", [c.values[x], c.ints(dim)])


@converts("squeeze.dim", "squeeze.dims")
def squeeze(c: Converter, _node: fx.Node, x: fx.Node, dim: Any) -> Any:
    """Drop axes of length 1; ATen keeps the others."""
    sizes = x.meta["val"].shape
    axes = [axis for axis in ([dim] if isinstance(dim, int) else dim) if sizes[axis] == 1]
    return c.emit("Squeeze", [c.values[x], c.ints(*axes)]) if axes else c.values[x]


@converts("expand.default")
def expand(c: Converter, _node: fx.Node, x: fx.Node, shape: Sequence[Any], **_kwargs: Any) -> Any:
    """Broadcast; -1 keeps a dimension, which Expand writes as 1."""
    dims = [1 if isinstance(dim, int) and dim < 0 else dim for dim in shape]
    return c.emit("Expand", [c.values[x], c.shape(dims)])


@converts("cat.default")
def cat(c: Converter, node: fx.Node, tensors: Sequence[fx.Node], dim: int = 0) -> Any:
    """Concatenate along one axis."""
    return c.emit("Concat", [c.value(tensor, _dtype(node)) for tensor in tensors], axis=dim)


@converts("stack.default")
def stack(c: Converter, _node: fx.Node, tensors: Sequence[fx.Node], dim: int = 0) -> Any:
    """Concatenate along a new axis."""
    return c.emit("Concat", [c.emit("Unsqueeze", [c.values[tensor], c.ints(dim)]) for tensor in tensors], axis=dim)


@converts("split.Tensor", "split_with_sizes.default", "chunk.default")
def split(c: Converter, node: fx.Node, x: fx.Node, _sizes: Any, dim: int = 0) -> Any:
    """Cut along one axis into parts of known sizes."""
    sizes = [part.shape[dim] for part in node.meta["val"]]
    if not all(isinstance(size, int) for size in sizes):
        msg = f"{node.target} into parts of symbolic size"
        raise UnsupportedOperatorError(msg)
    if len(sizes) == 1:
        return [c.values[x]]
    return c.emit("Split", [c.values[x], c.ints(*sizes)], len(sizes), axis=dim)


@converts("slice.Tensor")
def slice_(  # ATen's signature
    c: Converter, _node: fx.Node, x: fx.Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    """Cut out a range of one axis; bounds may be symbolic."""
    if (start is None or start == 0) and (end is None or (isinstance(end, int) and end >= _END)) and step == 1:
        return c.values[x]
    bounds = [0 if start is None else start, _END if end is None else end]
    return c.emit("Slice", [c.values[x], *(c.shape([bound]) for bound in bounds), c.ints(dim), c.ints(step)])


@converts("select.int")
def select(c: Converter, _node: fx.Node, x: fx.Node, dim: int, index: Any) -> Any:
    """Take one index of an axis and drop the axis."""
    return c.emit("Gather", [c.values[x], c.value(index, torch.int64)], axis=dim)


@converts("gather.default")
def gather(c: Converter, _node: fx.Node, x: fx.Node, dim: int, index: fx.Node, **_kwargs: Any) -> Any:
    """Pick elements along one axis."""
    return c.emit("GatherElements", [c.values[x], c.values[index]], axis=dim)


@converts("topk.default")
def topk(c: Converter, node: fx.Node, x: fx.Node, k: int, dim: int = -1, *_args: Any, **_kwargs: Any) -> Any:
    """Largest ``k`` along one axis, with their indices."""
    if "largest" in node.kwargs and not node.kwargs["largest"]:
        raise UnsupportedOperatorError("aten.topk of the smallest")
    return c.emit("TopK", [c.values[x], c.ints(k)], 2, axis=dim)


@converts("arange.default", "arange.start", "arange.start_step")
def arange(c: Converter, node: fx.Node, *bounds: Any, **_kwargs: Any) -> Any:
    """A range of numbers."""
    dtype = _dtype(node)
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    return c.emit("Range", [c.value(bound, dtype) for bound in (start, end, step)])


def _filled(c: Converter, node: fx.Node, shape: Sequence[Any], number: Any) -> Any:
    dtype = _dtype(node)
    if all(isinstance(dim, int) for dim in shape):
        return c.constant(torch.full(tuple(shape), number, dtype=dtype))
    return c.emit("Expand", [c.constant(number, dtype), c.shape(list(shape))])


@converts("full.default")
def full(c: Converter, node: fx.Node, shape: Sequence[Any], number: Any, **_kwargs: Any) -> Any:
    """A tensor of one number."""
    return _filled(c, node, shape, number)


@converts("zeros.default", "new_zeros.default")
def zeros(c: Converter, node: fx.Node, *arguments: Any, **_kwargs: Any) -> Any:
    """A tensor of zeros."""
    return _filled(c, node, arguments[-1], 0)


@converts("ones.default", "new_ones.default")
def ones(c: Converter, node: fx.Node, *arguments: Any, **_kwargs: Any) -> Any:
    """A tensor of ones."""
    return _filled(c, node, arguments[-1], 1)


@converts("zeros_like.default", "ones_like.default", "full_like.default")
def filled_like(c: Converter, node: fx.Node, x: fx.Node, number: Any = None, **_kwargs: Any) -> Any:
    """One number in the shape of another tensor."""
    filler = number if "full" in str(node.target) else int("ones" in str(node.target))
    return c.emit("Expand", [c.constant(filler, _dtype(node)), c.emit("Shape", [c.values[x]])])


@converts("_assert_tensor_metadata.default", "_assert_scalar.default")
def assertion(_c: Converter, _node: fx.Node, *_args: Any, **_kwargs: Any) -> None:
    """Checks of the trace itself; nothing to compute."""


@converts("scaled_dot_product_attention.default")
def scaled_dot_product_attention(  # noqa: PLR0913  # ATen's signature
    c: Converter,
    _node: fx.Node,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    attn_mask: fx.Node | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Models that call torch's attention themselves; a causal call without a mask can't be told from a cached one."""
    del enable_gqa
    if is_causal or dropout_p:
        raise UnsupportedOperatorError("causal aten.scaled_dot_product_attention without a mask")
    factor = scale if scale is not None else int(query.meta["val"].shape[-1]) ** -0.5
    inputs = [c.values[query], c.values[key], c.values[value], *([] if attn_mask is None else [c.values[attn_mask]])]
    return c.emit("Attention", inputs, domain=DOMAIN, scale=float(factor), softcap=0.0)
