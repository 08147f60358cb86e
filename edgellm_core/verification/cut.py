"""Cuts a graph after its first decoder layers: what comes after the last layer then reads an earlier hidden state."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from edgellm_core.verification.errors import GraphNotCuttableError

if TYPE_CHECKING:
    import onnx

STATE: Final = re.compile(r"(?:past|present)\w*\.(\d+)\.\w+|(?:past|present)_key_values_(\d+)")
"""Name of a state: ``past_key_values.3.key``, ``present.3.value``, ``past_state.3.conv``, ``past_key_values_3``."""


def hidden_name(layer: int) -> str:
    """Return the tensor with the hidden state after a decoder layer; -1 for the one before the first."""
    return "hidden_states.input" if layer < 0 else f"hidden_states.{layer}"


def shown_names(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that a session can show: what nodes make, and the embeddings where they are passed in."""
    names = {name for node in graph.node for name in node.output}
    embedded = any(value.name == "inputs_embeds" for value in graph.input)
    return names | {hidden_name(-1)} if embedded else names


def state_layer(name: str) -> int | None:
    """Return the layer whose state a graph input or output is, or None."""
    found = STATE.fullmatch(name)
    return int(found[1] or found[2]) if found else None


def cut_after(model: onnx.ModelProto, layers: int, depth: int) -> onnx.ModelProto:
    """Return a copy of the graph with its first ``layers`` of ``depth`` layers and its head.

    States, nodes and initializers of the later layers are left out, so that ONNX Runtime reads only what is used.

    Args:
        model: the graph without external data; not changed.
        layers: layers to keep; at least 1.
        depth: layers of the graph.

    Raises:
        GraphNotCuttableError: the graph does not name the hidden states.
    """
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    kept, last = hidden_name(layers - 1), hidden_name(depth - 1)
    produced = {name for node in graph.node for name in node.output}
    for name in (kept, last):
        if name not in produced:
            reason = f"it has no tensor {name!r}"
            raise GraphNotCuttableError(reason)
    for node in graph.node:
        node.input[:] = [kept if name == last else name for name in node.input]
    _keep(graph.output, lambda name: _is_kept(name, layers))
    needed = _needed_nodes(graph)
    nodes = [node for index, node in enumerate(graph.node) if index in needed]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    _keep(graph.input, lambda name: _is_kept(name, layers))
    _keep(graph.initializer, used.__contains__)
    _keep(graph.value_info, {name for node in graph.node for name in node.output}.__contains__)
    return cut


def _is_kept(name: str, layers: int) -> bool:
    layer = state_layer(name)
    return layer is None or layer < layers


def _keep(values: object, wanted: object) -> None:
    """Keep the values whose name is wanted in a repeated protobuf field."""
    field: list[onnx.ValueInfoProto] = values  # type: ignore[assignment]  # protobuf's stubs have no common base
    test: object = wanted
    keep = [value for value in field if test(value.name)]  # type: ignore[operator]
    del field[:]
    field.extend(keep)


def _needed_nodes(graph: onnx.GraphProto) -> set[int]:
    """Return the indices of the nodes that an output of the graph depends on."""
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needed: set[int] = set()
    pending = [output.name for output in graph.output]
    while pending:
        index = producer.get(pending.pop())
        if index is not None and index not in needed:
            needed.add(index)
            pending.extend(graph.node[index].input)
    return needed
