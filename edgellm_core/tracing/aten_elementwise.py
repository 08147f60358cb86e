"""ATen operators that work element by element: arithmetic, comparisons, activations, casts and choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.tracing.aten_table import ConversionTable, element_type, operand_type
from edgellm_core.tracing.converter import Conversion, Converter, UnsupportedOperatorError, onnx_element_type

if TYPE_CHECKING:
    from torch import fx

TABLE: Final = ConversionTable()


def _unary(op: str) -> Conversion:
    return lambda c, node, x: c.emit(op, [c.value(x, element_type(node))])


def _binary(op: str) -> Conversion:
    def convert(c: Converter, node: fx.Node, x: Any, y: Any, *, alpha: float = 1) -> Any:
        dtype = _computing_type(node, x, y, alpha)
        right = c.value(y, dtype)
        if alpha != 1:
            right = c.emit("Mul", [right, c.constant(alpha, dtype)])
        return _rounded(c, node, dtype, c.emit(op, [c.value(x, dtype), right]))

    return convert


def _computing_type(node: fx.Node, *operands: Any) -> torch.dtype:
    """Return float32 where a narrow type can't hold a number among the operands, else the type of the node's result.

    torch computes with the number itself, in float32, and rounds the result. A rounded one would shift every result the
    same way, by up to 0.4 % in bfloat16 and 0.05 % in float16: multipliers like 0.22, the 0.044715 of GELU.
    """
    dtype = element_type(node)
    if dtype not in {torch.bfloat16, torch.float16}:
        return dtype
    numbers = [operand for operand in operands if isinstance(operand, float)]
    exact = all(float(torch.tensor(number, dtype=dtype)) == number for number in numbers)
    return dtype if exact else torch.float32


def _rounded(c: Converter, node: fx.Node, computed: torch.dtype, name: str) -> str:
    wanted = element_type(node)
    return name if computed == wanted else str(c.emit("Cast", [name], to=onnx_element_type(wanted)))


def _comparison(op: str) -> Conversion:
    def convert(c: Converter, _node: fx.Node, x: Any, y: Any) -> Any:
        dtype = operand_type(x, y)
        return c.emit(op, [c.value(x, dtype), c.value(y, dtype)])

    return convert


for _name, _op in {
    "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "sin": "Sin", "cos": "Cos", "tanh": "Tanh",
    "sigmoid": "Sigmoid", "relu": "Relu", "erf": "Erf", "reciprocal": "Reciprocal", "floor": "Floor",
    "logical_not": "Not",
}.items():  # fmt: skip
    TABLE.converts(f"{_name}.default")(_unary(_op))
for _name, _op in {
    "add.Tensor": "Add", "add.Scalar": "Add", "sub.Tensor": "Sub", "sub.Scalar": "Sub", "mul.Tensor": "Mul",
    "mul.Scalar": "Mul", "div.Tensor": "Div", "div.Scalar": "Div", "pow.Tensor_Scalar": "Pow", "pow.Scalar": "Pow",
    "pow.Tensor_Tensor": "Pow", "maximum.default": "Max", "minimum.default": "Min", "logical_and.default": "And",
    "logical_or.default": "Or",
}.items():  # fmt: skip
    TABLE.converts(_name)(_binary(_op))
for _name, _op in {
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
}.items():  # fmt: skip
    TABLE.converts(f"{_name}.Tensor", f"{_name}.Scalar")(_comparison(_op))


@TABLE.converts(
    "contiguous.default", "clone.default", "alias.default", "detach.default", "detach_.default", "dropout.default",
    "lift_fresh_copy.default",
)  # fmt: skip
def same(c: Converter, _node: fx.Node, x: fx.Node, *_args: Any, **_kwargs: Any) -> Any:
    """Layout, dropout at inference and aliases change no value."""
    return c.values[x]


@TABLE.converts(
    "to.dtype", "to.device", "to.dtype_layout", "to.other", "type_as.default", "_to_copy.default", "float.default"
)
def cast(c: Converter, node: fx.Node, x: fx.Node, *_args: Any, **_kwargs: Any) -> Any:
    """Cast to the node's own element type, where that differs."""
    return c.value(x, element_type(node))


@TABLE.converts("copy.default")
def copy(c: Converter, node: fx.Node, x: fx.Node, source: fx.Node) -> Any:
    """The source's values in the shape and type of what they are copied over."""
    value = c.value(source, element_type(node))
    shape = list(x.meta["val"].shape)
    if list(source.meta["val"].shape) == shape:
        return value
    if not all(isinstance(dim, int) for dim in shape):
        msg = f"{node.target} into a dynamic shape"
        raise UnsupportedOperatorError(msg)
    return c.emit("Expand", [value, c.shape(shape)])


@TABLE.converts("ne.Tensor", "ne.Scalar")
def not_equal(c: Converter, node: fx.Node, x: Any, y: Any) -> Any:
    """``x != y`` as Not(Equal)."""
    return c.emit("Not", [_comparison("Equal")(c, node, x, y)])


