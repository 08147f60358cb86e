"""Attention, its mask and the KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from edgellm_core.surgery.rule import Editor, Expected, NearMiss, Rule, semantic
from edgellm_core.targets.onnx.plain_attention import write_plain_attention

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.contract import GraphDimensions

_LOWEST = -3.0e38
"""Stands for minus infinity in an additive float32 mask; float16 masks use their own lowest number."""


class AppendToConcat(Rule):
    """``edgellm::Append(past, new)`` → ``Concat(past, new)`` along the sequence axis.

    TensorRT's parser refuses past and present on the Attention node itself.
    """

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """Two for every layer with a KV cache."""
        return Expected.exactly(dimensions.appends)

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator."""
        del graph
        return semantic(node, "Append")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the standard operator."""
        edit.node("Concat", node.inputs, node.outputs[0], name=node.name, axis=2)


class AttentionMaskToLogic(Rule):
    """``edgellm::AttentionMask(valid, ids)`` → ``(causal & window & chunk & valid) | itself``.

    Positions count through the cache, so a window is the same with left padding. A padded position attends to itself:
    softmax over nothing is NaN, and ``0 × NaN`` would spread through the values.
    """

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator."""
        del graph
        return semantic(node, "AttentionMask")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the mask in standard operators: boolean ``[batch, 1, seq, past + seq]``."""
        valid, ids = node.inputs
        keys = edit.shared("keys", lambda: _key_positions(edit, valid))
        queries = edit.shared("queries", lambda: _query_positions(edit, ids))
        real = edit.shared("real", lambda: _real_keys(edit, valid))
        itself = edit.shared("itself", lambda: edit.node("Equal", [keys, queries], "mask.itself", name="mask/itself"))
        allowed = _allowed(node, edit, keys, queries)
        prefix = node.name
        if allowed is not None:
            real = edit.node("And", [allowed, real], f"{prefix}.both", name=f"{prefix}/both")
        edit.node("Or", [real, itself], node.outputs[0], name=prefix)


def _real_keys(edit: Editor, valid: gs.Tensor) -> gs.Tensor:
    """Return boolean ``[batch, 1, 1, past + seq]``: no padding."""
    real = edit.node("Cast", [valid], "mask.real2", name="mask/real2", to=onnx.TensorProto.BOOL)
    return edit.node("Unsqueeze", [real, edit.constant([1, 2])], "mask.real", name="mask/real")


def _key_positions(edit: Editor, valid: gs.Tensor) -> gs.Tensor:
    """Return ``[past + seq]``: 0, 1, 2, …."""
    length = edit.node("Shape", [valid], "mask.length1", name="mask/length1", start=1, end=2)
    scalar = edit.node("Squeeze", [length], "mask.length", name="mask/length")
    return edit.node("Range", [edit.constant(0), scalar, edit.constant(1)], "mask.keys", name="mask/keys")


def _query_positions(edit: Editor, ids: gs.Tensor) -> gs.Tensor:
    """Return ``[seq, 1]``: the last ``seq`` of the key positions."""
    count = edit.node("Shape", [ids], "mask.seq1", name="mask/seq1", start=1, end=2)
    seq = edit.node("Squeeze", [count], "mask.seq", name="mask/seq")
    steps = edit.node("Range", [edit.constant(0), seq, edit.constant(1)], "mask.steps", name="mask/steps")
    total = next(node.outputs[0] for node in edit.shared_nodes if node.name == "mask/length")
    past = edit.node("Sub", [total, seq], "mask.past", name="mask/past")
    flat = edit.node("Add", [steps, past], "mask.queries1", name="mask/queries1")
    return edit.node("Unsqueeze", [flat, edit.constant([1])], "mask.queries", name="mask/queries")


def _allowed(node: gs.Node, edit: Editor, keys: gs.Tensor, queries: gs.Tensor) -> gs.Tensor | None:
    """Return the boolean ``[seq, past + seq]`` that causality, window and chunk allow; None for everything."""
    prefix, conditions = node.name, []
    if node.attrs["causal"]:
        conditions.append(
            edit.shared("causal", lambda: edit.node("LessOrEqual", [keys, queries], "mask.causal", name="mask/causal"))
        )
    if node.attrs["window"]:
        size = edit.constant(int(node.attrs["window"]))
        edge = edit.node("Sub", [queries, size], f"{prefix}.edge", name=f"{prefix}/edge")
        conditions.append(edit.node("Greater", [keys, edge], f"{prefix}.window", name=f"{prefix}/window"))
    if node.attrs["chunk"]:
        size = edit.constant(int(node.attrs["chunk"]))
        key_chunk = edit.node("Div", [keys, size], f"{prefix}.key_chunk", name=f"{prefix}/key_chunk")
        query_chunk = edit.node("Div", [queries, size], f"{prefix}.query_chunk", name=f"{prefix}/query_chunk")
        conditions.append(edit.node("Equal", [key_chunk, query_chunk], f"{prefix}.chunk", name=f"{prefix}/chunk"))
    if not conditions:
        return None
    allowed = conditions[0]
    for index, condition in enumerate(conditions[1:]):
        allowed = edit.node("And", [allowed, condition], f"{prefix}.and{index}", name=f"{prefix}/and{index}")
    return allowed


class AttentionToAttention(Rule):
    """``edgellm::Attention(q, k, v, mask[, sinks])`` → ``Attention(q, k, v, mask)`` (opset 23, one output).

    Sinks become one more key and value of zeros, whose additive mask is the head's sink logit. With softcap, or with
    scores in float32 in a narrower graph, it is written in plain operators.
    """

    def __init__(self, scores: str = "auto") -> None:
        """Compute scores in the type of the graph (``auto``) or in float32 (``fp32``)."""
        self._scores = scores

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """One for every attention call through transformers' interface; models with calls of their own add to it."""
        return Expected(at_least=dimensions.attentions)

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match the semantic operator; sinks need a mask to go into."""
        del graph
        if not semantic(node, "Attention"):
            return False
        if len(node.inputs) > 4 and node.inputs[3].is_empty():
            return NearMiss(node.name, "it has sinks and no mask")
        return True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the standard operator, or several."""
        inputs = _with_sinks(node, edit) if len(node.inputs) > 4 else list(node.inputs[:4])
        wide = self._scores == "fp32" and node.inputs[0].dtype != np.float32
        if node.attrs["softcap"] or wide:
            write_plain_attention(node, inputs, edit, wide_scores=wide)
        else:
            edit.node("Attention", inputs, node.outputs[0], name=node.name, scale=float(node.attrs["scale"]))


