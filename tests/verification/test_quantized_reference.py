"""The original of a quantized checkpoint computes what ModelOpt's own modules compute."""

from __future__ import annotations

import dataclasses
import json
import shutil

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from edgellm_core.checkpoint.json_files import read_config
from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.quantization.layout import read_layout
from edgellm_core.targets.edge_llm import EdgeLlmTarget
from edgellm_core.verification.errors import ReferenceLoadError, ScaleRangeError
from edgellm_core.verification.original import open_original
from edgellm_core.verification.parts import Part
from edgellm_core.verification.quantized_weights import StoredTensors
from edgellm_core.verification.subject import Subject
from tests.stock_modelopt import describe, export_with_twin, tiny_llama

IDS = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(5))


def subject_of(folder, **changes):
    """Return what the gate knows of a checkpoint, with a float32 graph that has nothing but an output."""
    config = read_config(folder)
    tensors = index_tensors(read_headers(folder))
    layout = read_layout(folder, config, tensors)
    settings = {key: value for key, value in config.items() if key not in ("model_type", "quantization_config")}
    made = AutoConfig.for_model(config["model_type"], **settings)
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [logits]))
    subject = Subject(
        graph=graph, folder=folder, directory=folder, config=made, precision="fp8", tensors=tensors, layout=layout
    )
    return dataclasses.replace(subject, **changes)


def load(subject):
    """Return the original with all weights in memory."""
    original = open_original(subject)
    original.weights.load(Part(-1, original.weights.depth + 1))
    return original


def logits_of(model, make_cache=None):
    with torch.inference_mode():
        return model(IDS, past_key_values=make_cache() if make_cache else None).logits


def logits_of_original(subject):
    original = load(subject)
    return logits_of(original.weights.model, original.make_cache)


