"""How many bytes the weights of a graph's linear layers take, however they are stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx

PRODUCTS: Final = frozenset({"MatMul", "Gemm", "MatMulInteger", "MatMulNBits"})
"""Operators of a linear layer; the weight is the input that no graph input reaches."""


def linear_weights(model: onnx.ModelProto) -> tuple[int, int]:
    """Return the bytes of weights and scales of all linear layers but the head, and the number of their weights.

    A weight is followed back through whatever unpacks it (DequantizeLinear, Transpose, Cast) to what is stored. The
    product that ``logits`` come from is the head; its weight often is the embedding's.

    Args:
        model: the graph without its external data.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    constant = set(stored)
    for node in model.graph.node:
        if all(name in constant for name in node.input if name):
            constant.update(node.output)
    head = _head(producer)
    found: set[str] = set()
    elements = 0
    for node in model.graph.node:
        if node.op_type not in PRODUCTS or node is head:
            continue
        for name in node.input:
            if name in constant:
                parts = _stored_parts(name, producer, stored) - found
                elements += max((math.prod(stored[part].dims) for part in parts), default=0)
                found |= parts
    return sum(stored_bytes(stored[name]) for name in found), elements


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor in the graph or in its data file."""
    for entry in tensor.external_data:
        if entry.key == "length":
            return int(entry.value)
    return len(tensor.raw_data) or int(tensor.ByteSize())


def _head(producer: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the product that the logits come from, behind casts, scales and caps."""
    node = producer.get("logits")
    while node is not None and node.op_type not in PRODUCTS:
        node = next((producer[name] for name in node.input if name in producer), None)
    return node


def _stored_parts(name: str, producer: dict[str, onnx.NodeProto], stored: dict[str, onnx.TensorProto]) -> set[str]:
    pending, parts = [name], set()
    while pending:
        current = pending.pop()
        if current in stored:
            parts.add(current)
        elif current in producer:
            pending.extend(producer[current].input)
    return parts
