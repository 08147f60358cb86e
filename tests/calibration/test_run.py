"""Checkpoints as ModelOpt writes them: equal to its own export, bit for bit, where only largest values matter."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.events import Reporter
from edgellm_core.quantization.formats import FP8, INT4, MXFP8, NVFP4
from edgellm_core.quantization.layout import read_layout
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.calibration.conftest import LLAMA, read_tensors
from tests.stock_modelopt import CONFIGS, export_stock


def bits(tensor):
    """Return the bytes of a tensor, since floats of 8 bits can't be compared."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.fixture(scope="module", params=["fp8", "nvfp4", "mxfp8"])
def stock(request, llama, ids, tmp_path_factory):
    """Return a scheme, and what ModelOpt's own quantize and export write for the same checkpoint and samples."""
    scheme = request.param
    folder = tmp_path_factory.mktemp("stock")
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    export_stock(folder, scheme, model=model)
    return scheme, folder


def test_tensors_equal_those_of_stock_modelopt(stock, llama, ids, quantized):
    scheme, theirs = stock
    folder, ours, _notes = quantized(llama, ids, scheme, rounding="nearest")
    expected = read_tensors(theirs)
    assert set(ours) == set(expected)
    for name, tensor in ours.items():
        if name.endswith(("_proj.weight", "scale", "scale_2")):
            assert tensor.dtype == expected[name].dtype
            assert torch.equal(bits(tensor), bits(expected[name])), name
        else:
            assert torch.equal(tensor.float(), expected[name].float()), name
    described = [json.loads((place / "hf_quant_config.json").read_text()) for place in (folder, theirs)]
    assert described[0] == described[1]
    configs = [json.loads((place / "config.json").read_text())["quantization_config"] for place in (folder, theirs)]
    assert configs[0] == configs[1]


def test_compensated_weights_lose_less_of_the_outputs(llama, ids, quantized):
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    inputs = []
    up_proj = model.model.layers[0].mlp.up_proj
    with torch.no_grad(), up_proj.register_forward_pre_hook(lambda _module, args: inputs.append(args[0])):
        model(ids)
    lost = {}
    for rounding in ("nearest", "compensated"):
        _folder, tensors, _notes = quantized(llama, ids, "fp8", rounding=rounding, work=rounding)
        name = "model.layers.0.mlp.up_proj"
        weight = tensors[f"{name}.weight"].float() * tensors[f"{name}.weight_scale"]
        lost[rounding] = float((inputs[0] @ (weight - up_proj.weight.detach()).T).square().sum())
    assert lost["compensated"] < 0.8 * lost["nearest"]


def layout_of(folder):
    """Return the layout of a quantized checkpoint."""
    checkpoint = open_checkpoint(str(folder), registry=ModelRegistry.load(), report=Reporter("test"))
    return read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors)


@pytest.mark.parametrize(("scheme", "form"), [("fp8", FP8), ("nvfp4", NVFP4), ("mxfp8", MXFP8)])
def test_a_quantized_checkpoint_opens_with_its_layout(llama, ids, quantized, scheme, form):
    folder, _tensors, _notes = quantized(llama, ids, scheme)
    layout = layout_of(folder)
    assert len(layout.linears) == 14
    assert set(layout.linears.values()) == {form}
    assert layout.producer.startswith("modelopt 0.")


def test_no_global_of_modelopt_changes(llama, ids, quantized):
    import modelopt.torch.quantization as mtq

    before = {name: copy.deepcopy(getattr(mtq, name)) for name in CONFIGS.values()}
    quantized(llama, ids, "fp8", skip=("*.0.*",))
    assert {name: getattr(mtq, name) for name in CONFIGS.values()} == before


