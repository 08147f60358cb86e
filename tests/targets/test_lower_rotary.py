"""RotaryEmbedding against the rotation that probes compare models with, and against complex numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_graphs import apply, execute, model_of, node, operators, semantic

from edgellm_core.contract import GraphDimensions
from edgellm_core.surgery.errors import RuleCountError
from edgellm_core.surgery.run import run_rules
from edgellm_core.targets.onnx.lower_rotary import RotaryToRotaryEmbedding
from edgellm_core.tracing.graph_import import import_graph
from edgellm_core.tracing.rope import rotate

ONE = GraphDimensions(layers=1, attentions=1, ropes=1)


def lower(dtype, head_dim, rotary_dim, *, interleaved, dimensions=ONE):
    half = rotary_dim // 2
    item = semantic("Rotary", "x cos sin", "y", interleaved=int(interleaved), rotary_dim=rotary_dim)
    table = (dtype, ["batch", "seq", half])
    x = (dtype, ["batch", 3, "seq", head_dim])
    model = model_of([item], {"x": x, "cos": table, "sin": table}, {"y": x})
    return apply(model, RotaryToRotaryEmbedding(), dimensions=dimensions)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float16, 4e-3)])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(8, 8), (12, 8), (20, 6), (16, 2)])
def test_a_rotation_equals_the_reference(dtype, tolerance, interleaved, head_dim, rotary_dim):
    changed, [result] = lower(dtype, head_dim, rotary_dim, interleaved=interleaved)
    wanted = ["Gather", "RotaryEmbedding", "Gather"] if interleaved else ["RotaryEmbedding"]
    assert (operators(changed), result.applied) == (wanted, 1)
    random = np.random.default_rng(0)
    for batch, seq in ((2, 5), (1, 1)):
        x = random.standard_normal((batch, 3, seq, head_dim)).astype(dtype)
        angles = random.standard_normal((batch, seq, rotary_dim // 2)) * 5
        cos, sin = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
        found = execute(changed, x=x, cos=cos, sin=sin)[0]
        tensors = [torch.from_numpy(value.astype(np.float64)) for value in (x, cos, sin)]
        expected = rotate(*tensors, interleaved=interleaved, rotary_dim=rotary_dim).numpy()
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_attributes_say_only_what_differs_from_the_default():
    def attributes(*arguments, **keywords):
        nodes = lower(np.float32, *arguments, **keywords)[0].graph.node
        [rotary] = [item for item in nodes if item.op_type == "RotaryEmbedding"]
        return {item.name: item.i for item in rotary.attribute}

    assert attributes(8, 8, interleaved=False) == {}
    assert attributes(8, 8, interleaved=True) == {}
    assert attributes(12, 8, interleaved=False) == {"rotary_embedding_dim": 8}
    assert attributes(12, 8, interleaved=True) == {"rotary_embedding_dim": 8}


def test_rotations_are_counted():
    with pytest.raises(RuleCountError, match=r"RotaryToRotaryEmbedding must apply 2 times .* applied 1 times"):
        lower(np.float32, 8, 8, interleaved=False, dimensions=GraphDimensions(layers=1, attentions=1, ropes=2))


def test_another_operator_stays():
    kind = (np.float32, [2])
    graph = import_graph(model_of([node("Neg", "x", "y")], {"x": kind}, {"y": kind}))
    [result] = run_rules(graph, [RotaryToRotaryEmbedding()], GraphDimensions(layers=0, attentions=0))
    assert result.applied == 0