def difference(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def typical_difference(found, wanted):
    """Return the median over positions: a tie that falls the other way changes a few of them."""
    return ((found - wanted).abs().amax(-1).median() / wanted.abs().max()).item()


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Function from scheme and options to a checkpoint of ModelOpt and the same model, fake-quantized."""
    made = {}

    def checkpoint(scheme, *, kv_cache=False):
        if (scheme, kv_cache) not in made:
            folder = tmp_path_factory.mktemp(scheme)
            model = export_with_twin(folder, scheme, model=tiny_llama().half().float(), kv_cache=kv_cache)
            made[scheme, kv_cache] = folder, model
        return made[scheme, kv_cache]

    return checkpoint


@pytest.fixture
def copied(stock, tmp_path):
    """Function from a scheme and a change of the tensors to a changed copy of the checkpoint."""

    def copy(scheme, change, **options):
        folder = shutil.copytree(stock(scheme, **options)[0], tmp_path / "copy")
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return copy


@pytest.mark.parametrize(
    ("scheme", "kv_cache"),
    [("fp8", False), ("fp8", True), ("int8_sq", False), ("int4_awq", False)],
    ids=["fp8", "fp8-kv", "int8_sq", "int4_awq"],
)
def test_it_computes_what_modelopt_computes(stock, scheme, kv_cache):
    folder, twin = stock(scheme, kv_cache=kv_cache)
    wanted = logits_of(twin)
    found = logits_of_original(subject_of(folder))
    assert typical_difference(found, wanted) < 1e-5  # int4_awq folds its factors into norms; the others 3e-7
    assert difference(found, wanted) < 5e-2
    assert typical_difference(found, logits_of(tiny_llama())) > 1e-2


def test_a_layer_that_is_not_quantized_stays_as_it_is(copied):
    def dequantize_one(weights):
        module = "model.layers.1.mlp.up_proj"
        scale = weights.pop(f"{module}.weight_scale").float()
        weights[f"{module}.weight"] = (weights[f"{module}.weight"].float() * scale).half()
        del weights[f"{module}.input_scale"]

    subject = subject_of(copied("fp8", dequantize_one))
    assert len(subject.layout.linears) == 13
    model = load(subject).weights.model
    hooked = {name for name, module in model.named_modules() if module._forward_pre_hooks}
    assert hooked == set(subject.layout.linears)
    stored = load_file(subject.directory / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(model.get_submodule("model.layers.1.mlp.up_proj").weight, stored.float())


def test_a_quantized_head_leaves_the_embedding_that_it_was_tied_to(stock, tmp_path):
    folder = tmp_path / "tied"
    weights = load_file(shutil.copytree(stock("int8_sq")[0], folder) / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"].float()
    scale = embedding.abs().amax(1) / 127
    weights["lm_head.weight"] = (embedding / scale[:, None]).round().to(torch.int8)
    weights |= {"lm_head.weight_scale": scale, "lm_head.input_scale": torch.tensor(0.03)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    describe(folder, quant_algo="W8A8_SQ_PER_CHANNEL")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = load(subject_of(folder)).weights.model
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert torch.equal(model.lm_head.weight, (embedding / scale[:, None]).round() * scale[:, None])
    assert model.lm_head._forward_pre_hooks


def test_only_the_layer_that_is_loaded_is_read(stock, monkeypatch):
    original = open_original(subject_of(stock("fp8", kv_cache=True)[0]))
    read = []
    stored = StoredTensors.read
    monkeypatch.setattr(StoredTensors, "read", lambda self, name: read.append(name) or stored(self, name))
    original.weights.load(Part(0, 1))
    assert read
    assert all(name.startswith("model.layers.0.") for name in read)


def test_a_missing_scale_of_the_cache_is_named(copied):
    folder = copied("fp8", lambda weights: weights.pop("model.layers.1.self_attn.v_proj.v_scale"), kv_cache=True)
    with pytest.raises(ReferenceLoadError, match="missing v_scale of decoder layer 1"):
        load(subject_of(folder))


def test_the_scale_of_the_cache_counts(copied, stock):
    def change(weights):
        weights["model.layers.0.self_attn.k_proj.k_scale"] *= 100

    wanted = logits_of_original(subject_of(stock("fp8", kv_cache=True)[0]))
    found = logits_of_original(subject_of(copied("fp8", change, kv_cache=True)))
    assert difference(found, wanted) > 1e-4


def test_weights_and_scales_are_rounded_to_the_type_of_the_graph(stock):
    folder, _ = stock("fp8")
    subject = subject_of(folder)
    subject.graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    model = load(subject).weights.model
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    scale = stored[f"{name}.weight_scale"].bfloat16().float()
    assert torch.equal(model.get_submodule(name).weight, stored[f"{name}.weight"].float() * scale)
    assert torch.equal(model.model.norm.weight, stored["model.norm.weight"].bfloat16().float())


@pytest.mark.parametrize("suffix", ["weight_scale", "input_scale"])
def test_a_scale_that_float16_does_not_hold_is_refused(copied, suffix):
    name = f"model.layers.1.mlp.up_proj.{suffix}"
    subject = subject_of(copied("fp8", lambda weights: weights[name].fill_(1.52e-6)))
    load(subject)
    subject.graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(ScaleRangeError, match=rf"'{name}' changes what it scales by 0\.0"):
        load(subject)


def test_a_scale_of_the_cache_that_float16_does_not_hold(copied):
    name = "model.layers.1.self_attn.k_proj.k_scale"
    folder = copied("fp8", lambda weights: weights[name].fill_(1.52e-6), kv_cache=True)
    subject = subject_of(folder)
    subject.graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(ScaleRangeError, match=name):
        load(subject)
    load(dataclasses.replace(subject, target=EdgeLlmTarget()))


def test_small_scales_of_small_weights_are_let_through(copied):
    def shrink(weights):
        weights["model.layers.1.mlp.up_proj.weight_scale"][3] = 1.52e-6

    subject = subject_of(copied("int8_sq", shrink))
    subject.graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    load(subject)
