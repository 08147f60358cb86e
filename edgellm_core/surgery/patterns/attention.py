"""Attention in plain operators."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.surgery.patterns.attention_inputs import (
    Turned,
    require_mask,
    require_shapes,
    spread_mask,
    turned_keys,
    unrepeated,
)
from edgellm_core.surgery.patterns.pattern import Found, PatternRule, miss, name_of
from edgellm_core.surgery.patterns.values import (
    Product,
    dimension,
    either_order,
    is_last_axis,
    number,
    producer,
    product,
)

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


@dataclass(frozen=True, kw_only=True)
class FoundAttention(Found):
    """``softmax(query · keyᵀ · scale + mask) · value``.

    Attributes:
        query: ``[batch, heads, seq, head_dim]``.
        keys: ``[batch, kv_heads, keys, head_dim]``, and how to turn them so.
        value: ``[batch, kv_heads, keys, value_dim]``.
        mask: None for none.
        scale: factor on the logits.
        guarded: a row that hides every key is 0, where softmax over nothing is no number.
    """

    query: gs.Tensor
    keys: Turned
    value: gs.Tensor
    mask: Mask | None
    scale: float
    guarded: bool = False


class PlainAttention(PatternRule[FoundAttention]):
    """``Softmax(q · kᵀ · scale + mask) · v`` → ``edgellm::Attention(q, k, v, mask)``, or ``Attention`` (opset 23).

    Keys and values that are repeated for groups of heads are taken before the repetition. A mask that differs from head
    to head is beyond the semantic operator, so that it becomes the standard one at once.
    """

    def find(self, node: gs.Node) -> FoundAttention | None:
        """Return an attention that ends with the product by its values."""
        softmax = _softmax(node) if node.op == "MatMul" else None
        if softmax is None:
            return None
        nodes, logits, guarded = softmax
        cast = producer(logits, "Cast")
        if cast is not None:
            nodes, logits = (*nodes, cast), cast.inputs[0]
        mask, nodes, logits = _mask(nodes, logits)
        found = _scaled(logits, node.inputs[1], mask, nodes)
        if found is None:
            return None
        guarded = guarded and mask is not None and mask.may_be_infinite()
        return replace(_without_repetition(found), guarded=guarded)

    def write(self, node: gs.Node, found: FoundAttention, edit: Editor) -> None:
        """Write the operator."""
        name, mask, output = name_of(node), gs.Variable.empty(), node.outputs[0]
        per_head = found.mask is not None and dimension(found.mask.tensor, -3) not in {None, 1}
        if found.mask is not None:
            additive = _additive(found.mask, name, edit)
            mask = spread_mask(_above_lowest(additive, edit), found.mask.tensor, found.query, edit)
        if found.guarded:
            output = gs.Variable(f"{name}.unguarded", dtype=output.dtype, shape=output.shape)
            visible = _visible_rows(additive, edit)
        inputs = [found.query, found.keys.write(edit, name), found.value, mask]
        if per_head:
            edit.node("Attention", inputs, output, name=name, scale=found.scale)
        else:
            edit.semantic("Attention", inputs, output, name=name, scale=found.scale, softcap=0.0)
        if found.guarded:
            zero = edit.constant(0.0, found.query.dtype)
            edit.node("Where", [visible, output, zero], node.outputs[0], name=f"{name}/guard")


def _softmax(node: gs.Node) -> tuple[tuple[gs.Node, ...], gs.Tensor, bool] | None:
    """Return nodes, logits, and whether rows of NaN become 0, of the softmax on the left of a product."""
    nodes: tuple[gs.Node, ...] = ()
    tensor, guarded = node.inputs[0], False
    cast = producer(tensor, "Cast")
    if cast is not None:
        nodes, tensor = (*nodes, cast), cast.inputs[0]
    where = producer(tensor, "Where")
    if where is not None:
        test = producer(where.inputs[0], "IsNaN")
        if test is None or test.inputs[0] is not where.inputs[2] or number(where.inputs[1]) != 0.0:
            return None
        nodes, tensor, guarded = (*nodes, where, test), where.inputs[2], True
    softmax = producer(tensor, "Softmax")
    if softmax is None:
        return None
    if not is_last_axis(int(softmax.attrs.get("axis", -1)), tensor):
        miss("its softmax is not over the last axis")
    return (*nodes, softmax), softmax.inputs[0], guarded


def _mask(nodes: tuple[gs.Node, ...], logits: gs.Tensor) -> tuple[Mask | None, tuple[gs.Node, ...], gs.Tensor]:
    """Take the mask off the logits."""
    add = producer(logits, "Add")
    if add is not None:
        for scores, mask in either_order(add):
            if _has_product(scores):
                return Mask(tensor=mask), (*nodes, add), scores
    where = producer(logits, "Where")
    if where is not None:
        condition, then, otherwise = where.inputs
        if number(then) is not None:
            return Mask(tensor=condition, number=then, hides=True), (*nodes, where), otherwise
        if number(otherwise) is not None:
            return Mask(tensor=condition, number=otherwise), (*nodes, where), then
    return None, nodes, logits


def _has_product(tensor: gs.Tensor) -> bool:
    """Say whether a tensor is a scaled, maybe capped product of matrices."""
    factors = product(tensor, shared=True).factors
    if len(factors) != 1:
        return False
    tanh = producer(factors[0], "Tanh")
    return producer(factors[0], "MatMul") is not None if tanh is None else _has_product(tanh.inputs[0])


def _scaled(
    logits: gs.Tensor, value: gs.Tensor, mask: Mask | None, nodes: tuple[gs.Node, ...]
) -> FoundAttention | None:
    scaled = product(logits, shared=True)
    if len(scaled.factors) == 1 and producer(scaled.factors[0], "Tanh") is not None:
        miss("its logits are capped by tanh, and TensorRT's parser refuses the standard operator's attribute for that")
    matmul = producer(scaled.factors[0], "MatMul") if len(scaled.factors) == 1 else None
    if matmul is None:
        return None
    query, keys = (_single(tensor) for tensor in matmul.inputs)
    scale = scaled.scalar * query.scalar * keys.scalar
    if scale <= 0.0:
        miss(f"its scale is {scale:g}")
    turned = turned_keys(keys.factors[0])
    found = FoundAttention(
        inner=(*nodes, *scaled.inner, matmul, *query.inner, *keys.inner),
        query=query.factors[0],
        keys=turned,
        value=value,
        mask=mask,
        scale=scale,
    )
    if mask is not None:
        require_mask(mask.tensor, found.query, turned.length, additive=mask.number is None)
    return found


def _single(tensor: gs.Tensor) -> Product:
    """Return a tensor as a number times one factor."""
    taken = product(tensor)
    return taken if len(taken.factors) == 1 else Product(1.0, (tensor,), ())


def _without_repetition(found: FoundAttention) -> FoundAttention:
    """Take keys and values before they are repeated for groups of heads, where both are, by the same number."""
    keys, value = unrepeated(found.keys.tensor), unrepeated(found.value)
    if keys is not None and value is not None and found.keys.order is None and keys[1] == value[1]:
        found = replace(found, keys=Turned(keys[0]), value=value[0])
    require_shapes(found.query, found.keys, found.value)
    return found


def _additive(mask: Mask, name: str, edit: Editor) -> gs.Tensor:
    if mask.number is None:
        return mask.tensor
    zero = edit.constant(0.0, mask.number.dtype)
    branches = [mask.number, zero] if mask.hides else [zero, mask.number]

    def make() -> gs.Tensor:
        made = f"{name}.additive"
        return edit.node("Where", [mask.tensor, *branches], made, name=made, like=mask.number)

    return edit.first(("additive", mask.tensor.name, mask.number.name, mask.hides), make)


def _visible_rows(mask: gs.Tensor, edit: Editor) -> gs.Tensor:
    """Return, for each row of an additive mask, whether it shows any key."""

    def make() -> gs.Tensor:
        name = f"{mask.name}.visible"
        axes = edit.constant([-1])
        best = edit.node("ReduceMax", [mask, axes], f"{name}.best", name=f"{name}/best", like=mask, keepdims=1)
        return edit.node("Greater", [best, edit.constant(-np.inf, mask.dtype)], name, name=name)

    return edit.first(("visible", mask.name), make)


def _above_lowest(mask: gs.Tensor, edit: Editor) -> gs.Tensor:
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
