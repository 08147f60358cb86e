"""Stamping: from a template with one body per kind of layer to the graph of the whole model. Imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import onnx_graphsurgeon as gs

from edgellm_core.tracing.graph_import import import_graph
from edgellm_core.tracing.template import LayerNaming, Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

INPUT_MARK: Final = "LayerInput"
OUTPUT_MARK: Final = "LayerOutput"
LEADING_INPUTS: Final = ("input_ids", "attention_mask", "position_ids")


class NotStampableError(Exception):
    """The layers are entangled in a way that stamping can't reproduce; the model has to be traced whole."""


@dataclass
class Bodies:
    """The template's nodes sorted by where they belong.

    Attributes:
        before: nodes that do not depend on any layer.
        after: nodes that depend on the last layer's output.
        layers: nodes of each traced layer, in order.
    """

    before: list[gs.Node] = field(default_factory=list)
    after: list[gs.Node] = field(default_factory=list)
    layers: dict[int, list[gs.Node]] = field(default_factory=dict)


def marks(graph: gs.Graph, kind: str) -> dict[int, gs.Node]:
    """Return the layer marks of one kind by layer."""
    return {int(node.attrs["layer"]): node for node in graph.nodes if node.op == kind}


def sort_nodes(graph: gs.Graph, naming: LayerNaming) -> Bodies:
    """Sort a template's nodes into layers: a node belongs to the layer whose values, parameters or states it sees.

    Raises:
        NotStampableError: a node sees two layers, or lies between them.
    """
    owner: dict[int, int] = {}
    behind_last: set[int] = set()
    between: set[int] = set()
    bodies = Bodies()
    last = max(marks(graph, OUTPUT_MARK))
    for node in graph.nodes:
        layer = int(node.attrs["layer"]) if node.op in (INPUT_MARK, OUTPUT_MARK) else None
        if node.op == INPUT_MARK and layer is not None:
            owner[id(node.outputs[0])] = layer
            bodies.layers.setdefault(layer, [])
            continue
        if node.op == OUTPUT_MARK:
            (behind_last if layer == last else between).add(id(node.outputs[0]))
            continue
        seen = set(_layers_seen(node, owner, naming))
        if len(seen) > 1:
            msg = f"node {node.name!r} sees several layers: {sorted(seen)}"
            raise NotStampableError(msg)
        if any(id(tensor) in between for tensor in node.inputs):
            msg = f"node {node.name!r} lies between layers"
            raise NotStampableError(msg)
        if seen:
            home = seen.pop()
            bodies.layers.setdefault(home, []).append(node)
            owner.update((id(tensor), home) for tensor in node.outputs)
        elif any(id(tensor) in behind_last for tensor in node.inputs):
            bodies.after.append(node)
            behind_last.update(id(tensor) for tensor in node.outputs)
        else:
            bodies.before.append(node)
    return bodies


def _layers_seen(node: gs.Node, owner: dict[int, int], naming: LayerNaming) -> Iterator[int]:
    for tensor in node.inputs:
        layer = owner.get(id(tensor))
        if layer is None and not tensor.inputs:
            layer = naming.layer(tensor.name)
        if layer is not None:
            yield layer


def body_digests(graph: gs.Graph, bodies: Bodies, layer: int, naming: LayerNaming) -> dict[str, str]:
    """Return a digest of how each result of one layer is computed; equal digests mean equal bodies.

    The layer's own parameters and states are named relative to it; values that layers share count by how they are
    computed.
    """

    def leaf(tensor: gs.Tensor) -> str:
        own = not tensor.inputs and naming.layer(tensor.name) == layer
        return "own:" + naming.rename(tensor.name, 0) if own else "shared:" + tensor.name

    entering = id(marks(graph, INPUT_MARK)[layer].outputs[0])
    digests = value_digests([*bodies.before, *bodies.layers[layer]], leaf, {entering: "input"})
    outputs = {id(tensor) for tensor in graph.outputs}
    results = {
        naming.rename(tensor.name, 0): digests[id(tensor)]
        for node in bodies.layers[layer]
        for tensor in node.outputs
        if id(tensor) in outputs
    }
    results["hidden"] = digests.get(id(marks(graph, OUTPUT_MARK)[layer].inputs[0]), "not of this layer")
    return results


