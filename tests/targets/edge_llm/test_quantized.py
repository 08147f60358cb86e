"""Checkpoints that ModelOpt quantized, with their linear layers in Q/DQ form around the plugin."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgellm_core
from edgellm_core.bundle import load_bundle
from edgellm_core.quantization.errors import QuantizedTensorMismatchError
from edgellm_core.runtime.errors import CacheTypeError
from edgellm_core.runtime.text import TextGenerator
from edgellm_core.verification.errors import ScaleValueError, VerificationFailedError
from tests.stock_modelopt import export_stock, tiny_llama
from tests.targets.edge_llm.conftest import Built


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Function from a scheme to a checkpoint with tokenizer and template that ModelOpt wrote, made once."""
    from edgellm_core.testing.checkpoints import write_tokenizer

    made = {}

    def make(scheme, *, kv_cache=False):
        if (scheme, kv_cache) not in made:
            folder = tmp_path_factory.mktemp("stock") / scheme
            model = tiny_llama()
            export_stock(folder, scheme, model=model, kv_cache=kv_cache)
            write_tokenizer(folder, vocab_size=model.config.vocab_size)
            made[scheme, kv_cache] = folder
        return made[scheme, kv_cache]

    return make


def _build(checkpoint, out):
    return edgellm_core.build(checkpoint, out, target="edge-llm", engine="none")


@pytest.mark.parametrize(
    ("scheme", "operator"),
    [
        ("fp8", "QuantizeLinear"),
        ("int8_sq", "QuantizeLinear"),
        ("nvfp4", "TRT_FP4DynamicQuantize"),
        ("mxfp8", "TRT_MXFP8DynamicQuantize"),
        ("int4_awq", "Int4GroupwiseGemmPluginV2"),
    ],
)
def test_right_by_proof(stock, tmp_path, scheme, operator):
    bundle = _build(stock(scheme), tmp_path / "out")
    assert bundle.manifest.verification.status == "passed"
    assert bundle.manifest.verification.max_rel_err < 1e-4
    nodes = onnx.load(str(bundle.model_path), load_external_data=False).graph.node
    rounded = [node for node in nodes if node.op_type == operator]
    plugins = [node for node in nodes if node.op_type == "AttentionPlugin"]
    assert len(rounded) == 7 * len(plugins)
    made = {name: node for node in nodes for name in node.output}
    joined = "QkvConcatPlugin" if scheme == "int4_awq" else "Concat"
    assert all(_maker(node.input[0], made).op_type == joined for node in plugins)


def _maker(name, made):
    node = made[name]
    return _maker(node.input[0], made) if node.op_type == "Squeeze" else node


@pytest.fixture(scope="module")
def cached(stock, tmp_path_factory):
    """A bundle with a KV cache in fp8, and its checkpoint."""
    checkpoint = stock("int4_awq", kv_cache=True)
    return Built(checkpoint, _build(checkpoint, tmp_path_factory.mktemp("cached") / "out"))


def _scales(checkpoint):
    """Return ``qkv_scales`` of each layer as the checkpoint has them."""
    tensors = load_file(checkpoint / "model.safetensors")
    names = [[f"model.layers.{layer}.self_attn.{kind}_proj.{kind}_scale" for kind in "kv"] for layer in range(2)]
    return [[1.0, *(tensors[name].item() for name in of_layer)] for of_layer in names]


def test_a_cache_in_fp8_is_right_by_proof(cached):
    verification = cached.bundle.manifest.verification
    assert verification.status == "passed"
    assert verification.max_rel_err < 1e-4
    assert "keys and values rounded to fp8" in verification.reference
    assert [one["enable_fp8_kv_cache"] for one in cached.plugins] == [1, 1]
    assert [one["qkv_scales"] for one in cached.plugins] == _scales(cached.checkpoint)
    values = [*cached.model.graph.input, *cached.model.graph.output]
    pools = {value.name: value.type.tensor_type.elem_type for value in values if "key_values" in value.name}
    assert len(pools) == 4
    assert set(pools.values()) == {onnx.TensorProto.FLOAT8E4M3FN}
    assert json.loads((cached.bundle.llm / "config.json").read_text(encoding="utf-8"))["kv_cache_dtype"] == "fp8"
    assert len(TextGenerator(load_bundle(cached.bundle.directory)).generate("some words", max_new_tokens=3).tokens) == 3


