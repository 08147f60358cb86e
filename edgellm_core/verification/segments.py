"""Cuts a graph into segments, one for each part of the model, and says which values go from one to a later one.

A node belongs to the first unit whose result depends on it. Most values that cross a border are the hidden state, the
mask and the RoPE tables; whatever else a layer hands to a later one (shared keys and values, residual streams) crosses
it in the same way, so any graph whose hidden states have names can be cut. What depends on weights alone is repeated
where it is needed and never handed on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.verification.parts import EMBEDDING, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import onnx

STATE: Final = re.compile(r"(?:past|present)\w*\.(\d+)\.\w+|(?:past|present)_key_values_(\d+)")
"""Name of a state: ``past_key_values.3.key``, ``present.3.value``, ``past_state.3.conv``, ``past_key_values_3``."""

ELEMENT_TYPES: Final = {
    "tensor(float)": 1, "tensor(uint8)": 2, "tensor(int8)": 3, "tensor(int32)": 6, "tensor(int64)": 7,
    "tensor(bool)": 9, "tensor(float16)": 10, "tensor(double)": 11, "tensor(bfloat16)": 16, "tensor(float8e4m3fn)": 17,
}  # fmt: skip
"""Type of an ``OrtValue`` in words → ``onnx.TensorProto.DataType``."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The nodes of one part.

    Attributes:
        part: the part.
        nodes: indices of its nodes in the graph, ascending.
        taken: values that earlier segments make and this one reads.
        handed: values that this one makes and later ones read.
        outputs: outputs of the graph that it makes.
    """

    part: Part
    nodes: tuple[int, ...]
    taken: tuple[str, ...]
    handed: tuple[str, ...]
    outputs: tuple[str, ...]


def hidden_name(layer: int) -> str:
    """Return the tensor with the hidden state after a decoder layer; -1 for the one before the first."""
    return "hidden_states.input" if layer < 0 else f"hidden_states.{layer}"


def shown_names(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that a session can show: what nodes make, and the embeddings where they are passed in."""
    names = {name for node in graph.node for name in node.output}
    embedded = any(value.name == "inputs_embeds" for value in graph.input)
    return names | {hidden_name(EMBEDDING)} if embedded else names


def can_be_cut(graph: onnx.GraphProto, depth: int) -> bool:
    """Say whether a graph names the hidden states between its layers."""
    return shown_names(graph).issuperset(hidden_name(layer) for layer in range(EMBEDDING, depth))


def state_layer(name: str) -> int | None:
    """Return the layer whose state a graph input or output is, or None."""
    found = STATE.fullmatch(name)
    return int(found[1] or found[2]) if found else None


def cut(graph: onnx.GraphProto, parts: Sequence[Part], depth: int) -> list[Segment]:
    """Return the segments of a graph.

    Args:
        graph: a graph whose hidden states have names, unless there is one part.
        parts: all units, in order.
        depth: decoder layers of the graph.
    """
    if len(parts) == 1:
        outputs = tuple(value.name for value in graph.output)
        return [Segment(part=parts[0], nodes=tuple(range(len(graph.node))), taken=(), handed=(), outputs=outputs)]
    reads = [names_read(node) for node in graph.node]
    constant = _constant_nodes(graph, reads)
    units = _units(graph, reads, constant, depth)
    owner = [next(index for index, part in enumerate(parts) if unit in part) for unit in units]
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    members: list[set[int]] = [set() for _ in parts]
    for node, home in enumerate(owner):
        if node not in constant:
            members[home].add(node)
            members[home].update(_constants_of(node, reads, producer, constant))
    crossing: dict[str, set[int]] = {}
    for node, home in enumerate(owner):
        for name in reads[node] if node not in constant else ():
            made = producer.get(name)
            if made is not None and made not in constant and owner[made] != home:
                crossing.setdefault(name, set()).add(home)
    segments = []
    for index, part in enumerate(parts):
        own = {name for node in members[index] - constant for name in graph.node[node].output}
        segments.append(
            Segment(
                part=part,
                nodes=tuple(sorted(members[index])),
                taken=tuple(sorted(name for name, homes in crossing.items() if index in homes)),
                handed=tuple(sorted(own & crossing.keys())),
                outputs=tuple(value.name for value in graph.output if value.name in own),
            )
        )
    return segments


