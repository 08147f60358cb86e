"""Masks of an attention in plain operators: what they are, and how the standard operator takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.surgery.patterns.values import dimension, number, producer

if TYPE_CHECKING:
    from edgellm_core.surgery.rule import Editor


@dataclass(frozen=True, kw_only=True)
class Mask:
    """What is added to the logits.

    Attributes:
        tensor: additive, or with ``number`` a condition.
        number: what replaces a logit where ``tensor`` equals ``hides``; None for an additive mask.
        hides: the value of the condition that hides a key.
    """

    tensor: gs.Tensor
    number: gs.Tensor | None = None
    hides: bool = False

    def may_be_infinite(self) -> bool:
        """Say whether softmax over a row that hides every key may be no number."""
        values = _numbers(self.tensor) if self.number is None else [number(self.number)]
        return values is None or not all(value is not None and np.isfinite(value) for value in values)


def additive_mask(mask: Mask, name: str, edit: Editor) -> gs.Tensor:
    """Return a mask as numbers to add to the logits."""
    if mask.number is None:
        return mask.tensor
    zero = edit.constant(0.0, mask.number.dtype)
    branches = [mask.number, zero] if mask.hides else [zero, mask.number]

    def make() -> gs.Tensor:
        made = f"{name}.additive"
        return edit.node("Where", [mask.tensor, *branches], made, name=made, like=mask.number)

    return edit.first(("additive", mask.tensor.name, mask.number.name, mask.hides), make)


def as_type(mask: gs.Tensor, dtype: Any, edit: Editor) -> gs.Tensor:
    """Return an additive mask in another element type; what is below its range becomes minus infinity."""
    if np.dtype(mask.dtype) == np.dtype(dtype):
        return mask

    def make() -> gs.Tensor:
        name = f"{mask.name}.{np.dtype(dtype).name}"
        return edit.cast(mask, gs.Variable(name, dtype=dtype), name=name)

    return edit.first(("type", mask.name, np.dtype(dtype).name), make)


def visible_rows(mask: gs.Tensor, edit: Editor) -> gs.Tensor:
    """Return, for each row of an additive mask, whether it shows any key."""

    def make() -> gs.Tensor:
        name = f"{mask.name}.visible"
        axes = edit.constant([-1])
        best = edit.node("ReduceMax", [mask, axes], f"{name}.best", name=f"{name}/best", like=mask, keepdims=1)
        shown = gs.Variable(name, dtype=np.bool_)
        return edit.node("Greater", [best, edit.constant(-np.inf, mask.dtype)], shown, name=name)

    return edit.first(("visible", mask.name), make)


def above_lowest(mask: gs.Tensor, edit: Editor) -> gs.Tensor:
    """Return an additive mask whose lowest number is half of the lowest of its type.

    Softmax over a row of equal numbers, however low, gives equal weights. The standard operator gives 0 where a row
    hides every key (onnx/onnx#8068), and ONNX Runtime takes the lowest number of a type for hidden.
    """
    lowest = float(np.finfo(mask.dtype).min) / 2
    numbers = _numbers(mask)
    if numbers is not None and min(numbers) >= lowest:
        return mask
    limit = edit.constant(lowest, mask.dtype)

    def make() -> gs.Tensor:
        name = f"{mask.name}.finite"
        return edit.node("Max", [mask, limit], name, name=name, like=mask)

    return edit.first(("finite", mask.name), make)


def _numbers(mask: gs.Tensor) -> list[float] | None:
    """Return the numbers that a mask consists of, where they are known."""
    select = producer(mask, "Where")
    numbers = [number(tensor) for tensor in select.inputs[1:]] if select is not None else [None]
    return None if None in numbers else [value for value in numbers if value is not None]


def spread_mask(mask: gs.Tensor, condition: gs.Tensor, query: gs.Tensor, edit: Editor) -> gs.Tensor:
    """Spread a mask of one row to all queries: the standard operator broadcasts over batch and heads only.

    Args:
        mask: what to spread.
        condition: a tensor of its shape.
        query: has the rows.
        edit: adds nodes.
    """
    if dimension(condition, -2) != 1 or dimension(query, 2) == 1:
        return mask

    def make() -> gs.Tensor:
        name = f"{mask.name}.rows"
        rows = edit.node("Shape", [query], f"{name}.count", name=f"{name}/count", start=2, end=3)
        shape = edit.node("Concat", [rows, edit.constant([1])], f"{name}.shape", name=f"{name}/shape", axis=0)
        return edit.node("Expand", [mask, shape], name, name=name, like=mask)

    return edit.first(("rows", mask.name, dimension(query, 2)), make)