def _only_booleans(node: fx.Node) -> None:
    if element_type(node) != torch.bool:
        msg = f"{node.target} of integers"
        raise UnsupportedOperatorError(msg)


@TABLE.converts("bitwise_and.Tensor", "__and__.Tensor", "bitwise_or.Tensor", "__or__.Tensor")
def boolean_logic(c: Converter, node: fx.Node, x: fx.Node, y: fx.Node) -> Any:
    """``x & y`` and ``x | y`` of booleans."""
    _only_booleans(node)
    return c.emit("And" if "and" in str(node.target) else "Or", [c.values[x], c.values[y]])


@TABLE.converts("bitwise_not.default")
def boolean_not(c: Converter, node: fx.Node, x: fx.Node) -> Any:
    """``~x`` of booleans."""
    _only_booleans(node)
    return c.emit("Not", [c.values[x]])


@TABLE.converts("rsub.Scalar", "rsub.Tensor")
def reversed_sub(c: Converter, node: fx.Node, x: Any, y: Any) -> Any:
    """``y - x``."""
    dtype = _computing_type(node, x, y)
    return _rounded(c, node, dtype, c.emit("Sub", [c.value(y, dtype), c.value(x, dtype)]))


@TABLE.converts("square.default")
def square(c: Converter, _node: fx.Node, x: fx.Node) -> Any:
    """``x * x``."""
    return c.emit("Mul", [c.values[x], c.values[x]])


@TABLE.converts("floor_divide.default", "floor_divide.Scalar")
def floor_divide(c: Converter, node: fx.Node, x: Any, y: Any) -> Any:
    """Quotient rounded down; ONNX's division of integers rounds towards zero, its Mod has the divisor's sign."""
    dtype = element_type(node)
    over, under = c.value(x, dtype), c.value(y, dtype)
    if dtype.is_floating_point:
        return c.emit("Floor", [c.emit("Div", [over, under])])
    return c.emit("Div", [c.emit("Sub", [over, c.emit("Mod", [over, under])]), under])


@TABLE.converts("rsqrt.default")
def rsqrt(c: Converter, node: fx.Node, x: fx.Node) -> Any:
    """``1 / sqrt(x)``."""
    return c.emit("Reciprocal", [c.emit("Sqrt", [c.value(x, element_type(node))])])


@TABLE.converts("silu.default")
def silu(c: Converter, _node: fx.Node, x: fx.Node) -> Any:
    """``x * sigmoid(x)``."""
    return c.emit("Mul", [c.values[x], c.emit("Sigmoid", [c.values[x]])])


@TABLE.converts("gelu.default")
def gelu(c: Converter, _node: fx.Node, x: fx.Node, *, approximate: str = "none") -> Any:
    """Gelu, exact or by tanh."""
    return c.emit("Gelu", [c.values[x]], approximate=approximate)


@TABLE.converts("softplus.default")
def softplus(c: Converter, node: fx.Node, x: fx.Node, beta: float = 1, threshold: float = 20) -> Any:
    """``log(1 + exp(x))``; above the usual threshold ATen returns x, which is the same in float32."""
    if beta != 1 or threshold != 20:
        msg = f"{node.target} with beta {beta} and threshold {threshold}"
        raise UnsupportedOperatorError(msg)
    return c.emit("Softplus", [c.values[x]])


@TABLE.converts("clamp.default")
def clamp(c: Converter, node: fx.Node, x: fx.Node, min: Any = None, max: Any = None) -> Any:  # noqa: A002  # ATen's names
    """Clip to constant bounds; a missing one is left open."""
    dtype = element_type(node)
    limits = ["" if bound is None else c.value(bound, dtype) for bound in (min, max)]
    return c.emit("Clip", [c.value(x, dtype), *limits])


@TABLE.converts("clamp_min.default")
def clamp_min(c: Converter, node: fx.Node, x: fx.Node, low: Any) -> Any:
    """Clip from below."""
    return clamp(c, node, x, low, None)


@TABLE.converts("clamp_max.default")
def clamp_max(c: Converter, node: fx.Node, x: fx.Node, high: Any) -> Any:
    """Clip from above."""
    return clamp(c, node, x, None, high)


@TABLE.converts("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def where(c: Converter, node: fx.Node, condition: fx.Node, x: Any, y: Any) -> Any:
    """Choose by a boolean."""
    dtype = element_type(node)
    return c.emit("Where", [c.value(condition, torch.bool), c.value(x, dtype), c.value(y, dtype)])


@TABLE.converts("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(c: Converter, node: fx.Node, x: fx.Node, mask: fx.Node, value: Any) -> Any:
    """Put a number where the mask is True."""
    return c.emit("Where", [c.values[mask], c.value(value, element_type(node)), c.values[x]])
