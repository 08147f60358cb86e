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

    def hides_everything_as_nan(self) -> bool:
        """Say whether a row that hides every key may become NaN in softmax: its lowest number may be infinite."""
        source = self.number
        if source is None:
            select = producer(self.tensor, "Where")
            numbers = [number(tensor) for tensor in select.inputs[1:]] if select is not None else [None]
            return any(value is None or not np.isfinite(value) for value in numbers)
        value = number(source)
        return value is None or not np.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class FoundAttention(Found):
    """``softmax(softcap(query · keyᵀ · scale) + mask) · value``.

    Attributes:
        query: ``[batch, heads, seq, head_dim]``.
        keys: ``[batch, kv_heads, keys, head_dim]``, and how to turn them so.
        value: ``[batch, kv_heads, keys, value_dim]``.
        mask: None for none.
        scale: factor on the logits.
        softcap: 0 for none.
    """

    query: gs.Tensor
    keys: Turned
    value: gs.Tensor
    mask: Mask | None
    scale: float
    softcap: float


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
        if guarded and mask is not None and mask.hides_everything_as_nan():
            miss("a row that hides every key becomes 0 here, and is not defined in the standard operator")
        found = _scaled(logits, node.inputs[1], mask, nodes)
        return _without_repetition(found) if found is not None else None

    def write(self, node: gs.Node, found: FoundAttention, edit: Editor) -> None:
        """Write the operator."""
        name = name_of(node)
        inputs = [found.query, found.keys.write(edit, name), found.value]
        per_head = False
        if found.mask is not None:
            additive = _additive(found.mask, name, edit)
            inputs.append(spread_mask(additive, found.mask.tensor, found.query, edit))
            per_head = dimension(found.mask.tensor, -3) not in {None, 1}
        if per_head:
            edit.node("Attention", inputs, node.outputs[0], name=name, scale=found.scale)
            return
        if found.mask is None:
            inputs.append(gs.Variable.empty())
        attributes = {"scale": found.scale, "softcap": found.softcap}
        edit.semantic("Attention", inputs, node.outputs[0], name=name, **attributes)


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
    factors = product(tensor).factors
    if len(factors) != 1:
        return False
    tanh = producer(factors[0], "Tanh")
    return producer(factors[0], "MatMul") is not None if tanh is None else _has_product(tanh.inputs[0])


def _scaled(
    logits: gs.Tensor, value: gs.Tensor, mask: Mask | None, nodes: tuple[gs.Node, ...]
) -> FoundAttention | None:
    scaled = product(logits)
    nodes, softcap = (*nodes, *scaled.inner), 0.0
    tanh = producer(scaled.factors[0], "Tanh") if len(scaled.factors) == 1 else None
    if tanh is not None:
        softcap, scaled = scaled.scalar, product(tanh.inputs[0])
        nodes = (*nodes, tanh, *scaled.inner)
    matmul = producer(scaled.factors[0], "MatMul") if len(scaled.factors) == 1 else None
    if matmul is None:
        return None
    query, keys = (_single(tensor) for tensor in matmul.inputs)
    scale = scaled.scalar * query.scalar * keys.scalar * (softcap or 1.0)
    if scale <= 0.0 or softcap < 0.0:
        miss(f"its scale is {scale:g}")
    turned = turned_keys(keys.factors[0])
    found = FoundAttention(
        inner=(*nodes, matmul, *query.inner, *keys.inner),
        query=query.factors[0],
        keys=turned,
        value=value,
        mask=mask,
        scale=scale,
        softcap=softcap,
    )
    if mask is not None:
        require_mask(mask.tensor, found.query, turned.length, additive=mask.number is None)
        if softcap and dimension(mask.tensor, -3) not in {None, 1}:
            miss("it has a softcap and a mask that differs from head to head")
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