def test_keys_whose_neighbours_turn_are_compared_in_their_own_order(edge_llm, tmp_path):
    settings = {"calib_data": "builtin", "calib_samples": 4, "calib_length": 32}
    quantized = tmp_path / "fp8"
    edgellm_core.quantize(edge_llm("glm4").checkpoint, quantized, precision="fp8", kv_cache="fp8", **settings)
    built = Built(quantized, _build(quantized, tmp_path / "out"))
    assert built.bundle.manifest.verification.max_rel_err < 5e-6
    assert [one["enable_fp8_kv_cache"] for one in built.plugins] == [1] * len(built.plugins)


def test_a_scale_of_the_queries_is_taken_where_there_is_one(stock, tmp_path):
    folder = shutil.copytree(stock("int4_awq", kv_cache=True), tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    names = [f"model.layers.{layer}.self_attn.q_proj.q_scale" for layer in range(2)]
    measured = dict(zip(names, (torch.tensor([0.0125]), torch.tensor([0.03])), strict=True))
    save_file({**tensors, **measured}, folder / "model.safetensors", metadata={"format": "pt"})
    built = Built(folder, _build(folder, tmp_path / "out"))
    wanted = [[measured[name].item(), *scales[1:]] for name, scales in zip(names, _scales(folder), strict=True)]
    assert [one["qkv_scales"] for one in built.plugins] == wanted
    assert edgellm_core.build(folder, tmp_path / "onnx", engine="none").manifest.verification.status == "passed"


@pytest.mark.parametrize("factors", [(1, 1.05, 1), (1, 1, 1.05), (1, 0.5, 1)], ids=str)
def test_a_wrong_scale_of_the_cache_is_caught(cached, verify_copy, factors):
    def damage(llm):
        model = onnx.load(str(llm / "model.onnx"), load_external_data=False)
        node = [node for node in model.graph.node if node.op_type == "AttentionPlugin"][1]
        scales = next(item for item in node.attribute if item.name == "qkv_scales").floats
        scales[:] = [scale * factor for scale, factor in zip(scales, factors, strict=True)]
        (llm / "model.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(VerificationFailedError, match="decoder layer 1"):
        verify_copy(cached, damage)


def test_a_config_that_states_another_cache_is_caught(cached, verify_copy):
    def damage(llm):
        text = (llm / "config.json").read_text(encoding="utf-8")
        (llm / "config.json").write_text(text.replace('"kv_cache_dtype": "fp8"', '"kv_cache_dtype": "fp16"'))

    with pytest.raises(CacheTypeError, match="must name the type of its KV cache, fp8; it says 'fp16'"):
        verify_copy(cached, damage)


@pytest.mark.parametrize(
    ("value", "error", "reason"),
    [
        (torch.tensor(0.0), ScaleValueError, "v_scale' of .* has the value 0"),
        (torch.tensor(torch.inf), ScaleValueError, "v_scale' of .* has the value inf"),
        (torch.ones(2), QuantizedTensorMismatchError, "must be one number in F32, F16 or BF16"),
    ],
    ids=["zero", "infinite", "two"],
)
def test_a_scale_that_is_none_is_refused(stock, tmp_path, value, error, reason):
    name = "model.layers.1.self_attn.v_proj.v_scale"
    folder = shutil.copytree(stock("int4_awq", kv_cache=True), tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, name: value}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(error, match=reason):
        _build(folder, tmp_path / "out")
