"""Templates: names, stamped parameters, predicted counts, and what a cached one imports."""

from __future__ import annotations

import functools
import subprocess
import sys

import onnx
import pytest
from decoders import CORE, deep
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.contract import GraphDimensions
from edgellm_core.testing.lowering import transformers_config
from edgellm_core.tracing.template import LayerNaming, ParameterSpec, Template


@pytest.fixture(scope="module")
def stored(tmp_path_factory, template):
    """Return a function from a family's name to its template and the folder that it was saved in."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        template(name).save(folder)
        return template(name), folder

    return make


@pytest.mark.parametrize("name", CORE)
def test_a_saved_template_is_the_same_after_loading(stored, name):
    template, folder = stored(name)
    loaded = Template.load(folder)
    assert loaded == template
    assert loaded.dimensions() == template.dimensions()
    assert loaded.stamped_parameters() == template.stamped_parameters()
    assert sorted(path.name for path in folder.iterdir()) == ["template.json", "template.onnx"]


def test_a_cached_template_is_loaded_stamped_and_lowered_without_torch(stored):
    _template, folder = stored("qwen2")
    program = f"""
import sys
from pathlib import Path
from edgellm_core.surgery.rules import core_rules
from edgellm_core.surgery.run import run_rules
from edgellm_core.targets.onnx import OnnxTarget
from edgellm_core.tracing.stamping import stamp
from edgellm_core.tracing.template import Template
template = Template.load(Path({str(folder)!r}))
graph = stamp(template)
run_rules(graph, [*core_rules(), *OnnxTarget().rules()], template.dimensions())
print(len(graph.nodes), sorted({{"torch", "transformers", "onnxruntime", "onnxscript"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    nodes, _, imported = done.stdout.strip().partition(" ")
    assert int(nodes) > 100
    assert imported == "[]"
    assert done.stderr == ""


@pytest.mark.parametrize("name", CORE)
def test_parameters_are_those_of_transformers(stored, name):
    import torch
    from transformers import AutoModelForCausalLM

    template, _folder = stored(name)
    config = transformers_config(deep(name))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = dict(model.named_parameters(remove_duplicate=False))
    expected = {key: ("F16", tuple(value.shape)) for key, value in names.items() if key not in template.tied}
    found = {key: (spec.element_type, spec.shape) for key, spec in template.stamped_parameters().items()}
    assert found == expected


def test_a_tied_head_points_to_the_embedding(stored):
    assert stored("qwen3")[0].tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert stored("llama")[0].tied == {}


def test_counts_are_those_of_the_architecture(stored):
    assert stored("qwen3")[0].dimensions() == GraphDimensions(
        layers=6, attentions=6, norms={"rms": 6 * 4 + 1, "layer": 0}, ropes=12, linears=6 * 7 + 1, appends=12
    )


NAMING = LayerNaming("model.layers")


@pytest.mark.parametrize(
    ("name", "layer", "renamed"),
    [
        ("model.layers.3.mlp.up_proj.weight", 3, "model.layers.7.mlp.up_proj.weight"),
        ("model.layers.12.w", 12, "model.layers.7.w"),
        ("past_key_values.3.key", 3, "past_key_values.7.key"),
        ("present.0.value", 0, "present.7.value"),
        ("past_state.3.conv_1", 3, "past_state.7.conv_1"),
        ("present_state.0.recurrent", 0, "present_state.7.recurrent"),
    ],
)
def test_names_that_speak_of_a_layer(name, layer, renamed):
    assert NAMING.layer(name) == layer
    assert NAMING.rename(name, 7) == renamed


@pytest.mark.parametrize(
    "name",
    ["model.norm.weight", "model.layers", "model.layers.3", "model.layers.x.w", "other.layers.3.w", "model.layers2.3.w",
     "xmodel.layers.3.w", "past_key_values.x.key", "logits", ""],
)  # fmt: skip
def test_names_that_speak_of_no_layer(name):
    assert NAMING.layer(name) is None


def test_without_a_stack_only_states_have_layers():
    naming = LayerNaming("")
    assert naming.layer("3.weight") is None
    assert naming.layer(".3.weight") is None
    assert naming.layer("present.3.key") == 3


@given(st.integers(0, 200), st.integers(0, 200), st.from_regex(r"[a-z_]+(\.[a-z0-9_]+){0,3}", fullmatch=True))
def test_renaming_is_undone_by_renaming_back(old, new, rest):
    for name in (f"model.layers.{old}.{rest}", f"past_key_values.{old}.{rest}", f"present.{old}.{rest}"):
        assert NAMING.layer(NAMING.rename(name, new)) == new
        assert NAMING.rename(NAMING.rename(name, new), old) == name


def test_each_layer_gets_the_parameters_of_its_representative():
    def spec(size):
        return ParameterSpec(element_type="F32", shape=(size,))

    template = Template(
        model=onnx.ModelProto(),
        layers="h",
        representative_of=(0, 1, 0, 1),
        parameters={"wte": spec(9), "h.0.a": spec(1), "h.1.b": spec(2), "h.2.a": spec(1), "h.3.b": spec(2)},
        sources={},
        tied={},
        left_out={},
        calls={"Append": {"0": 2, "1": 1, "2": 2, "3": 1}, "Linear": {"0": 3, "outside": 1}},
    )
    assert template.is_stamped
    expected = {"wte": spec(9), "h.0.a": spec(1), "h.1.b": spec(2), "h.2.a": spec(1), "h.3.b": spec(2)}
    assert template.stamped_parameters() == expected
    assert template.dimensions().appends == 2 + 1 + 2 + 1
    assert template.dimensions().linears == 3 + 3 + 1