def _with_sinks(node: gs.Node, edit: Editor) -> list[gs.Tensor]:
    query, key, value, mask, sinks = node.inputs
    prefix = node.name
    one_more = edit.constant([0, 0, 0, 0, 0, 0, 1, 0])
    padded = [
        edit.node("Pad", [tensor, one_more], f"{prefix}.{label}", name=f"{prefix}/{label}", like=tensor)
        for label, tensor in (("key", key), ("value", value))
    ]
    dtype = np.dtype(query.dtype)
    lowest = np.float64(np.finfo(dtype).min if dtype == np.float16 else _LOWEST)
    zero, low = edit.constant(0.0, dtype), edit.constant(lowest, dtype)
    additive = mask
    if mask.dtype is None or np.dtype(mask.dtype) == np.bool_:
        additive = edit.node("Where", [mask, zero, low], f"{prefix}.additive", name=f"{prefix}/additive", like=query)
    column = edit.node("Reshape", [sinks, edit.constant([1, -1, 1, 1])], f"{prefix}.column", name=f"{prefix}/column")
    spread = edit.node("Mul", [column, zero], f"{prefix}.spread", name=f"{prefix}/spread", like=query)
    heads = edit.node("Add", [additive, spread], f"{prefix}.heads", name=f"{prefix}/heads", like=query)
    rows = edit.node("Shape", [heads], f"{prefix}.rows", name=f"{prefix}/rows", start=0, end=3)
    target = edit.node("Concat", [rows, edit.constant([1])], f"{prefix}.target", name=f"{prefix}/target", axis=0)
    last = edit.node("Expand", [column, target], f"{prefix}.last", name=f"{prefix}/last", like=query)
    full = edit.node("Concat", [heads, last], f"{prefix}.mask", name=f"{prefix}/mask", like=query, axis=3)
    return [query, *padded, full]