def value_digests(
    nodes: Iterable[gs.Node], leaf: Callable[[gs.Tensor], str], known: Mapping[int, str]
) -> dict[int, str]:
    """Return, by ``id`` of the tensor, a digest of how each value is computed, whatever nodes and values are called.

    Args:
        nodes: in topological order.
        leaf: what identifies a value that none of them computes; constants are identified by what they hold.
        known: digests of values by ``id``.
    """
    digests = dict(known)
    for node in nodes:
        inputs = [digests.get(id(tensor)) or _leaf_digest(tensor, leaf) for tensor in node.inputs]
        text = repr((node.op, node.domain, sorted((key, str(value)) for key, value in node.attrs.items()), inputs))
        digest = hashlib.sha256(text.encode()).hexdigest()
        digests.update((id(tensor), f"{digest}:{index}") for index, tensor in enumerate(node.outputs))
    return digests


def _leaf_digest(tensor: gs.Tensor, leaf: Callable[[gs.Tensor], str]) -> str:
    if tensor.is_empty():
        return ""
    if not isinstance(tensor, gs.Constant):
        return leaf(tensor)
    kind = f"{tensor.values.dtype}{tensor.values.shape}"
    return hashlib.sha256(kind.encode() + tensor.values.tobytes()).hexdigest()


def check_stampable(graph: gs.Graph, layers: str, guards: Iterable[tuple[int, int]]) -> None:
    """Compare the first and last layer of every kind.

    Layers whose difference no attribute shows would be cloned silently wrong.

    Raises:
        NotStampableError: naming the layers whose bodies differ.
    """
    naming = LayerNaming(layers)
    bodies = sort_nodes(graph, naming)
    for first, last in guards:
        if body_digests(graph, bodies, first, naming) != body_digests(graph, bodies, last, naming):
            msg = f"layers {first} and {last} look alike but compute different things"
            raise NotStampableError(msg)


def stamp(template: Template) -> gs.Graph:
    """Return the graph of the whole model, in semantic operators; parameters are variables without data.

    The hidden state after decoder layer i is named ``hidden_states.{i}``, the one before layer 0
    ``hidden_states.input``.
    """
    graph = import_graph(template.model)
    if template.is_stamped:
        _Stamper(graph, template).run()
    else:
        _drop_marks(graph)
    graph.inputs = sorted((t for t in graph.inputs if t.name in LEADING_INPUTS or _is_state(t)), key=_io_order)
    graph.cleanup().toposort()
    graph.outputs = sorted(graph.outputs, key=_io_order)  # toposort reorders them
    return graph


def _is_state(tensor: gs.Tensor) -> bool:
    return bool(tensor.name.startswith(("past_", "present")))


def _io_order(tensor: gs.Tensor) -> tuple[int, int, str]:
    if tensor.name in LEADING_INPUTS:
        return 0, LEADING_INPUTS.index(tensor.name), ""
    if not _is_state(tensor):
        return 1, 0, tensor.name
    _kind, layer, part = tensor.name.split(".", 2)
    return 2, int(layer), part


def _drop_marks(graph: gs.Graph) -> None:
    """Remove the marks of a graph that was traced whole, and name the hidden states."""
    first = min(marks(graph, INPUT_MARK), default=None)
    for kind in (INPUT_MARK, OUTPUT_MARK):
        for layer, node in marks(graph, kind).items():
            source, result = node.inputs[0], node.outputs[0]
            if kind == OUTPUT_MARK:
                source.name = f"hidden_states.{layer}"
            elif layer == first:
                source.name = "hidden_states.input"
            for consumer in list(result.outputs):
                consumer.inputs = [source if tensor is result else tensor for tensor in consumer.inputs]
            node.inputs.clear()
            node.outputs.clear()


