"""The layout of checkpoints that ModelOpt wrote, and of broken copies."""

from __future__ import annotations

import json
import shutil

import pytest

from edgellm_core.checkpoint.json_files import read_config
from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.quantization.errors import (
    ContradictoryQuantizationError,
    MalformedQuantizationError,
    QuantizedTensorMismatchError,
    UnsupportedQuantizationError,
)
from edgellm_core.quantization.formats import FP8, INT4, INT8_SQ, MXFP8, NVFP4
from edgellm_core.quantization.layout import QUANT_CONFIG, read_layout
from tests.stock_modelopt import export_stock

FORMS = {"fp8": FP8, "int8_sq": INT8_SQ, "int4_awq": INT4, "nvfp4": NVFP4, "mxfp8": MXFP8}
MODULES = {
    f"model.layers.{layer}.{part}"
    for layer in range(2)
    for part in (
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    )
}


def layout_of(folder, **changes):
    tensors = index_tensors(read_headers(folder))
    tensors = {name: entry for name, entry in tensors.items() if name not in changes.get("without", ())}
    return read_layout(folder, read_config(folder), tensors)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    made = {}

    def checkpoint(scheme, **options):
        key = scheme, *options.items()
        if key not in made:
            made[key] = tmp_path_factory.mktemp(scheme)
            export_stock(made[key], scheme, **options)
        return made[key]

    return checkpoint


@pytest.fixture
def broken(stock, tmp_path):
    """Return a copy of ModelOpt's fp8 checkpoint with one description, hf_quant_config.json, which was changed."""

    def copy(change, *, keep=False, **options):
        folder = shutil.copytree(stock("fp8", **options), tmp_path / "broken")
        config = json.loads((folder / "config.json").read_text())
        if not keep:
            del config["quantization_config"]
        (folder / "config.json").write_text(json.dumps(config))
        path = folder / QUANT_CONFIG
        described = json.loads(path.read_text())
        change(described["quantization"])
        path.write_text(json.dumps(described))
        return folder

    return copy


@pytest.mark.parametrize("scheme", FORMS)
def test_every_scheme_of_modelopt_is_read(stock, scheme):
    layout = layout_of(stock(scheme))
    assert set(layout.linears) == MODULES
    wanted = FORMS[scheme]
    assert {(form.weight, form.granularity, form.block_size, form.input) for form in layout.linears.values()} == {
        (wanted.weight, wanted.granularity, wanted.block_size, wanted.input)
    }
    smoothed = {name.rsplit(".", 1)[1] for name, form in layout.linears.items() if form.smoothed}
    everywhere = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert smoothed == {"int8_sq": everywhere, "int4_awq": {"o_proj", "down_proj"}}.get(scheme, set())
    assert layout.kv_cache is None
    assert layout.producer.startswith("modelopt 0.")


def test_the_cache_of_modelopt_is_read(stock):
    assert layout_of(stock("fp8", kv_cache=True)).kv_cache == "fp8"


def test_an_unquantized_checkpoint_has_no_layout(tmp_path, stock):
    folder = shutil.copytree(stock("fp8"), tmp_path / "plain")
    (folder / QUANT_CONFIG).unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    assert read_layout(folder, config, {}) is None


def test_the_description_in_config_json_is_enough(tmp_path, stock):
    folder = shutil.copytree(stock("int4_awq"), tmp_path / "bare")
    (folder / QUANT_CONFIG).unlink()
    assert layout_of(folder).linears["model.layers.0.mlp.up_proj"].block_size == 128
    wrong = {"quantization_config": {"quant_algo": "W4A16_AWQ", "group_size": 64}}
    with pytest.raises(QuantizedTensorMismatchError, match=r"weight_scale' of .* must be F32 \[128, 4\] .* \[128, 2\]"):
        read_layout(folder, wrong, index_tensors(read_headers(folder)))


def test_mixed_precision_names_each_layer(broken):
    entries = {name: {"quant_algo": "FP8"} for name in MODULES}
    folder = broken(lambda quantization: quantization.update(quant_algo="MIXED_PRECISION", quantized_layers=entries))
    assert set(layout_of(folder).linears.values()) == {FP8}
    entries.pop("model.layers.1.mlp.up_proj")
    (folder / QUANT_CONFIG).write_text(
        json.dumps({"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": entries}})
    )
    with pytest.raises(MalformedQuantizationError, match=r"no entry for 'model\.layers\.1\.mlp\.up_proj'"):
        layout_of(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quant_algo": "W4A8_AWQ"}, "quant_algo W4A8_AWQ"),
        ({"kv_cache_quant_algo": "NVFP4"}, "kv_cache_quant_algo 'NVFP4'"),
        ({"kv_cache_quant_algo": ["FP8"]}, r"kv_cache_quant_algo \['FP8'\]"),
    ],
)
def test_what_can_not_be_represented_is_named(broken, change, named):
    with pytest.raises(UnsupportedQuantizationError, match=named):
        layout_of(broken(lambda quantization: quantization.update(change)))


UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(("change", "named"), [
    ({"quant_algo": "NVFP4"}, "quant_algo is 'NVFP4' in hf_quant_config.json and 'FP8' in config.json"),
    ({"kv_cache_quant_algo": "FP8"}, "kv_cache_quant_algo is 'FP8' in hf_quant_config.json and None in config.json"),
])  # fmt: skip
def test_two_descriptions_that_differ_are_refused(broken, change, named):
    with pytest.raises(ContradictoryQuantizationError, match=named):
        layout_of(broken(lambda quantization: quantization.update(change), keep=True))


@pytest.mark.parametrize(("change", "named"), [
    ({"exclude_modules": ["lm_head", "model.layers.0.mlp*"]}, r"exclude_modules leaves 'model\.layers\.0\.mlp\."),
    ({"kv_cache_quant_algo": "FP8"}, "kv_cache_quant_algo is 'FP8', and no layer has k_scale and v_scale"),
    ({"quant_algo": "MIXED_PRECISION", "quantized_layers": {"lm_head": {"quant_algo": "FP8"}}},
     "quantized_layers names 'lm_head', which has no weight_scale"),
])  # fmt: skip
def test_a_description_that_the_tensors_contradict_is_refused(broken, change, named):
    with pytest.raises(ContradictoryQuantizationError, match=named):
        layout_of(broken(lambda quantization: quantization.update(change)))


def test_the_same_cache_in_both_descriptions_is_taken(broken):
    assert layout_of(broken(lambda _quantization: None, keep=True, kv_cache=True)).kv_cache == "fp8"


def test_the_cache_of_config_json_alone_is_taken(stock, tmp_path):
    folder = shutil.copytree(stock("fp8", kv_cache=True), tmp_path / "bare")
    (folder / QUANT_CONFIG).unlink()
    assert layout_of(folder).kv_cache == "fp8"


def test_narrow_weights_without_scales_are_refused(stock):
    names = index_tensors(read_headers(stock("fp8")))
    scales = [name for name in names if name.endswith("weight_scale")]
    with pytest.raises(ContradictoryQuantizationError, match=rf"'{UP}\.weight' is of type F8_E4M3, and has no"):
        layout_of(stock("fp8"), without=(f"{UP}.weight_scale",))
    with pytest.raises(ContradictoryQuantizationError, match="quant_algo is 'FP8', and no layer has a weight_scale"):
        layout_of(stock("fp8"), without=scales)


def test_another_description_beside_modelopts_is_refused(stock):
    config = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    with pytest.raises(ContradictoryQuantizationError, match=r"quant_method is 'awq' in config\.json, and there is"):
        read_layout(stock("fp8"), config, index_tensors(read_headers(stock("fp8"))))


@pytest.mark.parametrize(("change", "named"), [
    ({"quant_algo": "MIXED_PRECISION", "quantized_layers": sorted(MODULES)}, "'quantized_layers' must hold settings"),
    ({"quant_algo": "MIXED_PRECISION", "quantized_layers": dict.fromkeys(MODULES, "FP8")}, "has no entry for"),
    ({"quant_algo": "NVFP4", "group_size": "16"}, "'group_size' must be a positive number and is '16'"),
])  # fmt: skip
def test_descriptions_of_wrong_types_are_named(broken, change, named):
    with pytest.raises(MalformedQuantizationError, match=named):
        layout_of(broken(lambda quantization: quantization.update(change)))


@pytest.mark.parametrize("value", [[], "awq", [1]])
def test_a_config_whose_quantization_is_no_section_is_named(tmp_path, value):
    if not value:
        assert read_layout(tmp_path, {"quantization_config": value}, {}) is None
        return
    with pytest.raises(MalformedQuantizationError, match="'quantization_config' must hold settings"):
        read_layout(tmp_path, {"quantization_config": value}, {})


def test_another_tool_is_named(tmp_path):
    with pytest.raises(UnsupportedQuantizationError, match="can't represent: bitsandbytes"):
        read_layout(tmp_path, {"quantization_config": {"quant_method": "bitsandbytes"}}, {})


def test_a_missing_tensor_is_named(stock):
    with pytest.raises(QuantizedTensorMismatchError, match=r"'model\.layers\.0\.mlp\.up_proj\.input_scale' .* nothing"):
        layout_of(stock("fp8"), without=("model.layers.0.mlp.up_proj.input_scale",))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_dimensions_come_back_from_what_is_stored(form):
    assert form.dimensions(form.tensors(64, 256)["weight"][1]) == (64, 256)
