"""Every way in which a graph can be wrong is caught, with the culprit named and nothing published.

The mutations are made between the stages of a real build, so that the gate sees them as it would see a defect.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgellm_core.errors import EdgellmError
from edgellm_core.pipeline import build as build_module
from edgellm_core.pipeline import export as export_module
from edgellm_core.pipeline.build import build
from edgellm_core.testing.plugin_files import write_plugin

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def no_twin(monkeypatch):
    """Leave out the twin, which the same change would fail first, so that the gate has to see it."""
    monkeypatch.setattr(build_module, "_twin_stage", lambda *_: None)


@pytest.fixture
def after_lowering(monkeypatch, no_twin):
    """Return the function that lets a change act on every lowered graph of the test."""
    original = export_module.lower

    def install(change):
        def lower(*args):
            lowered = original(*args)
            change(lowered.model.graph)
            return dataclasses.replace(lowered)

        monkeypatch.setattr(export_module, "lower", lower)

    return install


@pytest.fixture
def after_binding(monkeypatch, no_twin):
    """Return the function that lets a change act on the folder that the bind stage wrote."""
    original = export_module.bind_graph

    def install(change):
        def bind_graph(*args):
            result = original(*args)
            change(args[4])
            return result

        monkeypatch.setattr(export_module, "bind_graph", bind_graph)

    return install


def test_perturbed_weight_is_named(llama, tmp_path, quick, after_binding):
    def perturb(folder):
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        name = "model.layers.2.mlp.up_proj.weight"
        entry = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        offset = int({item.key: item.value for item in entry.external_data}["offset"])
        data = np.memmap(
            folder / "model.onnx.data", dtype=np.float32, mode="r+", offset=offset, shape=tuple(entry.dims)
        )
        data[0] += 1.0
        data.flush()

    after_binding(perturb)
    with pytest.raises(EdgellmError, match=r"decoder layer 2.*model\.layers\.2\.mlp\.up_proj\.weight"):
        build(str(llama), tmp_path / "out", quick())


def change_epsilon(graph):
    node = next(node for node in graph.node if node.op_type == "RMSNormalization" and node.name.startswith("layers.1/"))
    next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = 1e-1


def change_rope_theta(graph):
    """Scale the inverse frequencies, as another theta would."""
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size == 8:
            tensor.CopyFrom(numpy_helper.from_array(values**1.2, tensor.name))
            return
    pytest.fail("the graph holds no inverse frequencies")


def change_head_dim(graph):
    """Scale the scores as for another head size."""
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Attention" and attribute.name == "scale":
                attribute.f = 20**-0.5


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (change_epsilon, r"decoder layer 1,.*weights equal.*graph computes it wrongly"),
        (change_rope_theta, r"decoder layer 0,.*weights equal.*graph computes it wrongly"),
        (change_head_dim, r"decoder layer 0,.*weights equal.*graph computes it wrongly"),
    ],
    ids=["rms_norm_eps", "rope_theta", "head_dim"],
)
def test_wrong_graph_is_located(llama, tmp_path, quick, after_lowering, change, culprit):
    after_lowering(change)
    with pytest.raises(EdgellmError, match=culprit):
        build(str(llama), tmp_path / "out", quick())


def test_missing_tensor_is_named(llama_copy, tmp_path, quick, edit_weights):
    edit_weights(llama_copy, lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.weight"))
    with pytest.raises(EdgellmError, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        build(str(llama_copy), tmp_path / "out", quick())


def test_unexpected_tensor_is_named(llama_copy, tmp_path, quick, edit_weights):
    edit_weights(llama_copy, lambda tensors: tensors.update({"model.layers.1.extra.weight": np.ones(3, np.float32)}))
    with pytest.raises(EdgellmError, match=r"model\.layers\.1\.extra\.weight"):
        build(str(llama_copy), tmp_path / "out", quick())


def test_nan_in_a_weight_is_named(llama_copy, tmp_path, quick, edit_weights):
    def spoil(tensors):
        tensors["model.layers.3.self_attn.q_proj.weight"][5, 7] = np.nan

    edit_weights(llama_copy, spoil)
    with pytest.raises(EdgellmError, match=r"model\.layers\.3\.self_attn\.q_proj\.weight.*nan at flat index"):
        build(str(llama_copy), tmp_path / "out", quick(verify="off"))


def test_float16_overflow_names_the_tensor_and_suggests_a_precision(llama_copy, tmp_path, quick, edit_weights):
    def enlarge(tensors):
        tensors["model.layers.0.mlp.gate_proj.weight"][0, 0] = 1e6

    edit_weights(llama_copy, enlarge)
    with pytest.raises(EdgellmError, match=r"model\.layers\.0\.mlp\.gate_proj\.weight.*bf16.*fp32"):
        build(str(llama_copy), tmp_path / "out", quick(precision="fp16", verify="off"))


def test_truncated_safetensors_file_is_named(llama_copy, tmp_path, quick):
    path = llama_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(EdgellmError, match=r"model\.safetensors"):
        build(str(llama_copy), tmp_path / "out", quick())


def test_config_that_differs_from_the_weights_is_refused(llama_copy, tmp_path, quick, edit_config):
    edit_config(llama_copy, head_dim=12)
    with pytest.raises(EdgellmError, match=r"shape.*model\.layers\.0\.self_attn\.q_proj\.weight"):
        build(str(llama_copy), tmp_path / "out", quick())


def test_unread_config_key_is_named(llama_copy, tmp_path, quick, edit_config):
    edit_config(llama_copy, residual_multiplier=0.5)
    with pytest.raises(EdgellmError, match=r"'residual_multiplier'"):
        build(str(llama_copy), tmp_path / "out", quick())


WRONG_WRAPPER = """
from edgellm_core.hookspecs import hookimpl


class WrongFamily(ModelFamily):
    name = "wrong"

    def module_forwards(self):
        return {{"{module}": {forward}}}


@hookimpl
def edgellm_register_families():
    return [WrongFamily]
"""


@pytest.mark.parametrize(
    ("module", "forward", "culprit"),
    [
        ("LlamaMLP", "lambda self, x: self.down_proj(self.up_proj(x))", r"Family 'wrong'.*'LlamaMLP'.*off by"),
        (
            "LlamaAttention",
            "lambda self, hidden_states, **kw: type(self).forward(self, hidden_states * 1.01, **kw)",
            r"on a twin of the model",
        ),
    ],
    ids=["caught by the probe", "caught by the twin"],
)
def test_wrong_wrapper_of_a_family_is_caught(llama, tmp_path, quick, module, forward, culprit):
    source = WRONG_WRAPPER.format(module=module, forward=forward)
    pack = write_plugin(tmp_path / "packs", "wrong", source)
    settings = quick(family="wrong", plugin_paths=(pack,))
    with pytest.raises(EdgellmError, match=culprit):
        build(str(llama), tmp_path / "out", settings)


def test_wrong_wrapper_is_located_by_the_gate(llama, tmp_path, quick, no_twin):
    forward = "lambda self, hidden_states, **kw: type(self).forward(self, hidden_states * 1.01, **kw)"
    source = WRONG_WRAPPER.format(module="LlamaAttention", forward=forward)
    pack = write_plugin(tmp_path / "packs", "wrong", source)
    with pytest.raises(EdgellmError, match=r"decoder layer 0"):
        build(str(llama), tmp_path / "out", quick(family="wrong", plugin_paths=(pack,)))
