"""Checkpoints that ModelOpt quantized, built into graphs and engines, against ModelOpt's own modules."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.engine.backend import BACKENDS
from edgellm_core.engine.builder import build_engine
from edgellm_core.engine.errors import EngineBuildError, TooOldGpuError
from edgellm_core.engine.profiles import ProfileLimits
from edgellm_core.errors import NoFormError
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.build import build
from edgellm_core.quantization.errors import NotInGraphError
from edgellm_core.registry import ModelRegistry
from edgellm_core.runtime.session import DecoderSession
from edgellm_core.testing.lowering import random_model, transformers_config
from edgellm_core.testing.plugin_files import write_plugin
from edgellm_core.weights.errors import ScaleNotPositiveError, UnexpectedTensorsError
from tests.stock_modelopt import describe, export_stock, export_with_twin, tiny_llama

pytestmark = pytest.mark.slow
SCHEMES = ("fp8", "int8_sq", "int4_awq", "nvfp4", "mxfp8")
LINEARS = 14
"""Two layers of seven."""

IDS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """Function from scheme and options to ModelOpt's checkpoint and the model that it fake-quantizes."""
    made = {}

    def checkpoint(scheme, **options):
        key = scheme, *options.items()
        if key not in made:
            folder = tmp_path_factory.mktemp(scheme)
            made[key] = folder, export_with_twin(folder, scheme, **options)
        return made[key]

    return checkpoint


@pytest.fixture(scope="session")
def built(stock, quick, tmp_path_factory):
    """Function from scheme, precision and options to a published bundle."""
    made = {}

    def bundle(scheme, precision="fp32", **options):
        key = scheme, precision, *options.items()
        if key not in made:
            folder, _twin = stock(scheme, **options)
            out = tmp_path_factory.mktemp("bundles") / "out"
            made[key] = build(str(folder), out, quick(verify="off", precision=precision))
        return made[key]

    return bundle


@pytest.fixture
def copied(stock, tmp_path):
    """Function that copies a checkpoint and changes its tensors."""

    def copy(scheme, change=lambda _tensors: None, **options):
        folder = shutil.copytree(stock(scheme, **options)[0], tmp_path / "copy")
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return copy


def in_steps(path, steps=(12, 13, 20)):
    """Return the logits of ``IDS`` in several calls over the cache."""
    session, found, start = DecoderSession(path), [], 0
    states, ids = session.initial_states(len(IDS)), IDS.numpy()
    for stop in steps:
        positions = np.broadcast_to(np.arange(start, stop), (len(IDS), stop - start))
        logits, states = session.run(ids[:, start:stop], np.ones((len(IDS), stop)), positions, states)
        found.append(logits)
        start = stop
    return np.concatenate(found, axis=1)


