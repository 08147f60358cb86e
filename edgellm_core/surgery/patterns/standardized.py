"""The heart of every norm: ``x / sqrt(mean(y²) + epsilon)`` over the last axis, in all the ways it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.surgery.patterns.pattern import miss
from edgellm_core.surgery.patterns.values import (
    dimension,
    either_order,
    is_number,
    narrower,
    number,
    producer,
    rank,
    reduced_last_axis,
)

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True, slots=True)
class Standardized:
    """``x / sqrt(mean(squared²) + epsilon)``.

    Attributes:
        x: what is divided.
        squared: what is squared.
        epsilon: the number under the root.
        inner: the nodes that compute it.
    """

    x: gs.Tensor
    squared: gs.Tensor
    epsilon: float
    inner: tuple[gs.Node, ...]


def standardized(tensor: gs.Tensor) -> Standardized | None:
    """Return what a tensor standardizes, or None."""
    node = producer(tensor, "Div", "Mul")
    if node is None:
        return None
    if node.op == "Div":
        below = _root(node.inputs[1])
        return _join(node, node.inputs[0], below)
    for x, factor in either_order(node):
        below = _inverse_root(factor)
        if below is not None:
            return _join(node, x, below)
    return None


_Root = tuple["gs.Tensor", float, tuple["gs.Node", ...]]


def _join(node: gs.Node, x: gs.Tensor, below: _Root | None) -> Standardized | None:
    return None if below is None else Standardized(x, below[0], below[1], (node, *below[2]))


def _inverse_root(tensor: gs.Tensor) -> _Root | None:
    """Take ``1 / sqrt(mean(y²) + epsilon)`` apart into y, epsilon and the nodes."""
    node = producer(tensor, "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op == "Pow":
        below = _mean_square(node.inputs[0]) if is_number(node.inputs[1], -0.5) else None
    elif node.op == "Reciprocal":
        below = _root(node.inputs[0])
    else:
        below = _root(node.inputs[1]) if is_number(node.inputs[0], 1.0) else None
    return None if below is None else (below[0], below[1], (node, *below[2]))


def _root(tensor: gs.Tensor) -> _Root | None:
    node = producer(tensor, "Sqrt", "Pow")
    if node is None or (node.op == "Pow" and not is_number(node.inputs[1], 0.5)):
        return None
    below = _mean_square(node.inputs[0])
    return None if below is None else (below[0], below[1], (node, *below[2]))


def _mean_square(tensor: gs.Tensor) -> _Root | None:
    """Take ``mean(y²) + epsilon`` apart."""
    add = producer(tensor, "Add")
    if add is None:
        return None
    for mean, constant in either_order(add):
        epsilon, reduce = number(constant), producer(mean, "ReduceMean")
        if epsilon is None or reduce is None:
            continue
        square = producer(reduce.inputs[0], "Pow", "Mul")
        if square is None or not _squares(square):
            continue
        if not reduced_last_axis(reduce):
            miss("its mean is not over the last axis alone")
        return square.inputs[0], epsilon, (add, reduce, square)
    return None


def _squares(node: gs.Node) -> bool:
    return is_number(node.inputs[1], 2.0) if node.op == "Pow" else node.inputs[0] is node.inputs[1]


def require_channels(parameter: gs.Tensor, x: gs.Tensor) -> None:
    """Refuse a weight or bias that is not one number for each channel of ``x``.

    Raises:
        MissedError: saying what is in the way.
    """
    channels = dimension(x, -1)
    if not isinstance(channels, int):
        miss("the number of channels of its input is not known")
    if rank(parameter) != 1 or dimension(parameter, 0) != channels:
        miss(f"its parameter {parameter.name!r} is not of shape [{channels}]")


def require_float_type(x: gs.Tensor) -> None:
    """Refuse float64, which the standard operators compute in float32.

    Raises:
        MissedError: it is float64, or unknown.
    """
    if x.dtype is None:
        miss(f"the element type of its input {x.name!r} is not known")
    if np.dtype(x.dtype) == np.float64:
        miss("it computes in float64, the standard operator in float32")


def rounded_source(tensor: gs.Tensor, core_input: gs.Tensor) -> gs.Tensor:
    """Return the input of a norm whose result is rounded before it is multiplied by the weight.

    Args:
        tensor: result of the ``Cast`` that rounds.
        core_input: what the computation starts from: the input, or a ``Cast`` of it.

    Raises:
        MissedError: the result has a wider type than the input.
    """
    widened = producer(core_input, "Cast")
    source = core_input
    if widened is not None and not narrower(core_input, widened.inputs[0]):
        source = widened.inputs[0]
    if source.dtype is None or tensor.dtype is None or narrower(source, tensor):
        miss("its result has a wider type than its input")
    return source