def test_scales_of_keys_and_values_equal_those_of_stock_modelopt(llama, ids, quantized, tmp_path):
    folder, ours, _notes = quantized(llama, ids, "fp8", kv_cache="fp8")
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    export_stock(tmp_path / "stock", "fp8", model=model, kv_cache=True)
    expected = read_tensors(tmp_path / "stock")
    names = [name for name in expected if name.endswith(("k_scale", "v_scale"))]
    assert len(names) == 4
    assert set(ours) == set(expected)
    assert all(torch.equal(ours[name], expected[name].reshape(())) for name in names)
    described = [json.loads((place / "hf_quant_config.json").read_text()) for place in (folder, tmp_path / "stock")]
    assert described[0] == described[1]
    assert layout_of(folder).kv_cache == "fp8"


@pytest.mark.parametrize("tied", [False, True], ids=["own-head", "tied-head"])
def test_the_head_is_quantized_apart_and_the_embedding_stays(opened, ids, quantized, tmp_path, tied):
    source = write_tiny_checkpoint(tmp_path / "source", {**LLAMA, "tie_word_embeddings": tied}, dtype="float16")
    folder, tensors, _notes = quantized(source, ids, "int4_awq", lm_head="fp8")
    layout = layout_of(folder)
    assert layout.linears["lm_head"] == FP8
    assert layout.linears["model.layers.0.mlp.up_proj"] == INT4
    original = read_tensors(source)
    embedding, head = original["model.embed_tokens.weight"], original.get("lm_head.weight")
    assert torch.equal(tensors["model.embed_tokens.weight"], embedding)
    weight = (embedding if tied else head).float()
    back = tensors["lm_head.weight"].float() * tensors["lm_head.weight_scale"]
    assert torch.allclose(back, weight, rtol=2**-4, atol=float(weight.abs().max()) / 448 / 512)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        entering = model.model(ids).last_hidden_state.abs().max()
    assert float(tensors["lm_head.input_scale"]) == pytest.approx(float(entering) / 448, rel=1e-5)


@pytest.mark.parametrize("scheme", ["int4_awq", "nvfp4"])
def test_skipped_layers_stay_in_floats_and_are_named(llama, ids, quantized, scheme):
    folder, tensors, notes = quantized(llama, ids, scheme, skip=("*.layers.0.*", "*.k_proj"))
    layout = layout_of(folder)
    assert {name.split(".")[2] for name in layout.linears} == {"1"}
    assert "model.layers.1.self_attn.k_proj" not in layout.linears
    assert len(layout.linears) == 6
    original = read_tensors(llama)
    assert torch.equal(tensors["model.layers.0.mlp.up_proj.weight"], original["model.layers.0.mlp.up_proj.weight"])
    excluded = json.loads((folder / "hf_quant_config.json").read_text())["quantization"]["exclude_modules"]
    assert {"model.layers.0*", "model.layers.1.self_attn.k_proj"} <= set(excluded)
    assert any("--skip *.layers.0.*" in note for note in notes)


def test_mixed_forms_are_described_layer_by_layer(llama, ids, quantized):
    folder, _tensors, _notes = quantized(llama, ids, "int4_awq", group_size=64, lm_head="nvfp4")
    described = json.loads((folder / "hf_quant_config.json").read_text())["quantization"]
    assert described["quant_algo"] == "MIXED_PRECISION"
    assert described["quantized_layers"]["lm_head"] == {"quant_algo": "NVFP4", "group_size": 16}
    assert described["quantized_layers"]["model.layers.1.mlp.up_proj"]["group_size"] == 64


def test_no_form_needs_padding_and_every_position_counts(llama, ids, quantized):
    """The range of an input is that of all tokens of all samples, and of nothing else."""
    once = quantized(llama, ids, "fp8")[1]
    scales = [name for name in once if name.endswith("input_scale")]
    assert len(scales) == 14
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    seen = {}

    def see(name):
        def hook(_module, args):
            seen[name] = args[0].abs().max()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(see(name))
    with torch.no_grad():
        model(ids)
    for name in scales:
        assert torch.equal(once[name], seen[name.removesuffix(".input_scale")] / 448), name