def relative_error(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def graph_of(bundle):
    return onnx.load(bundle.model_path, load_external_data=True).graph


@pytest.mark.parametrize(
    ("scheme", "options"),
    [("fp8", {}), ("fp8", {"kv_cache": True}), ("int8_sq", {}), ("int4_awq", {})],
    ids=["fp8", "fp8-fp8kv", "int8_sq", "int4_awq"],
)
def test_the_graph_computes_what_modelopts_modules_compute(stock, built, scheme, options):
    _folder, twin = stock(scheme, **options)
    with torch.inference_mode():
        wanted = twin(IDS).logits.numpy()
        plain = tiny_llama()(IDS).logits.numpy()
    assert relative_error(wanted, plain) > 0.05  # so that an unquantized graph would fail
    assert relative_error(in_steps(built(scheme, **options).model_path), wanted) < 2e-6


def test_weight_only_graphs_in_float16_stay_near(stock, built):
    _folder, twin = stock("int4_awq")
    with torch.inference_mode():
        wanted = twin(IDS).logits.numpy()
    assert relative_error(in_steps(built("int4_awq", "fp16").model_path), wanted) < 4e-3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_quantized_layer_is_counted(built, scheme):
    counts = {record.rule: record for record in built(scheme).manifest.surgery}
    rule = counts["QuantizedLinearToMatMul"]
    assert (rule.expected, rule.applied) == (LINEARS, LINEARS)
    assert (counts["LinearToMatMul"].expected, counts["LinearToMatMul"].applied) == ((1, None), 1)  # lm_head


@pytest.mark.parametrize("precision", ["fp16", "fp32", "bf16"])
@pytest.mark.parametrize(("scheme", "wanted"), [
    ("fp8", {"QuantizeLinear": LINEARS, "DequantizeLinear": 2 * LINEARS}),
    ("int8_sq", {"QuantizeLinear": LINEARS, "DequantizeLinear": 2 * LINEARS}),
    ("int4_awq", {"DequantizeLinear": LINEARS}),
    ("nvfp4", {"TRT_FP4DynamicQuantize": LINEARS, "DequantizeLinear": 4 * LINEARS}),
    ("mxfp8", {"TRT_MXFP8DynamicQuantize": LINEARS, "TRT_MXFP8DequantizeLinear": 2 * LINEARS}),
])  # fmt: skip
def test_quantized_graphs_have_the_operators_of_their_form(built, scheme, wanted, precision):
    graph = graph_of(built(scheme, precision))
    operators = [node.op_type for node in graph.node if "Quantize" in node.op_type or "Dequantize" in node.op_type]
    assert {name: operators.count(name) for name in operators} == wanted
    onnx_type = {"fp16": 10, "fp32": 1, "bf16": 16}[precision]
    scales = {t.data_type for t in graph.initializer if t.name.endswith((".weight_scale", ".input_scale"))}
    own = {"nvfp4": {17, 1}, "mxfp8": {2}}  # FLOAT8E4M3FN under float32; UINT8
    assert scales == own.get(scheme, {onnx_type})


def test_nvfp4_weights_are_those_of_modelopt(stock, built):
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    tensors = {tensor.name: tensor for tensor in graph_of(built("nvfp4")).initializer}
    stored = load_file(stock("nvfp4")[0] / "model.safetensors")
    for module in ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.k_proj"):
        packed = stored[f"{module}.weight"]
        shape = torch.Size((packed.shape[0], 2 * packed.shape[1]))
        wanted = NVFP4QTensor(shape, torch.float32, packed).dequantize(
            scale=stored[f"{module}.weight_scale"], double_scale=stored[f"{module}.weight_scale_2"],
            block_sizes={-1: 16},
        )  # fmt: skip
        weight, scale, second = (
            onnx.numpy_helper.to_array(tensors[f"{module}.{suffix}"]).astype(np.float32)
            for suffix in ("weight", "weight_scale", "weight_scale_2")
        )
        assert tensors[f"{module}.weight"].data_type == onnx.TensorProto.FLOAT4E2M1
        np.testing.assert_array_equal(weight * np.repeat(scale * second, 16, axis=1), wanted.numpy())


def test_mxfp8_weights_are_those_of_modelopt(stock, built):
    from modelopt.torch.quantization.qtensor import MXFP8QTensor

    tensors = {tensor.name: tensor for tensor in graph_of(built("mxfp8")).initializer}
    stored = load_file(stock("mxfp8")[0] / "model.safetensors")
    module = "model.layers.0.mlp.down_proj"
    packed = stored[f"{module}.weight"]
    wanted = MXFP8QTensor(packed.shape, torch.float32, packed).dequantize(scale=stored[f"{module}.weight_scale"])
    weight, scale = (onnx.numpy_helper.to_array(tensors[f"{module}.{s}"]) for s in ("weight", "weight_scale"))
    found = weight.astype(np.float32) * np.repeat(2.0 ** (scale.astype(np.float32) - 127), 32, axis=1)
    np.testing.assert_array_equal(found, wanted.numpy())


@pytest.mark.parametrize(("scheme", "options", "compute_capability"), [
    ("fp8", {}, 89), ("fp8", {"kv_cache": True}, 89), ("int8_sq", {}, 86), ("int4_awq", {}, 86),
    ("nvfp4", {}, 120), ("mxfp8", {}, 120),
])  # fmt: skip
def test_engines_of_every_scheme_are_built(built, tmp_path, scheme, options, compute_capability):
    record = engine_of(built(scheme, "fp16", **options), tmp_path, compute_capability)
    assert record.compute_capability == compute_capability
    assert record.bytes > 100_000


def test_a_gpu_without_the_type_is_refused_with_the_builders_reason(built, tmp_path):
    with pytest.raises(EngineBuildError, match="fp8_e4m3"):
        engine_of(built("fp8", "fp16"), tmp_path, 86)


@pytest.mark.parametrize(("changes", "lacking"), [
    ({"source": "fp8", "compute_capability": 86}, "fp8 weights from SM 89, an fp8 KV cache from SM 89"),
    ({"precision": "nvfp4", "compute_capability": 89}, "nvfp4 from SM 100"),
    ({"precision": "int4_awq", "lm_head": "fp8", "compute_capability": 86}, "fp8 from SM 89"),
    ({"precision": "int8_sq", "kv_cache": "fp8", "compute_capability": 80}, "an fp8 KV cache from SM 89"),
])  # fmt: skip
def test_a_gpu_that_lacks_the_format_is_refused_at_once(stock, llama, tmp_path, quick, changes, lacking):
    changes = dict(changes)
    source = stock(changes.pop("source"), kv_cache=True)[0] if "source" in changes else llama
    events = []
    settings = quick(engine="tensorrt-rtx", **changes)
    with pytest.raises(TooOldGpuError, match=f"they lack {lacking}"):
        build(str(source), tmp_path / "out", settings, listener=events.append)
    assert {event.stage for event in events} == {"checkpoint"}


def test_the_manifest_says_what_is_quantized(built):
    manifest = built("fp8", "fp16", kv_cache=True).manifest
    assert (manifest.precision, manifest.compute_precision) == ("fp8", "fp16")
    assert manifest.quantization.linears == {"fp8": LINEARS}
    assert manifest.quantization.kv_cache == "fp8"
    assert manifest.quantization.producer.startswith("modelopt 0.")


def engine_of(bundle, folder, compute_capability):
    return build_engine(
        bundle.model_path, folder / "llm.engine", backend=BACKENDS["tensorrt-rtx"],
        compute_capability=compute_capability, report=Reporter("engine"),
        limits=ProfileLimits(max_batch_size=2, max_input_len=32, max_seq_len=64),
    )  # fmt: skip


def test_a_cache_in_fp8_takes_one_byte_a_number(built):
    graph = graph_of(built("fp8", kv_cache=True))
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.output)
        if value.name.startswith(("past_key_values", "present"))
    }
    assert len(types) == 8
    assert set(types.values()) == {onnx.TensorProto.FLOAT8E4M3FN}


