"""Attention in plain operators."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from edgellm_core.surgery.patterns.attention_inputs import (
    Turned,
    require_mask,
    require_shapes,
    turned_keys,
    unrepeated,
)
from edgellm_core.surgery.patterns.attention_masks import (
    Mask,
    above_lowest,
    additive_mask,
    as_type,
    spread_mask,
    visible_rows,
)
from edgellm_core.surgery.patterns.pattern import Found, PatternRule, miss, name_of
from edgellm_core.surgery.patterns.values import (
    Product,
    dimension,
    either_order,
    is_last_axis,
    narrower,
    number,
    producer,
    product,
    same_type,
)

if TYPE_CHECKING:
    from edgellm_core.surgery.rule import Editor


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

    Where softmax has a wider type than the queries, and the values are widened for it, the operator has the type of the
    queries, and its result is widened; PyTorch's own attention in that type computes so.

    Keys and values that are repeated for groups of heads are taken before the repetition. A mask that differs from head
    to head is beyond the semantic operator, so that it becomes the standard one at once.
    """

    def find(self, node: gs.Node) -> FoundAttention | None:
        """Return an attention that ends with the product by its values."""
        softmax = _softmax(node) if node.op == "MatMul" else None
        if softmax is None:
            return None
        nodes, logits, guarded = softmax
        mask, nodes, logits = _mask(*_before_cast(nodes, logits))
        found = _scaled(logits, node.inputs[1], mask, nodes)
        if found is None:
            return None
        guarded = guarded and mask is not None and mask.may_be_infinite()
        return replace(_without_repetition(found), guarded=guarded)

    def write(self, node: gs.Node, found: FoundAttention, edit: Editor) -> None:
        """Write the operator in the type of the queries, and what sets rows to 0 and widens them after it."""
        name, mask, output = name_of(node), gs.Variable.empty(), node.outputs[0]
        per_head = found.mask is not None and dimension(found.mask.tensor, -3) not in {None, 1}
        visible = None
        if found.mask is not None:
            additive = additive_mask(found.mask, name, edit)
            finite = above_lowest(as_type(additive, found.query.dtype, edit), edit)
            mask = spread_mask(finite, found.mask.tensor, found.query, edit)
            visible = visible_rows(additive, edit) if found.guarded else None
        widened = narrower(found.query, output)
        if visible is not None or widened:
            output = gs.Variable(f"{name}.attended", dtype=found.query.dtype, shape=output.shape)
        inputs = [found.query, found.keys.write(edit, name), found.value, mask]
        if per_head:
            edit.node("Attention", inputs, output, name=name, scale=found.scale)
        else:
            edit.semantic("Attention", inputs, output, name=name, scale=found.scale, softcap=0.0)
        if visible is not None:
            zero = edit.constant(0.0, found.query.dtype)
            guarded = f"{name}.guarded" if widened else node.outputs[0]
            output = edit.node("Where", [visible, output, zero], guarded, name=f"{name}/guard", like=output)
        if widened:
            edit.cast(output, node.outputs[0], name=f"{name}/wide")


def _before_cast(nodes: tuple[gs.Node, ...], tensor: gs.Tensor) -> tuple[tuple[gs.Node, ...], gs.Tensor]:
    """Return a tensor before a cast, if one makes it, and the nodes with that."""
    cast = producer(tensor, "Cast")
    return (nodes, tensor) if cast is None else ((*nodes, cast), cast.inputs[0])


def _softmax(node: gs.Node) -> tuple[tuple[gs.Node, ...], gs.Tensor, bool] | None:
    """Return nodes, logits, and whether rows of NaN become 0, of the softmax on the left of a product."""
    nodes, tensor = _before_cast((), node.inputs[0])
    guarded = False
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
            before, narrow = _before_cast((*nodes, add), scores)
            if _has_product(narrow):
                return Mask(tensor=mask), before, narrow
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
    _, narrow = _before_cast((), value)
    found = FoundAttention(
        inner=(*nodes, *scaled.inner, matmul, *query.inner, *keys.inner),
        query=query.factors[0],
        keys=turned,
        value=narrow if same_type(narrow, query.factors[0]) else value,
        mask=mask,
        scale=scale,
    )
    if mask is not None:
        require_mask(mask.tensor, found.query, turned.length)
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
