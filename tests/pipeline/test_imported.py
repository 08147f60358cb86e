"""Checkpoints of AutoAWQ, GPTQ and compressed-tensors, against torch with their weights written out."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from edgellm_core.engine.errors import ZeroPointsError
from edgellm_core.pipeline.build import build
from edgellm_core.quantization.errors import (
    ContradictoryQuantizationError,
    QuantizedTensorMismatchError,
    UnsupportedQuantizationError,
)
from edgellm_core.runtime.session import DecoderSession
from tests.packed_checkpoints import awq_integers, plain_integers, random_layer, write_checkpoint
from tests.stock_modelopt import tiny_llama

IDS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(5))
GROUP = 32

AWQ = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP, "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True}
FOUR_BITS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}


def compressed(layout, weights, inputs=None, **settings):
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups, "ignore": ["lm_head"],
            "quantization_status": "compressed", "version": "0.12.2", **settings}  # fmt: skip


def linears(model):
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def written(folder, quantization, layer_tensors, *, order=None, symmetric=True, lowest_zero=0):
    """Write a checkpoint of random codes; return it and the model that holds the weights that they stand for.

    Args:
        folder: where it goes.
        quantization: ``quantization_config``.
        layer_tensors: ``(codes, zeros, scales, group of each input)`` → tensors by suffix.
        order: shuffles the groups of the inputs with this generator.
        symmetric: all zero points are 8.
        lowest_zero: smallest zero point otherwise.
    """
    model, rng = tiny_llama(), np.random.default_rng(0)
    tensors = {}
    for name, module in linears(model).items():
        outputs, inputs = module.weight.shape
        groups = inputs // GROUP
        codes, zeros, scales = random_layer(rng, outputs, inputs, groups, symmetric=symmetric, lowest_zero=lowest_zero)
        member = np.repeat(np.arange(groups), GROUP)
        if order is not None:
            member = order.permutation(member)
        weight = (codes - zeros[:, member]) * scales[:, member].astype(np.float64)
        module.weight.data = torch.from_numpy(weight).float()
        tensors.update({f"{name}.{suffix}": t for suffix, t in layer_tensors(codes, zeros, scales, member).items()})
    others = {name: p for name, p in model.named_parameters() if name.removesuffix(".weight") not in linears(model)}
    tensors.update({name: parameter.detach().numpy() for name, parameter in others.items()})
    return write_checkpoint(folder, model.config.to_dict(), tensors, quantization), model


def awq_tensors(codes, zeros, scales, _member):
    return {"qweight": awq_integers(codes.T), "qzeros": awq_integers(zeros.T), "scales": scales.T}


def gptq_tensors(codes, zeros, scales, member, offset=1):
    return {
        "qweight": plain_integers(codes).T,
        "qzeros": plain_integers(zeros.T - offset),
        "scales": scales.T,
        "g_idx": member.astype(np.int32),
    }


def packed_tensors(codes, zeros, scales, member):
    found = {
        "weight_packed": plain_integers(codes),
        "weight_scale": scales,
        "weight_shape": np.array(codes.shape, np.int64),
    }
    if (zeros != 8).any():
        found["weight_zero_point"] = plain_integers(zeros.T).T
    if (np.diff(member) < 0).any():
        found["weight_g_idx"] = member.astype(np.int32)
    return found


def error_of(bundle, model):
    session = DecoderSession(bundle.model_path)
    positions = np.broadcast_to(np.arange(IDS.shape[1]), IDS.shape)
    found, _states = session.run(IDS.numpy(), np.ones(IDS.shape), positions, session.initial_states(len(IDS)))
    with torch.inference_mode():
        wanted = model(IDS).logits.numpy()
    return np.abs(found - wanted).max() / np.abs(wanted).max()


CASES = {
    "awq": (AWQ, awq_tensors, {"symmetric": False}, "UINT4"),
    "awq-symmetric": (AWQ, awq_tensors, {}, "INT4"),
    "gptq": (GPTQ, gptq_tensors, {}, "INT4"),
    "gptq-asymmetric": (GPTQ | {"sym": False}, gptq_tensors, {"symmetric": False, "lowest_zero": 1}, "UINT4"),
    "gptq-act-order": (GPTQ | {"desc_act": True}, gptq_tensors, {"order": 1}, "INT4"),
    "gptq-act-order-asymmetric": (
        GPTQ | {"sym": False}, gptq_tensors, {"order": 2, "symmetric": False, "lowest_zero": 1}, "UINT4"
    ),
    "gptq_v2": (
        GPTQ | {"checkpoint_format": "gptq_v2", "sym": False}, lambda *layer: gptq_tensors(*layer, offset=0),
        {"symmetric": False}, "UINT4",
    ),
    "compressed-tensors": (compressed("pack-quantized", FOUR_BITS), packed_tensors, {}, "INT4"),
    "compressed-tensors-asymmetric": (
        compressed("pack-quantized", FOUR_BITS | {"symmetric": False}), packed_tensors, {"symmetric": False}, "UINT4"
    ),
    "compressed-tensors-act-order": (
        compressed("pack-quantized", FOUR_BITS | {"actorder": "group"}), packed_tensors, {"order": 3}, "INT4"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_four_bit_checkpoints_compute_what_their_weights_say(tmp_path, quick, case):
    quantization, tensors, options, kind = CASES[case]
    options = dict(options)
    if "order" in options:
        options["order"] = np.random.default_rng(options["order"])
    folder, model = written(tmp_path / "source", quantization, tensors, **options)
    bundle = build(str(folder), tmp_path / "out", quick(verify="off"))
    assert error_of(bundle, model) < 2e-6
    graph = onnx.load(bundle.model_path, load_external_data=False).graph
    types = {t.data_type for t in graph.initializer if t.name.endswith("proj.weight")}
    assert types == {onnx.TensorProto.DataType.Value(kind)}
    assert sum(node.op_type == "Gather" and "ordered" in node.name for node in graph.node) == (
        14 if "order" in options else 0
    )


def fp8_of_compressed_tensors(folder, *, by_channel, caches=()):
    """Write a checkpoint with random scales, and caches by name; return it and the model that rounds alike."""
    model, generator = tiny_llama(), torch.Generator().manual_seed(0)
    tensors, input_scale = dict(caches), torch.tensor([0.02])
    for name, module in linears(model).items():
        scale = torch.rand((len(module.weight), 1) if by_channel else (1,), generator=generator) * 1e-4 + 2e-4
        stored = (module.weight.data / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        module.weight.data = stored.float() * scale
        module.register_forward_pre_hook(lambda _module, inputs: (rounded_to_fp8(inputs[0], input_scale),))
        added = {"weight": stored, "weight_scale": scale, "input_scale": input_scale.clone()}
        tensors.update({f"{name}.{suffix}": tensor for suffix, tensor in added.items()})
    for name, parameter in model.named_parameters():
        tensors.setdefault(name, parameter.detach())
    weights = FLOAT8 | {"strategy": "channel" if by_channel else "tensor"}
    settings = {"kv_cache_scheme": FLOAT8} if caches else {}
    quantization = compressed("float-quantized", weights, FLOAT8, **settings)
    return write_checkpoint(folder, model.config.to_dict(), tensors, quantization), model


def test_scales_in_bfloat16_are_taken_as_they_are(tmp_path, quick):
    """As LLM Compressor writes them for models in bfloat16."""

    def tensors(codes, zeros, scales, member):
        return packed_tensors(codes, zeros, scales, member) | {"weight_scale": torch.from_numpy(scales).bfloat16()}

    folder, model = written(tmp_path / "source", compressed("pack-quantized", FOUR_BITS), tensors)
    bundle = build(str(folder), tmp_path / "out", quick(verify="off"))
    assert error_of(bundle, model) < 2e-6


@pytest.mark.parametrize("by_channel", [False, True])
def test_fp8_of_compressed_tensors(tmp_path, quick, by_channel):
    folder, model = fp8_of_compressed_tensors(tmp_path / "source", by_channel=by_channel)
    bundle = build(str(folder), tmp_path / "out", quick(verify="off"))
    assert error_of(bundle, model) < 2e-6


def test_a_cache_in_fp8_of_compressed_tensors(tmp_path, quick):
    scales = {f"model.layers.{layer}.self_attn.{part}_scale": torch.tensor([0.001 * (1 + layer) + 0.01 * (part == "v")])
              for layer in range(2) for part in ("k", "v")}  # fmt: skip
    folder, _model = fp8_of_compressed_tensors(tmp_path / "source", by_channel=True, caches=scales)
    bundle = build(str(folder), tmp_path / "out", quick(verify="full"))
    assert bundle.manifest.quantization.kv_cache == "fp8"
    graph = onnx.load(bundle.model_path, load_external_data=True).graph
    bound = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, scale in scales.items():
        part = name[-len("k_scale")]
        assert bound[name.replace(f".{part}_scale", f".{part}_proj.{part}_scale")] == scale.numpy()


def rounded_to_fp8(value, scale):
    return (value / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def test_a_conversion_passes_the_gate_and_is_done_once(tmp_path, quick):
    quantization, tensors, options, _kind = CASES["awq"]
    folder, _model = written(tmp_path / "source", quantization, tensors, **options)
    events = []
    bundle = build(str(folder), tmp_path / "out", quick(verify="full"), listener=events.append)
    assert bundle.manifest.verification.status == "passed"
    assert (bundle.manifest.precision, bundle.manifest.quantization.producer) == ("uint4", "autoawq")
    assert "Converting 14 layers that autoawq quantized; done once." in [event.message for event in events]
    again = []
    build(str(folder), tmp_path / "out", quick(verify="off", force=True), listener=again.append)
    assert not any("Converting" in event.message for event in again)


def test_engines_of_imported_checkpoints_are_built(tmp_path, quick):
    quantization, tensors, options, _kind = CASES["gptq-act-order"]
    ordered, _model = written(tmp_path / "gptq", quantization, tensors, **options | {"order": np.random.default_rng(1)})
    by_channel, _model = fp8_of_compressed_tensors(tmp_path / "fp8", by_channel=True)
    for folder, compute_capability in ((ordered, 86), (by_channel, 89)):
        settings = quick(
            verify="off", precision="fp16", engine="tensorrt-rtx", compute_capability=compute_capability,
            max_input_len=32, max_seq_len=64,
        )  # fmt: skip
        bundle = build(str(folder), tmp_path / f"out-{compute_capability}", settings)
        assert bundle.manifest.engine.compute_capability == compute_capability


def test_an_engine_of_weights_with_zero_points_is_refused_by_name(tmp_path, quick):
    quantization, tensors, options, _kind = CASES["awq"]
    folder, _model = written(tmp_path / "source", quantization, tensors, **options)
    with pytest.raises(ZeroPointsError, match=r"tensorrt-rtx takes four-bit weights without zero points only"):
        build(str(folder), tmp_path / "out", quick(verify="off", engine="tensorrt-rtx"))
    events = []
    bundle = build(str(folder), tmp_path / "out", quick(verify="off", engine="auto"), listener=events.append)
    assert bundle.manifest.engine is None
    assert any("No engine: TensorRT takes no weights with zero points" in event.message for event in events)


@pytest.mark.parametrize(("quantization", "named"), [
    (AWQ | {"version": "gemv"}, "AutoAWQ version 'gemv'"),
    (AWQ | {"bits": 3}, "AutoAWQ with 3 bits"),
    (GPTQ | {"bits": 8}, "GPTQ with 8 bits"),
    (GPTQ | {"checkpoint_format": "marlin"}, "GPTQ with checkpoint_format 'marlin'"),
    (GPTQ | {"pack_dtype": "int16"}, "GPTQ with pack_dtype 'int16'"),
    (GPTQ | {"adapter": {"rank": 8}}, "GPTQ with adapter"),
    (compressed("pack-quantized", FOUR_BITS | {"num_bits": 8}), "pack-quantized with 8-bit int weights by group"),
    (compressed("pack-quantized", FOUR_BITS, FLOAT8), "pack-quantized .* and rounded inputs"),
    (compressed("nvfp4-pack-quantized", FOUR_BITS | {"type": "float"}), "nvfp4-pack-quantized with 4-bit float"),
    (compressed("float-quantized", FLOAT8 | {"strategy": "block"}, FLOAT8), "8-bit float weights by block"),
    (compressed("float-quantized", FLOAT8, FLOAT8 | {"strategy": "token", "dynamic": True}),
     "float-quantized with inputs rounded dynamically by token"),
    (compressed("float-quantized", FLOAT8), "float-quantized with inputs that are not rounded"),
    (compressed("float-quantized", FLOAT8, FLOAT8, sparsity_config={"format": "sparse-24"}), "with sparsity_config"),
    (compressed("float-quantized", FLOAT8, FLOAT8, kv_cache_scheme=FLOAT8 | {"num_bits": 4}), "cache in 4-bit float"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
])  # fmt: skip
def test_what_can_not_be_represented_is_refused_by_name(tmp_path, quick, quantization, named):
    folder = write_checkpoint(
        tmp_path / "source", tiny_llama().config.to_dict(), {"w": np.zeros((64, 64))}, quantization
    )
    with pytest.raises(UnsupportedQuantizationError, match=f"can't represent: .*{named}"):
        build(str(folder), tmp_path / "out", quick(verify="off"))


@pytest.mark.parametrize(("change", "error", "named"), [
    (lambda t: {"g_idx": np.zeros_like(t["g_idx"])}, UnsupportedQuantizationError, "groups of different sizes"),
    (lambda t: {"qzeros": np.full_like(t["qzeros"], -1)}, UnsupportedQuantizationError, "the zero point 16 of"),
    (lambda t: {"qzeros": t["qzeros"][:, :-1]}, QuantizedTensorMismatchError, r"qzeros' of .* must be \["),
    (lambda t: {"scales": t["scales"].astype(np.int32)}, QuantizedTensorMismatchError, "scales' of .* must be F16 or"),
])  # fmt: skip
def test_malformed_layers_are_named(tmp_path, quick, change, error, named):
    def tensors(*layer):
        found = gptq_tensors(*layer)
        return found | change(found)

    folder, _model = written(tmp_path / "source", GPTQ | {"sym": False}, tensors)
    with pytest.raises(error, match=named):
        build(str(folder), tmp_path / "out", quick(verify="off"))


@pytest.mark.parametrize(("dynamic", "error", "named"), [
    ({"+:.*up_proj": {"bits": 8}}, UnsupportedQuantizationError, r"for '.*up_proj' by dynamic .* with 8 bits"),
    ({"-:.*up_proj": {}}, ContradictoryQuantizationError, r"dynamic '-:.*up_proj' leaves '.*up_proj' unquantized"),
    ({".*up_proj": {"group_size": 64}}, ContradictoryQuantizationError, r"group_size 64 means 2 groups"),
    ({".*(": {}}, ContradictoryQuantizationError, r"no regular expression"),
    (["up_proj"], ContradictoryQuantizationError, r"'dynamic' must map"),
])  # fmt: skip
def test_settings_of_single_layers_must_fit_them(tmp_path, quick, dynamic, error, named):
    folder, _model = written(tmp_path / "source", GPTQ | {"dynamic": dynamic}, gptq_tensors)
    with pytest.raises(error, match=named):
        build(str(folder), tmp_path / "out", quick(verify="off"))


def test_a_contradiction_is_gone_once_the_settings_are_corrected(tmp_path, quick):
    folder, model = written(
        tmp_path / "source", GPTQ | {"format": "gptq_v2", "checkpoint_format": "gptq"}, gptq_tensors
    )
    with pytest.raises(
        ContradictoryQuantizationError, match=r"Correct its settings \(quantization_config in config\.js"
    ):
        build(str(folder), tmp_path / "out", quick(verify="off"))
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]["format"]
    (folder / "config.json").write_text(json.dumps(config))
    assert error_of(build(str(folder), tmp_path / "out", quick(verify="off")), model) < 2e-6


@pytest.mark.parametrize("dynamic", [{"-:.*visual": {}}, {"+:.*up_proj": {"group_size": GROUP}}])
def test_settings_of_single_layers_that_fit_are_taken(tmp_path, quick, dynamic):
    folder, model = written(tmp_path / "source", GPTQ | {"dynamic": dynamic}, gptq_tensors)
    assert error_of(build(str(folder), tmp_path / "out", quick(verify="off")), model) < 2e-6


@pytest.mark.parametrize(("change", "named"), [
    ({"sym": "yes"}, "'sym' must be true or false and is 'yes'"),
    ({"group_size": "32"}, "'group_size' must be -1 or a positive number and is '32'"),
    ({"group_size": -1}, "group_size -1 means 1 groups"),
])  # fmt: skip
def test_settings_that_mean_nothing_are_named(tmp_path, quick, change, named):
    folder, _model = written(tmp_path / "source", GPTQ | change, gptq_tensors)
    with pytest.raises(ContradictoryQuantizationError, match=named):
        build(str(folder), tmp_path / "out", quick(verify="off"))


def test_what_the_importer_writes_is_modelopts_form(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    quantization, tensors, options, _kind = CASES["gptq"]
    folder, _model = written(tmp_path / "source", quantization, tensors, **options)
    build(str(folder), tmp_path / "out", quick(verify="off"))
    [made] = (path.parent for path in (tmp_path / "cache" / "checkpoints").rglob("hf_quant_config.json"))
    assert json.loads((made / "hf_quant_config.json").read_text()) == {
        "producer": {"name": "gptq"}, "quantization": {"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": None}
    }  # fmt: skip
    assert "quantization_config" not in json.loads((made / "config.json").read_text())