def test_a_head_is_quantized_apart_from_the_embedding_that_it_is_tied_to(tmp_path, quick):
    twin = export_with_twin(tmp_path / "tied", "fp8", model=tiny_llama(tie_word_embeddings=True))
    path = tmp_path / "tied" / "model.safetensors"
    tensors = load_file(path)
    assert "lm_head.weight" not in tensors
    weight, scale, input_scale = tensors["model.embed_tokens.weight"], torch.tensor(2e-4), torch.tensor(0.01)
    tensors["lm_head.weight"] = (weight / scale).to(torch.float8_e4m3fn)
    tensors.update({"lm_head.weight_scale": scale, "lm_head.input_scale": input_scale})
    save_file(tensors, path, metadata={"format": "pt"})
    describe(tmp_path / "tied", quant_algo="FP8")
    bundle = build(str(tmp_path / "tied"), tmp_path / "out", quick(verify="off"))
    with torch.inference_mode():
        hidden = twin.model(IDS).last_hidden_state
        rounded = (hidden / input_scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * input_scale
        wanted = rounded @ (tensors["lm_head.weight"].float() * scale).T
    assert relative_error(in_steps(bundle.model_path), wanted.numpy()) < 2e-6
    types = {tensor.name: tensor.data_type for tensor in graph_of(bundle).initializer}
    assert types["model.embed_tokens.weight"] == onnx.TensorProto.FLOAT
    assert types["lm_head.weight"] == onnx.TensorProto.FLOAT8E4M3FN


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
def test_other_families_pass_the_gate(tmp_path, quick, family):
    """With biases (qwen2), and with a tied head, norms that add one and windows (gemma3_text)."""
    fields = PluginHost.load(()).select({"model_type": family}, forced=family, directory=None).family.tiny_config()
    model = random_model(transformers_config(fields))
    export_stock(tmp_path / "source", "fp8", model=model.half().float(), batches=2)
    bundle = build(str(tmp_path / "source"), tmp_path / "out", quick(verify="full"))
    assert bundle.manifest.verification.max_rel_err < 1e-5
    linears = [name for name, module in model.named_modules() if name != "lm_head" and is_linear(module)]
    assert bundle.manifest.quantization.linears == {"fp8": len(linears)}


def is_linear(module):
    return isinstance(module, torch.nn.Linear)


def test_layers_of_several_formats_and_of_none_in_one_graph(stock, copied, tmp_path, quick):
    """Layer 0 takes its MLP from the int4 checkpoint; layer 1 has no quantized attention."""
    of_int4 = load_file(stock("int4_awq")[0] / "model.safetensors")
    plain = dict(tiny_llama().named_parameters())

    def mix(tensors):
        for name in list(tensors):
            module = name.rpartition(".")[0]
            if ".0.mlp." in name or (".1.self_attn." in name and name.endswith("_scale")):
                del tensors[name]
            elif ".1.self_attn." in name:
                tensors[name] = plain[f"{module}.weight"].detach().clone()
        tensors.update({name: tensor for name, tensor in of_int4.items() if ".0.mlp." in name})

    folder = copied("fp8", mix)
    modules = {name.removesuffix(".weight_scale") for name in load_file(folder / "model.safetensors")
               if name.endswith(".weight_scale")}  # fmt: skip
    layers = {module: {"quant_algo": "W4A16_AWQ" if ".0.mlp." in module else "FP8"} for module in modules}
    describe(folder, quant_algo="MIXED_PRECISION", quantized_layers=layers)
    bundle = build(str(folder), tmp_path / "out", quick(verify="full"))
    assert bundle.manifest.precision == "mixed"
    assert bundle.manifest.quantization.linears == {"fp8": 7, "int4": 3}
    counts = {record.rule: record.applied for record in bundle.manifest.surgery}
    assert (counts["QuantizedLinearToMatMul"], counts["LinearToMatMul"]) == (10, 5)


def test_weight_only_nvfp4_leaves_the_inputs_alone(copied, tmp_path, quick):
    def drop(tensors):
        for name in [name for name in tensors if name.endswith(".input_scale")]:
            del tensors[name]

    folder = copied("nvfp4", drop)
    describe(folder, quant_algo="W4A16_NVFP4", group_size=16)
    bundle = build(str(folder), tmp_path / "out", quick(verify="full"))
    assert not any(node.domain for node in graph_of(bundle).node)
    assert engine_of(build(str(folder), tmp_path / "half", quick(verify="off", precision="fp16")), tmp_path, 120).bytes


def test_a_tensor_that_no_format_has_is_named(copied, tmp_path, quick):
    folder = copied("fp8", lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.surprise": torch.zeros(1)}))
    with pytest.raises(UnexpectedTensorsError, match=r"'model\.layers\.0\.mlp\.up_proj\.surprise'"):
        build(str(folder), tmp_path / "out", quick(verify="off"))


def test_a_layer_that_the_model_lacks_is_named(copied, tmp_path, quick):
    def add(tensors):
        for suffix in ("weight", "weight_scale", "input_scale"):
            tensors[f"model.layers.0.mlp.extra.{suffix}"] = tensors[f"model.layers.0.mlp.up_proj.{suffix}"].clone()

    with pytest.raises(NotInGraphError, match=r"layer\(s\) 'model\.layers\.0\.mlp\.extra' must be linear layers"):
        build(str(copied("fp8", add)), tmp_path / "out", quick(verify="off"))


def test_a_cache_without_a_scale_is_named(copied, tmp_path, quick):
    folder = copied("fp8", lambda tensors: tensors.pop("model.layers.1.self_attn.v_proj.v_scale"), kv_cache=True)
    with pytest.raises(NotInGraphError, match=r"cache\(s\) 'past_key_values\.1\.value' must be caches with a k_scale"):
        build(str(folder), tmp_path / "out", quick(verify="off"))


def test_a_scale_that_float16_takes_for_zero_is_named(copied, tmp_path, quick):
    folder = copied("fp8", lambda tensors: tensors["model.layers.0.mlp.up_proj.input_scale"].fill_(1e-9))
    with pytest.raises(ScaleNotPositiveError, match=r"up_proj\.input_scale' must be above 0 in F16, .* 1e-09.*fp32"):
        build(str(folder), tmp_path / "out", quick(verify="off", precision="fp16"))


def test_a_target_without_quantized_forms_says_so(stock, tmp_path, quick):
    source = """
class Plain(Target):
    name = "plain"

@hookimpl
def edgellm_register_targets():
    return [Plain]
"""
    write_plugin(tmp_path / "plugins", "plain", source)
    settings = quick(verify="off", target="plain", plugin_paths=(tmp_path / "plugins",))
    with pytest.raises(NoFormError, match=r"Target 'plain' has no form for an fp8 KV cache, fp8 weights"):
        build(str(stock("fp8", kv_cache=True)[0]), tmp_path / "out", settings)


def test_the_description_changes_the_fingerprint_and_keeps_the_trace(stock, tmp_path, quick):
    folder = shutil.copytree(stock("fp8")[0], tmp_path / "copy")
    build(str(folder), tmp_path / "one", quick(verify="off"))
    before = opened(folder).fingerprint()
    path = folder / "hf_quant_config.json"
    description = json.loads(path.read_text())
    description["producer"]["version"] = "0.0"
    path.write_text(json.dumps(description))
    assert opened(folder).fingerprint() != before
    events = []
    bundle = build(str(folder), tmp_path / "two", quick(verify="off"), listener=events.append)
    assert "The checkpoint is quantized: 14 layers fp8 (modelopt 0.0)." in [event.message for event in events]
    assert {stage.name: stage.cached for stage in bundle.manifest.stages}["trace"]


def opened(folder):
    return open_checkpoint(str(folder), registry=ModelRegistry.load(), report=Reporter("checkpoint"))