def segment_model(
    model: onnx.ModelProto, segment: Segment, taken: Mapping[str, Any], shown: Iterable[str] = ()
) -> onnx.ModelProto:
    """Return a segment as a model of its own.

    Args:
        model: the whole graph.
        segment: one of its segments.
        taken: an ``OrtValue`` of one step for each value that it takes, for their types.
        shown: further tensors that it shows, as far as it makes them.
    """
    import onnx

    graph = model.graph
    found = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    found.graph.name = f"{graph.name}.{segment.part.start}"
    found.graph.node.extend(graph.node[index] for index in segment.nodes)
    used = {name for index in segment.nodes for name in names_read(graph.node[index])}
    found.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
    found.graph.input.extend(value for value in graph.input if value.name in used)
    for name in segment.taken:
        value = taken[name]
        shape: list[int | None] = [None] * len(value.shape())
        info = onnx.helper.make_tensor_value_info(name, ELEMENT_TYPES[value.data_type()], shape)
        found.graph.input.append(info)
    made = {name for node in found.graph.node for name in node.output}
    found.graph.value_info.extend(value for value in graph.value_info if value.name in made)
    own = {value.name: value for value in graph.output}
    names = dict.fromkeys([*segment.outputs, *segment.handed, *(name for name in shown if name in made)])
    # ONNX Runtime infers the types of outputs that are declared without one
    found.graph.output.extend(own.get(name) or onnx.ValueInfoProto(name=name) for name in names)
    return found


def names_read(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the tensors that a node reads, also inside its branches."""
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    inner += [graph for attribute in node.attribute for graph in attribute.graphs]
    if not inner:
        return tuple(name for name in node.input if name)
    names = [*node.input]
    for graph in inner:
        made = {name for own in graph.node for name in own.output} | {value.name for value in graph.input}
        made |= {tensor.name for tensor in graph.initializer}
        names += [name for own in graph.node for name in names_read(own) if name not in made]
        names += [value.name for value in graph.output if value.name not in made]
    return tuple(dict.fromkeys(name for name in names if name))


def _constant_nodes(graph: onnx.GraphProto, reads: Sequence[Sequence[str]]) -> set[int]:
    """Return the nodes that depend on no input of the graph."""
    known = {tensor.name for tensor in graph.initializer}
    constant = set()
    for index, node in enumerate(graph.node):
        if known.issuperset(reads[index]):
            constant.add(index)
            known.update(node.output)
    return constant


def _constants_of(
    node: int, reads: Sequence[Sequence[str]], producer: Mapping[str, int], constant: set[int]
) -> Iterator[int]:
    pending = list(reads[node])
    while pending:
        made = producer.get(pending.pop())
        if made is not None and made in constant:
            yield made
            pending.extend(reads[made])


def _units(graph: onnx.GraphProto, reads: Sequence[Sequence[str]], constant: set[int], depth: int) -> list[int]:
    """Return the unit of each node: the first one whose result depends on it."""
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    units: dict[int, int] = {}

    def claim(name: str, unit: int) -> None:
        pending = [name]
        while pending:
            index = producer.get(pending.pop())
            if index is not None and index not in units and index not in constant:
                units[index] = unit
                pending.extend(reads[index])

    for layer in range(EMBEDDING, depth):
        claim(hidden_name(layer), layer)
    for value in graph.output:
        layer_of_state = state_layer(value.name)
        if layer_of_state is not None:
            claim(value.name, layer_of_state)
    return [units.get(index, depth) for index in range(len(graph.node))]
