"""Mixtures of experts become plugins that are proven, or are refused by the name of what the plugin lacks."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from safetensors import safe_open

from edgellm_core.targets.edge_llm.errors import ExpertsNotExpressibleError
from edgellm_core.targets.edge_llm.experts import ExpertsToPlugin, blocks
from edgellm_core.targets.edge_llm.routing import read_routing
from edgellm_core.verification.errors import VerificationFailedError

SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_experts_per_tok": 3}
FAMILIES = {
    "qwen3_moe": {**SIZES, "num_experts": 128, "moe_intermediate_size": 192},
    "qwen2_moe": {
        **SIZES, "num_experts": 128, "moe_intermediate_size": 64, "num_attention_heads": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "olmoe": {**SIZES, "num_experts": 128, "intermediate_size": 64, "num_attention_heads": 4},
    "mixtral": {**SIZES, "num_local_experts": 128, "intermediate_size": 64},
}  # fmt: skip
"""As many experts as the plugin takes; a dense layer (qwen3_moe, qwen2_moe), a shared expert (qwen2_moe)."""


def plugins_of(model):
    nodes = [node for node in model.graph.node if node.op_type == "Fp16MoePlugin"]
    return [{one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} for node in nodes]


@pytest.mark.parametrize(("family", "normalised"), [("qwen3_moe", 1), ("qwen2_moe", 0), ("olmoe", 0), ("mixtral", 1)])
def test_right_by_proof(edge_llm, family, normalised):
    built = edge_llm(family, **FAMILIES[family])
    record = built.bundle.manifest.verification
    assert (record.status, record.max_rel_err < 1e-5) == ("passed", True)  # measured: up to 2e-6
    found = plugins_of(built.model)
    assert len(found) == (2 if family in ("olmoe", "mixtral") else 1)
    assert {(one["num_experts"], one["top_k"], one["norm_topk_prob"]) for one in found} == {(128, 3, normalised)}


def test_config_states_the_experts(edge_llm):
    built = edge_llm("qwen3_moe", **FAMILIES["qwen3_moe"])
    config = json.loads((built.bundle.llm / "config.json").read_text(encoding="utf-8"))
    keys = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "enable_moe_block")
    assert [config[key] for key in keys] == [128, 3, 192, False]


def test_up_and_gate_lie_in_turn(edge_llm):
    built = edge_llm("qwen3_moe", **FAMILIES["qwen3_moe"])
    tensor = next(one for one in built.model.graph.initializer if one.name.endswith("gate_up_proj.blocks"))
    offset = next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")
    data = np.memmap(built.bundle.llm / "model.onnx.data", np.float16, "r", offset=offset, shape=tuple(tensor.dims))
    with safe_open(built.checkpoint / "model.safetensors", "np") as file:
        prefix = "model.layers.0.mlp.experts.5"
        gate, up = (file.get_tensor(f"{prefix}.{part}_proj.weight").astype(np.float16) for part in ("gate", "up"))
    for block, (first, second) in enumerate(zip(np.split(up, 3), np.split(gate, 3), strict=True)):
        np.testing.assert_array_equal(data[5, 128 * block : 128 * block + 64], first)
        np.testing.assert_array_equal(data[5, 128 * block + 64 : 128 * (block + 1)], second)


def changed(**attributes):
    def damage(llm):
        path = llm / "model.onnx"
        model = onnx.load(str(path), load_external_data=False)
        node = next(node for node in model.graph.node if node.op_type == "Fp16MoePlugin")
        for attribute in node.attribute:
            attribute.i = attributes.get(attribute.name, attribute.i)
        path.write_bytes(model.SerializeToString())

    return damage


@pytest.mark.parametrize("damage", [changed(top_k=2), changed(norm_topk_prob=0)], ids=["top_k", "norm_topk_prob"])
def test_a_wrong_attribute_is_caught(edge_llm, verify_copy, damage):
    with pytest.raises(VerificationFailedError, match="decoder layer 0"):
        verify_copy(edge_llm("qwen3_moe", **FAMILIES["qwen3_moe"]), damage)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mixtral", {}, "takes 128 or 256 float16 experts, not 5"),
        ("gpt_oss", {}, "they are not SwiGLU without biases"),
        ("olmoe", {"hidden_act": "gelu"}, "they are not SwiGLU without biases"),
    ],
)
def test_refused_by_name(edge_llm, family, changes, reason):
    with pytest.raises(ExpertsNotExpressibleError, match=reason):
        edge_llm(family, **changes)


TWO, LAST = gs.Constant("two", np.array([2], np.int64)), gs.Constant("last", np.array([-1], np.int64))


def experts_after(*steps, hidden=128, inner=64, experts=128):
    """``Experts`` behind steps, each ``(operator, inputs, outputs, attributes)``, from ``logits`` on."""
    named = {"logits": gs.Variable("logits", np.float32, ["t", experts]), "two": TWO, "last": LAST}

    def value(name):
        return named.setdefault(name, gs.Variable(name, np.float32))

    for op, inputs, outputs, attributes in steps:
        gs.Node(
            op, f"{op}:{outputs}", attributes, [value(n) for n in inputs.split()], [value(n) for n in outputs.split()]
        )
    x = gs.Variable("x", np.float16, ["t", hidden])
    weights = [
        gs.Variable("gate_up", np.float16, [experts, 2 * inner, hidden]),
        gs.Variable("down", np.float16, [experts, hidden, inner]),
    ]
    inputs = [x, value("index"), value("weights"), *weights]
    return gs.Node("Experts", "moe", {}, inputs, [gs.Variable("y", np.float16, ["t", hidden])], domain="edgellm")


SOFTMAX = ("Softmax", "logits", "shares", {"axis": -1})
TOP = ("TopK", "shares two", "top index", {"axis": -1, "largest": 1})
SUM = ("ReduceSum", "top last", "sum", {"keepdims": 1})


@pytest.mark.parametrize(
    ("steps", "normalised"),
    [
        ([SOFTMAX, ("TopK", "shares two", "weights index", {"axis": 1})], False),
        ([SOFTMAX, TOP, SUM, ("Div", "top sum", "weights", {})], True),
        ([("TopK", "logits two", "top index", {}), ("Softmax", "top", "weights", {"axis": -1})], True),
    ],
    ids=["plain", "divided by their sum", "softmax of the chosen"],
)
def test_routings_of_the_plugin(steps, normalised):
    routing = read_routing(experts_after(*steps))
    assert (routing.logits.name, routing.chosen, routing.normalised) == ("logits", 2, normalised)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([("Sigmoid", "logits", "shares", {}), TOP, ("Identity", "top", "weights", {})], "not a softmax"),
        ([SOFTMAX, TOP, ("Mul", "top shares", "weights", {})], "changed after the softmax"),
        ([SOFTMAX, TOP, ("Div", "top shares", "weights", {})], "not divided by their sum"),
        (
            [SOFTMAX, TOP, ("ReduceSum", "top two", "sum", {}), ("Div", "top sum", "weights", {})],
            "the sum of a token's",
        ),
        ([SOFTMAX, ("TopK", "shares two", "weights index", {"largest": 0})], "not the largest"),
        ([SOFTMAX, ("TopK", "shares two", "weights index", {"axis": 0})], "not the largest"),
        ([SOFTMAX, ("TopK", "shares two", "index weights", {})], "not the largest"),
        ([("Softmax", "logits", "shares", {"axis": 0}), TOP, SUM], "not over the experts"),
    ],
)
def test_other_routings_are_refused(steps, reason):
    with pytest.raises(ExpertsNotExpressibleError, match=reason):
        read_routing(experts_after(*steps))


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"experts": 64}, "128 or 256 float16 experts, not 64"),
        ({"hidden": 192}, "multiples of 128, and inner ones of 64, not 192 and 64"),
        ({"inner": 96}, "not 128 and 96"),
    ],
)
def test_sizes_that_the_plugin_does_not_take(sizes, reason):
    node = experts_after(SOFTMAX, ("TopK", "shares two", "weights index", {}), **sizes)
    with pytest.raises(ExpertsNotExpressibleError, match=reason):
        ExpertsToPlugin().rewrite(node, None)


def test_blocks_of_rows():
    assert blocks(128) == [*range(128, 192), *range(64), *range(192, 256), *range(64, 128)]
