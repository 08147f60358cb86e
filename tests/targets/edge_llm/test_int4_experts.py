"""Four-bit experts become plugins that are proven, or are refused by the name of what the plugin lacks."""

from __future__ import annotations

import json
import re

import onnx
import pytest

import edgellm_core
from edgellm_core.errors import EdgellmError, NoFormError
from edgellm_core.host import PluginHost
from edgellm_core.quantization.errors import UnevenExpertsError
from edgellm_core.targets.edge_llm.errors import ExpertsNotExpressibleError
from edgellm_core.testing.checkpoints import write_family_checkpoint
from tests.int4_experts import EXPERT, quantize_experts

FAMILIES = {
    "mixtral": {"hidden_size": 128, "intermediate_size": 192},
    "qwen3_moe": {"hidden_size": 128, "moe_intermediate_size": 64, "num_hidden_layers": 2},
}
"""Several groups of inputs, and one (the second weight of qwen3_moe); a dense layer of floats."""


@pytest.fixture(scope="module")
def int4(tmp_path_factory):
    """Function from a family, and changes of its tiny config, to a checkpoint with four-bit experts, made once."""
    made = {}

    def make(family, changes, only=EXPERT):
        key = family, repr(changes), only.pattern
        if key not in made:
            chosen = PluginHost.load(environ={}).select({}, forced=family).family
            folder = tmp_path_factory.mktemp(family) / "checkpoint"
            write_family_checkpoint(folder, chosen, config={**chosen.tiny_config(), **changes})
            made[key] = quantize_experts(folder, group=64, only=only)
        return made[key]

    return make


@pytest.fixture(scope="module")
def built(int4, tmp_path_factory):
    """Function from a family to its bundle, made once."""
    made = {}

    def make(family):
        if family not in made:
            out = tmp_path_factory.mktemp("out") / family
            made[family] = edgellm_core.build(int4(family, FAMILIES[family]), out, target="edge-llm", engine="none")
        return made[family]

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_right_by_proof(built, family):
    record = built(family).manifest.verification
    assert (record.status, record.max_rel_err < 1e-5) == ("passed", True)  # measured: up to 2e-6


def test_attributes_inputs_and_config(built):
    bundle = built("mixtral")
    graph = onnx.load(str(bundle.model_path), load_external_data=False).graph
    node = next(node for node in graph.node if node.op_type == "Int4MoePlugin")
    assert {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} == {
        "num_experts": 5, "top_k": 2, "hidden_size": 128, "moe_inter_size": 192, "activation_type": 0,
        "quantization_group_size": 64,
    }  # fmt: skip
    shapes = {one.name: (onnx.TensorProto.DataType.Name(one.data_type), *one.dims) for one in graph.initializer}
    assert [shapes[name] for name in node.input[2:]] == [
        ("INT8", 5, 8, 3072), ("FLOAT16", 5, 2, 384), ("INT8", 5, 12, 1024), ("FLOAT16", 5, 3, 128),
    ]  # fmt: skip
    config = json.loads((bundle.llm / "config.json").read_text(encoding="utf-8"))
    assert [config[key] for key in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")] == [5, 2, 192]


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [("top_k", 1, "diverges is decoder layer 0"), ("quantization_group_size", 32, "can't run")],
)
def test_a_wrong_attribute_is_caught(int4, verify_copy, built, attribute, value, reason):
    def damage(llm):
        model = onnx.load(str(llm / "model.onnx"), load_external_data=False)
        node = next(node for node in model.graph.node if node.op_type == "Int4MoePlugin")
        next(one for one in node.attribute if one.name == attribute).i = value
        (llm / "model.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(EdgellmError, match=reason):
        verify_copy(_Built(int4("mixtral", FAMILIES["mixtral"]), built("mixtral")), damage)


class _Built:
    def __init__(self, checkpoint, bundle):
        self.checkpoint, self.bundle = checkpoint, bundle


@pytest.mark.parametrize(
    ("family", "changes", "only", "error", "reason"),
    [
        ("olmoe", {"hidden_size": 128, "intermediate_size": 64, "num_attention_heads": 4}, EXPERT,
         ExpertsNotExpressibleError, "always divides the weights of chosen int4 experts by their sum"),
        ("mixtral", {"hidden_size": 128, "intermediate_size": 64}, re.compile(r".*experts\.\d+\.w2\.weight"),
         ExpertsNotExpressibleError, "not all int4 in blocks of one size"),
        ("mixtral", {"hidden_size": 128, "intermediate_size": 64}, re.compile(r".*experts\.[013]\..*\.weight"),
         UnevenExpertsError, r"experts\.2\.w"),
    ],
    ids=["routing", "one of two", "some"],
)  # fmt: skip
def test_refused_by_name(int4, tmp_path, family, changes, only, error, reason):
    with pytest.raises(error, match=reason):
        edgellm_core.build(int4(family, changes, only), tmp_path / "out", target="edge-llm", engine="none")


def test_target_onnx_has_no_form(int4, tmp_path):
    with pytest.raises(NoFormError, match="quantized experts"):
        edgellm_core.build(int4("mixtral", FAMILIES["mixtral"]), tmp_path / "out", engine="none")
