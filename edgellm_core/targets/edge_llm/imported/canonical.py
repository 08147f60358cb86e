"""Brings a foreign decoder into the semantic operators, names and order that a traced one has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.surgery.rule import SEMANTIC_DOMAIN
from edgellm_core.targets.edge_llm.imported.masks import prove_guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.targets.edge_llm.imported.interface import Interface, Layer


def make_canonical(graph: gs.Graph, interface: Interface, windows: Sequence[int], rotations: Sequence[gs.Node]) -> None:
    """Write caches, masks and rotations as a traced graph has them, and drop the outputs of the cache.

    Args:
        graph: changed in place.
        interface: its inputs and outputs.
        windows: of each attention, proven.
        rotations: all of them, which turn by the same angles.

    Raises:
        MaskNotProvenError: something changes the output of an attention for real tokens.
    """
    tables = rotations[0].inputs[1:3]
    for node in rotations:
        node.inputs = [node.inputs[0], *tables]
    mask = gs.Variable("attention_mask", np.int64, ["batch", "keys"])
    for index, (layer, window) in enumerate(zip(interface.layers, windows, strict=True)):
        _drop_guard(layer.node, interface)
        _widen_later(layer.node.outputs[0])
        for position, kind in ((1, "key"), (2, "value")):
            _append(graph, layer, index, position, kind)
        _write_mask(graph, layer.node, mask, window)
    for name, tensor in interface.inputs.items():
        tensor.name = f"{name}.of_the_file"  # nothing that stays reads them; the new ones may be called the same
    interface.tokens.name = "inputs_embeds" if np.issubdtype(interface.tokens.dtype, np.floating) else "input_ids"
    interface.logits.name = "logits"
    graph.outputs = [interface.logits]
    graph.cleanup(remove_unused_graph_inputs=True).toposort()


def _append(graph: gs.Graph, layer: Layer, index: int, position: int, kind: str) -> None:
    """Let an attention read its new keys or values through ``edgellm::Append``."""
    whole = layer.node.inputs[position]
    new = whole.inputs[0].inputs[1] if layer.past else whole
    past = gs.Variable(f"past_key_values.{index}.{kind}", new.dtype, new.shape)
    joined = gs.Variable(f"{layer.node.name}.{kind}s", new.dtype, whole.shape)
    graph.nodes.append(
        gs.Node("Append", f"{layer.node.name}/{kind}s", {}, [past, new], [joined], domain=SEMANTIC_DOMAIN)
    )
    layer.node.inputs[position] = joined


def _write_mask(graph: gs.Graph, node: gs.Node, mask: gs.Tensor, window: int) -> None:
    made = gs.Variable(f"{node.name}.mask", np.bool_, None)
    attributes = {"causal": 1, "window": window, "chunk": 0}
    graph.nodes.append(
        gs.Node("AttentionMask", f"{node.name}/mask", attributes, [mask], [made], domain=SEMANTIC_DOMAIN)
    )
    node.inputs[3] = made


def _drop_guard(node: gs.Node, interface: Interface) -> None:
    """Drop a ``Where`` that sets the output of rows without any key to zero: real tokens always see themselves."""
    output = node.outputs[0]
    guard = _only_reader(output, "Where")
    if guard is None:
        return
    condition, *branches = guard.inputs
    kept = branches[0] is output
    other = branches[1] if kept else branches[0]
    if not isinstance(other, gs.Constant) or np.any(other.values):
        return
    prove_guard(condition, kept, node, interface)
    guarded = guard.outputs[0]
    guard.inputs.clear()
    guard.outputs.clear()
    for reader in list(guarded.outputs):
        reader.inputs = [output if tensor is guarded else tensor for tensor in reader.inputs]


def _widen_later(attended: gs.Tensor) -> None:
    """Move a cast of the output behind what joins its heads: the plugin joins them itself."""
    cast = _only_reader(attended, "Cast")
    layout: list[gs.Node] = []
    while cast is not None:
        reader = _only_reader(layout[-1].outputs[0] if layout else cast.outputs[0], "Transpose", "Reshape")
        if reader is None:
            break
        layout.append(reader)
    if cast is None or not layout:
        return
    joined = layout[-1].outputs[0]
    layout[0].inputs[0] = attended
    layout[-1].outputs = [gs.Variable(f"{joined.name}.narrow", shape=joined.shape)]
    for node in layout:
        node.outputs[0].dtype = attended.dtype
    cast.inputs, cast.outputs = [layout[-1].outputs[0]], [joined]


def _only_reader(tensor: gs.Tensor, *operators: str) -> gs.Node | None:
    readers = list(tensor.outputs)
    return readers[0] if len(readers) == 1 and not readers[0].domain and readers[0].op in operators else None
