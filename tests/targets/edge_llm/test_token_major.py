"""What depends on the axes of a batch is turned where it can be, and refused by name where not."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from edgellm_core.targets.edge_llm.errors import InputNotExpressibleError, NotTokenMajorError
from edgellm_core.targets.edge_llm.interface import finish


def _graph(op, inputs=(), attributes=None, *, width=8):
    """A graph whose logits are ``op(inputs_embeds, …)``."""
    embeds = gs.Variable("inputs_embeds", np.float16, ["physical_tokens", width])
    shown = gs.Variable("logits", np.float16, ["batch", "seq", width])
    node = gs.Node(op, "middle", attributes or {}, [embeds, *inputs], [shown])
    return gs.Graph(nodes=[node], inputs=[embeds], outputs=[shown], opset=24)


def _axes(*values):
    return gs.Constant("axes", np.array(values, np.int64))


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Sigmoid", (), {}),
        ("Softmax", (), {"axis": 2}),
        ("Split", (), {"axis": -1, "num_outputs": 1}),
        ("ReduceMean", (_axes(2),), {"keepdims": 1}),
    ],
)
def test_turned(op, inputs, attributes):
    graph = _graph(op, inputs, attributes)
    finish(graph)
    node = next(node for node in graph.nodes if node.name == "middle")
    assert node.attrs.get("axis", -1) == -1
    assert not inputs or node.inputs[1].values.tolist() == [-1]
    assert [(value.name, value.dtype) for value in graph.outputs] == [("logits", np.float32)]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "reason"),
    [
        ("Transpose", (), {"perm": [0, 2, 1]}, "depends on the axes of a batch"),
        ("Softmax", (), {"axis": 1}, "along axis 1, not along the last of three"),
        ("ReduceMean", (_axes(1),), {}, r"along the axes \[1\], not along the last"),
        ("Add", (gs.Constant("wide", np.zeros((1, 1, 8), np.float16)),), {}, "a constant has more than two axes"),
    ],
)
def test_refused(op, inputs, attributes, reason):
    with pytest.raises(NotTokenMajorError, match=reason):
        finish(_graph(op, inputs, attributes))


@pytest.mark.parametrize("name", ["position_ids", "attention_mask", "past_state.0.conv"])
def test_inputs_that_the_runtime_does_not_pass(name):
    other = gs.Variable(name, np.float16, ["batch", "seq", 8])
    with pytest.raises(InputNotExpressibleError, match=f"passes no '{name}' to the graph, and middle read it"):
        finish(_graph("Add", (other,)))