class _Stamper:
    """Clones the body of each layer's representative and chains the clones."""

    def __init__(self, graph: gs.Graph, template: Template) -> None:
        self._graph = graph
        self._sources = template.representative_of
        self._naming = LayerNaming(template.layers)
        self._bodies = sort_nodes(graph, self._naming)
        self._enter, self._leave = marks(graph, INPUT_MARK), marks(graph, OUTPUT_MARK)
        self._inside = {id(node) for body in self._bodies.layers.values() for node in body}
        self._inputs: dict[str, gs.Variable] = {}
        self._outputs: list[gs.Variable] = []

    def run(self) -> None:
        graph = self._graph
        hidden = self._enter[min(self._enter)].inputs[0]
        hidden.name = "hidden_states.input"
        tail = self._leave[max(self._leave)].outputs[0]
        results = {id(tensor) for tensor in graph.outputs}
        stamped: list[gs.Node] = []
        for layer, source in enumerate(self._sources):
            copy = self._copier(layer, source, hidden, results)
            for node in self._bodies.layers[source]:
                inputs, outputs = [copy(t) for t in node.inputs], [copy(t) for t in node.outputs]
                name = f"layers.{layer}/{node.name}"
                stamped.append(gs.Node(node.op, name, dict(node.attrs), inputs, outputs, domain=node.domain))
            hidden = copy(self._leave[source].inputs[0])
            hidden.name = f"hidden_states.{layer}"
        for consumer in list(tail.outputs):
            consumer.inputs = [hidden if tensor is tail else tensor for tensor in consumer.inputs]
        self._replace_nodes(stamped)

    def _copier(
        self, layer: int, source: int, hidden: gs.Tensor, results: set[int]
    ) -> Callable[[gs.Tensor], gs.Tensor]:
        made: dict[int, gs.Tensor] = {id(self._enter[source].outputs[0]): hidden}

        def copy(tensor: gs.Tensor) -> gs.Tensor:
            found = made.get(id(tensor))
            if found is not None:
                return found
            if tensor.is_empty():
                return tensor
            if not tensor.inputs and self._naming.layer(tensor.name) == source:
                clone = self._input(self._naming.rename(tensor.name, layer), tensor)
            elif tensor.inputs and id(tensor.inputs[0]) in self._inside:
                clone = self._value(tensor, layer, is_result=id(tensor) in results)
            else:
                return tensor  # computed once for all layers
            made[id(tensor)] = clone
            return clone

        return copy

    def _input(self, name: str, like: gs.Tensor) -> gs.Variable:
        if name not in self._inputs:
            self._inputs[name] = gs.Variable(name, like.dtype, like.shape)
        return self._inputs[name]

    def _value(self, like: gs.Tensor, layer: int, *, is_result: bool) -> gs.Variable:
        name = self._naming.rename(like.name, layer) if is_result else f"layers.{layer}/{like.name}"
        clone = gs.Variable(name, like.dtype, like.shape)
        if is_result:
            self._outputs.append(clone)
        return clone

    def _replace_nodes(self, stamped: list[gs.Node]) -> None:
        graph, templates = self._graph, [node for body in self._bodies.layers.values() for node in body]
        shared_inputs = [t for t in graph.inputs if self._naming.layer(t.name) is None]
        shared_outputs = [t for t in graph.outputs if self._naming.layer(t.name) is None]
        for node in [*templates, *self._enter.values(), *self._leave.values()]:
            node.inputs.clear()
            node.outputs.clear()
        graph.nodes.clear()
        graph.nodes.extend([*self._bodies.before, *stamped, *self._bodies.after])
        graph.inputs = [*shared_inputs, *self._inputs.values()]
        graph.outputs = [*shared_outputs, *self._outputs]


def graph_digest(graph: gs.Graph) -> dict[str, str]:
    """Return a digest of how each graph output is computed, independent of node and value names.

    Two graphs with equal digests compute the same function; tests compare a stamped graph with one traced whole.
    """
    digests = value_digests(graph.nodes, lambda tensor: str(tensor.name), {})
    return {tensor.name: digests.get(id(tensor), "an input") for tensor in graph.outputs}
