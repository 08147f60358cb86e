"""A graph or config.json that says something else than the model is caught by the gate."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from edgellm_core.errors import EdgellmError
from edgellm_core.verification.errors import VerificationFailedError


def _attribute(name, value):
    def damage(llm):
        path = llm / "model.onnx"
        model = onnx.load(str(path), load_external_data=False)
        for node in model.graph.node:
            for index, attribute in enumerate(node.attribute):
                if node.op_type == "AttentionPlugin" and attribute.name == name:
                    node.attribute[index].CopyFrom(onnx.helper.make_attribute(name, value))
        path.write_bytes(model.SerializeToString())

    return damage


def _config(**changes):
    def damage(llm):
        path = llm / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")

    return damage


def _scaling(**changes):
    def damage(llm):
        stated = json.loads((llm / "config.json").read_text(encoding="utf-8"))["rope_scaling"]
        _config(rope_scaling={**stated, **changes})(llm)

    return damage


def _pairs_as_in_the_checkpoint(llm):
    """Put the rows of the first query head back into the order of neighbouring pairs."""
    model = onnx.load(str(llm / "model.onnx"), load_external_data=False)
    tensor = next(one for one in model.graph.initializer if one.name == "model.layers.0.self_attn.qkv_proj.weight")
    offset = next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")
    plugin = next(node for node in model.graph.node if node.op_type == "AttentionPlugin")
    size = next(one.i for one in plugin.attribute if one.name == "head_size")
    data = np.memmap(llm / "model.onnx.data", np.float16, "r+", offset=offset, shape=tuple(tensor.dims))
    width = json.loads((llm / "config.json").read_text(encoding="utf-8"))["partial_rotary_factor"] * size
    order = np.arange(int(width)).reshape(2, -1).T.ravel()
    data[: int(width)] = data[: int(width)][order]
    data.flush()


@pytest.mark.parametrize(
    ("family", "damage"),
    [
        ("llama", _attribute("attention_scale", 0.2)),
        ("mistral", _attribute("sliding_window_size", 6)),
        ("mistral", _attribute("sliding_window_size", -1)),
        ("qwen3", _attribute("qk_norm_post_rope", 1)),
        ("hunyuan_v1_dense", _attribute("qk_norm_post_rope", 0)),
        ("qwen3", _attribute("rms_norm_eps", 0.1)),
        ("glm4", _pairs_as_in_the_checkpoint),
        ("glm4", _config(rope_theta=5000.0)),
        ("llama", _config(rope_theta=20000.0)),
        ("llama", _scaling(factor=4.0)),
        ("llama", _scaling(type="default", rope_type="default")),
        ("hunyuan_v1_dense", _scaling(alpha=1.0)),
    ],
)
def test_caught(edge_llm, verify_copy, family, damage):
    with pytest.raises(VerificationFailedError):
        verify_copy(edge_llm(family), damage)


def test_wrong_number_of_heads_is_caught(edge_llm, verify_copy):
    def damage(llm):
        _attribute("num_q_heads", 2)(llm)
        _attribute("num_kv_heads", 4)(llm)

    with pytest.raises(EdgellmError):
        verify_copy(edge_llm("llama"), damage)


def test_an_undamaged_copy_passes(edge_llm, verify_copy):
    assert verify_copy(edge_llm("llama"), lambda _llm: None).max_rel_err < 0.006


def test_the_culprit_is_named(edge_llm, verify_copy):
    def damage(llm):
        path = llm / "model.onnx"
        model = onnx.load(str(path), load_external_data=False)
        node = [node for node in model.graph.node if node.op_type == "AttentionPlugin"][1]
        next(one for one in node.attribute if one.name == "attention_scale").f = 0.9
        path.write_bytes(model.SerializeToString())

    with pytest.raises(VerificationFailedError, match="decoder layer 1"):
        verify_copy(edge_llm("llama"), damage)
