"""Reading of tensors and nodes of a foreign graph: producers, constants, shapes, products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_graphsurgeon as gs

if TYPE_CHECKING:
    from collections.abc import Iterator

EPSILONS: Final = 8
"""Constants are compared up to this many units of rounding of their own type."""


def producer(tensor: gs.Tensor, *operators: str) -> gs.Node | None:
    """Return the node of the default domain that makes a tensor, if it is one of ``operators`` (default: any)."""
    if not tensor.inputs:
        return None
    node = tensor.inputs[0]
    return node if not node.domain and (not operators or node.op in operators) else None


def either_order(node: gs.Node) -> Iterator[tuple[gs.Tensor, gs.Tensor]]:
    """Yield the two inputs of a node in both orders."""
    first, second = node.inputs
    yield first, second
    yield second, first


def number(tensor: gs.Tensor) -> float | None:
    """Return the value of a constant with one element, or None."""
    if not isinstance(tensor, gs.Constant) or tensor.values.size != 1:
        return None
    return float(tensor.values.reshape(()).astype(np.float64))


def integers(tensor: gs.Tensor) -> list[int] | None:
    """Return the values of an integer constant, flattened, or None."""
    if not isinstance(tensor, gs.Constant) or not np.issubdtype(tensor.values.dtype, np.integer):
        return None
    return [int(value) for value in tensor.values.reshape(-1)]


def is_number(tensor: gs.Tensor, expected: float) -> bool:
    """Say whether a tensor is the constant ``expected``, rounded to its type."""
    value = number(tensor)
    return value is not None and close(value, expected, tensor.dtype)


def close(value: float, expected: float, dtype: Any) -> bool:
    """Say whether a constant computed in ``dtype`` means ``expected``."""
    return abs(value - expected) <= EPSILONS * rounding(dtype) * abs(expected)


def rounding(dtype: Any) -> float:
    """Return the relative rounding of an element type; that of float32 where it is unknown or an integer."""
    kind = np.dtype(np.float32 if dtype is None else dtype)
    if kind.name == "bfloat16":
        return 2.0**-8
    return float(np.finfo(kind).eps) if np.issubdtype(kind, np.floating) else float(np.finfo(np.float32).eps)


def rank(tensor: gs.Tensor) -> int | None:
    """Return the number of dimensions, or None where it is unknown."""
    return None if tensor.shape is None else len(tensor.shape)


def dimension(tensor: gs.Tensor, axis: int) -> int | str | None:
    """Return one dimension: a number, a symbol, or None where it is unknown."""
    if tensor.shape is None or not -len(tensor.shape) <= axis < len(tensor.shape):
        return None
    size = tensor.shape[axis]
    return size if isinstance(size, (int, str)) and size != "" else None


def same_known(first: int | str | None, second: int | str | None) -> bool:
    """Say whether two dimensions are known and equal."""
    return first is not None and first == second


def same_type(first: gs.Tensor, second: gs.Tensor) -> bool:
    """Say whether the element types of two tensors are known and equal."""
    return None not in (first.dtype, second.dtype) and np.dtype(first.dtype) == np.dtype(second.dtype)


def narrower(first: gs.Tensor, second: gs.Tensor) -> bool:
    """Say whether the first of two floating types rounds more than the second; unknown ones do not."""
    return None not in (first.dtype, second.dtype) and rounding(first.dtype) > rounding(second.dtype)


def is_last_axis(axis: int, tensor: gs.Tensor) -> bool:
    """Say whether ``axis`` is the last one of a tensor."""
    return axis == -1 or axis + 1 == rank(tensor)


def reduced_last_axis(node: gs.Node) -> bool:
    """Say whether a reduction keeps its dimensions and takes the last axis only; axes are an attribute or an input."""
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = integers(node.inputs[1])
    keeps = node.attrs.get("keepdims", 1) == 1
    return keeps and axes is not None and len(axes) == 1 and is_last_axis(int(axes[0]), node.inputs[0])


@dataclass(frozen=True, slots=True)
class Product:
    """A product of a number and tensors.

    Attributes:
        scalar: the number.
        factors: the tensors.
        inner: the nodes that multiply, without the last one.
    """

    scalar: float
    factors: tuple[gs.Tensor, ...]
    inner: tuple[gs.Node, ...]


def product(tensor: gs.Tensor, *, last: gs.Node | None = None, shared: bool = False) -> Product:
    """Take a tensor apart into a number and factors, through ``Mul`` and ``Div`` by a number.

    Args:
        tensor: the product.
        last: the node that makes it, where that node is not to be among the inner ones.
        shared: the first node may have further consumers; the pattern then is a near miss.
    """
    node = last or producer(tensor, "Mul", "Div")
    if node is None or (last is None and not shared and len(tensor.outputs) != 1):
        return Product(1.0, (tensor,), ())
    inner = () if last is not None else (node,)
    if node.op == "Div":
        divisor = number(node.inputs[1])
        if not divisor:
            return Product(1.0, (tensor,), ())
        above = product(node.inputs[0])
        return Product(above.scalar / divisor, above.factors, (*inner, *above.inner))
    scalar, nodes = 1.0, [*inner]
    factors: list[gs.Tensor] = []
    for operand in node.inputs:
        value = number(operand)
        if value is not None:
            scalar *= value
            continue
        part = product(operand)
        scalar *= part.scalar
        factors.extend(part.factors)
        nodes.extend(part.inner)
    return Product(scalar, tuple(factors), tuple(nodes))
