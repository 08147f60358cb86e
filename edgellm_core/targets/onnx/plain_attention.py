"""Attention in plain operators, where the Attention operator does not do.

TensorRT's parser refuses ``softcap`` on it, and its compiler fails on one that takes float32 made of float16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Editor

LOWEST = -3.0e38
"""Stands for minus infinity in float32."""


def write_plain_attention(
    node: gs.Node, inputs: Sequence[gs.Tensor], edit: Editor, *, wide_scores: bool = False
) -> None:
    """Write ``softmax(softcap · tanh(q · kᵀ · scale / softcap) + mask) · v``; all but the products in float32.

    Query heads are grouped by the key head that they share, ``[batch, groups, heads in a group, seq, …]``, so that keys
    and values are not repeated.

    Args:
        node: the semantic operator.
        inputs: query ``[batch, heads, seq, width]``, key and value ``[batch, groups, past + seq, …]``, and a mask
            ``[batch, 1 or heads, seq, past + seq]``, boolean or additive, or none.
        edit: the editor.
        wide_scores: compute the product of queries and keys in float32 too, so that no score is rounded.
    """
    query, key, value = inputs[:3]
    prefix, cap = node.name, float(node.attrs["softcap"])
    heads, groups, width, value_width = (
        int(node.inputs[index].shape[axis]) for index, axis in ((0, 1), (1, 1), (0, 3), (2, 3))
    )  # from the semantic operator: with sinks, ``inputs`` are new and have no shapes

    def write(op: str, operands: Sequence[gs.Tensor], label: str, **attributes: object) -> gs.Tensor:
        return edit.node(op, operands, f"{prefix}.{label}", name=f"{prefix}/{label}", **attributes)

    def number(value: float) -> gs.Tensor:
        return edit.constant(value, np.float32)

    def in_float32(value: gs.Tensor, label: str) -> gs.Tensor:
        if value.dtype == np.float32:
            return value
        wide = write("Cast", [value], label, to=onnx.TensorProto.FLOAT)
        wide.dtype = np.dtype(np.float32)
        return wide

    shape = edit.constant([0, groups, heads // groups, -1, width])
    grouped = write("Reshape", [query, shape], "grouped", like=query)
    turned = write("Transpose", [key], "turned", like=key, perm=[0, 1, 3, 2])
    shared = write("Unsqueeze", [turned, edit.constant([2])], "group_key", like=key)
    if wide_scores:
        grouped, shared = in_float32(grouped, "wide_query"), in_float32(shared, "wide_key")
    product = write("MatMul", [grouped, shared], "product", like=grouped)
    scores = in_float32(product, "scores")
    capped = write("Mul", [scores, number(float(node.attrs["scale"]) / (cap or 1.0))], "scaled")
    if cap:
        capped = write("Mul", [write("Tanh", [capped], "tanh"), number(cap)], "capped")
    if len(inputs) > 3 and not inputs[3].is_empty():
        mask = inputs[3]
        spread = _by_group(mask, groups, heads, edit, prefix)
        if mask.dtype is None or np.dtype(mask.dtype) == np.bool_:
            capped = write("Where", [spread, capped, number(LOWEST)], "masked")
        else:
            capped = write("Add", [capped, in_float32(spread, "added")], "masked")
    weights = write("Softmax", [capped], "softmax", axis=-1)
    if value.dtype != np.float32:
        weights = write("CastLike", [weights, value], "weights", like=value)
    values = write("Unsqueeze", [value, edit.constant([2])], "group_value", like=value)
    mixed = write("MatMul", [weights, values], "mixed", like=value)
    shape = edit.constant([0, heads, -1, value_width])
    edit.node("Reshape", [mixed, shape], node.outputs[0], name=prefix)


def _by_group(mask: gs.Tensor, groups: int, heads: int, edit: Editor, prefix: str) -> gs.Tensor:
    """Return a mask ``[batch, 1 or heads, seq, keys]`` as ``[batch, 1 or groups, 1 or heads / groups, seq, keys]``."""
    if mask.shape is not None and mask.shape[1] == 1:
        return edit.node(
            "Unsqueeze", [mask, edit.constant([1])], f"{prefix}.group_mask", name=f"{prefix}/group_mask", like=mask
        )
    # two lengths are unknown, and Reshape infers one only: heads go last, where Reshape can copy what is before them
    last = edit.node(
        "Transpose", [mask], f"{prefix}.heads_last", name=f"{prefix}/heads_last", like=mask, perm=[0, 2, 3, 1]
    )
    shape = edit.constant([0, 0, 0, groups, heads // groups])
    split = edit.node("Reshape", [last, shape], f"{prefix}.split", name=f"{prefix}/split", like=mask)
    return edit.node(
        "Transpose", [split], f"{prefix}.group_mask", name=f"{prefix}/group_mask", like=mask, perm=[0, 3, 4, 1, 2]
    )
