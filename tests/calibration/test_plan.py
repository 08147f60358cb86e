"""Which layers are quantized, in which form; and models, options and checkpoints that are refused by name."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgellm_core.calibration.errors import (
    ActivationsNotFiniteError,
    BlockSizeError,
    MissingWeightError,
    NothingToQuantizeError,
    NotLayerwiseError,
    OddOutputsError,
    WeightsNotFiniteError,
)
from edgellm_core.calibration.request import QuantizationRequest
from edgellm_core.calibration.rounding import LinearWeight, quantizer_attributes, round_together
from edgellm_core.contract import QuantizationScheme
from edgellm_core.errors import InvalidSettingError, PluginError
from edgellm_core.quantization.formats import FP8, INT4, LinearFormat
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.calibration.conftest import LLAMA

MIXTRAL = {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 256, "hidden_size": 64,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_local_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip

GEMMA3N = {
    "model_type": "gemma3n_text", "architectures": ["Gemma3nForCausalLM"], "vocab_size": 256, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "vocab_size_per_layer_input": 256, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 2,
    "laurel_rank": 8, "activation_sparsity_pattern": [0.0] * 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
"""Every layer takes an embedding of the tokens of its own."""


@pytest.fixture
def source(tmp_path):
    """Return a function that writes a checkpoint of the Llama config with changes."""
    return lambda **changes: write_tiny_checkpoint(
        tmp_path / "source", {**LLAMA, **changes}, dtype="float16", tokenizer=False
    )


@pytest.mark.parametrize(
    ("widths", "asked", "chosen"),
    [
        ({}, None, 128),
        ({"hidden_size": 192, "head_dim": 48}, None, 64),
        ({"intermediate_size": 352}, None, 32),
        ({}, 32, 32),
    ],
)
def test_the_largest_block_that_divides_every_layer_is_taken_unless_one_is_asked_for(
    source, ids, quantized, widths, asked, chosen
):
    _folder, tensors, notes = quantized(source(**widths), ids, "int4_awq", group_size=asked)
    hidden = widths.get("hidden_size", 128)
    assert tensors["model.layers.0.mlp.up_proj.weight_scale"].shape[1] == hidden // chosen
    assert f"One scale for {chosen} inputs." in notes


@pytest.mark.parametrize(
    ("scheme", "request_", "widths", "error", "message"),
    [
        ("int4_awq", {"group_size": 48}, {}, InvalidSettingError, "--group-size must be one of int4_awq's; got 48"),
        ("fp8", {"group_size": 64}, {}, InvalidSettingError, "--group-size must be one of fp8's; got 64"),
        (
            "int4_awq", {"group_size": 128}, {"intermediate_size": 192}, BlockSizeError,
            r"128 inputs.*does not for 2: model.layers.0.mlp.down_proj \(192\).*Pass --group-size 64 or 32, or leave",
        ),
        ("nvfp4", {}, {"intermediate_size": 200}, BlockSizeError, r"down_proj \(200\).*\. Leave the layers in floats"),
        ("int4_awq", {}, {"intermediate_size": 33}, BlockSizeError, "down_proj"),
        (
            "int4_awq", {"skip": ("*.down_proj",)}, {"intermediate_size": 33}, OddOutputsError,
            "odd in model.layers.0.mlp.gate_proj",
        ),
        ("fp8", {"skip": ("*.upproj",)}, {}, InvalidSettingError, r"--skip must match.*'\*.upproj'.*q_proj"),
        ("fp8", {"skip": ("*",)}, {}, NothingToQuantizeError, "none of LlamaForCausalLM is left"),
    ],
)  # fmt: skip
def test_layers_that_do_not_fit_are_named(source, ids, quantized, scheme, request_, widths, error, message):  # noqa: PLR0917
    with pytest.raises(error, match=message):
        quantized(source(**widths), ids, scheme, **request_)


def test_layers_that_do_not_fit_can_be_skipped(source, ids, quantized):
    folder = source(intermediate_size=33)
    _folder, tensors, _notes = quantized(folder, ids, "int4_awq", skip=("*.mlp.*",))
    assert tensors["model.layers.0.mlp.up_proj.weight"].dtype == torch.float16
    assert tensors["model.layers.0.self_attn.q_proj.weight"].dtype == torch.uint8


def test_fused_experts_and_routers_stay_in_floats(tmp_path, ids, quantized):
    folder = write_tiny_checkpoint(tmp_path / "source", MIXTRAL, dtype="float16", tokenizer=False)
    _folder, tensors, notes = quantized(folder, ids, "fp8")
    original = load_file(folder / "model.safetensors")
    experts = [name for name in original if "expert" in name or "gate.weight" in name]
    assert experts
    assert all(torch.equal(tensors[name], original[name]) for name in experts)
    assert tensors["model.layers.0.self_attn.q_proj.weight"].dtype == torch.float8_e4m3fn
    assert any("experts" in note for note in notes)


def test_a_smoothed_norm_that_also_feeds_experts_takes_no_scale(tmp_path, ids, quantized):
    folder = write_tiny_checkpoint(tmp_path / "source", MIXTRAL, dtype="float16", tokenizer=False)
    _folder, tensors, _notes = quantized(folder, ids, "int4_awq")
    original = load_file(folder / "model.safetensors")
    name = "model.layers.0.post_attention_layernorm.weight"
    assert torch.equal(tensors[name], original[name])


def test_layers_that_take_more_than_the_layer_before_them_are_refused(tmp_path, ids, quantized):
    folder = write_tiny_checkpoint(tmp_path / "source", GEMMA3N, dtype="float16", tokenizer=False)
    with pytest.raises(NotLayerwiseError, match="Gemma3nForCausalLM must run layer by layer"):
        quantized(folder, ids, "fp8")


@pytest.mark.parametrize(
    ("tensor", "value", "error", "message"),
    [
        ("model.layers.0.mlp.up_proj.weight", float("nan"), WeightsNotFiniteError, "weights of model.layers.0.mlp.up_"),
        ("model.layers.1.input_layernorm.weight", float("inf"), WeightsNotFiniteError, "layers.1.input_layernorm must"),
        (
            "model.layers.1.input_layernorm.weight",
            3e38,
            ActivationsNotFiniteError,
            "inputs of model.layers.1.self_attn",
        ),
    ],
)
def test_values_that_are_not_finite_name_the_module(tmp_path, ids, quantized, tensor, value, error, message):
    folder = write_tiny_checkpoint(tmp_path / "source", LLAMA, dtype="bfloat16", tokenizer=False)
    tensors = load_file(folder / "model.safetensors")
    tensors[tensor].view(-1)[3] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(error, match=message):
        quantized(folder, ids, "fp8")


def test_a_missing_weight_is_named(source, ids, quantized):
    folder = source()
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingWeightError, match=r"'model.layers.1.mlp.up_proj.weight' is missing"):
        quantized(folder, ids, "fp8")


def test_a_weight_of_zeros_and_an_input_of_zeros_are_exact():
    zero = LinearWeight(path="zero", weight=torch.zeros(4, 32), form=FP8, input_amax=torch.tensor(0.0))
    blocks = LinearWeight(path="blocks", weight=torch.zeros(4, 64), form=INT4_OF_32)
    rounded = round_together([zero, blocks])
    assert all(bool((tensors["weight_scale"] > 0).all()) for tensors in rounded.values())
    assert float(rounded["zero"]["input_scale"]) > 0
    assert not rounded["zero"]["weight"].float().any()
    assert not rounded["blocks"]["weight"].any()


INT4_OF_32 = LinearFormat(weight="int4", granularity="block", block_size=32)


class RoundToNearest(QuantizationScheme):
    """A scheme that a pack might bring: int4 without calibration."""

    name = "int4_rtn"
    block_sizes = (64, 32)

    def linear_format(self, block_size):
        return LinearFormat(weight="int4", granularity="block", block_size=block_size)


def test_a_scheme_of_a_pack_needs_no_line_in_the_core(llama, ids, quantized):
    _folder, tensors, notes = quantized(llama, ids, "int4_rtn", brought={"int4_rtn": RoundToNearest})
    assert tensors["model.layers.0.mlp.up_proj.weight_scale"].shape == (256, 2)
    assert "One scale for 64 inputs." in notes


def test_a_form_that_modelopt_does_not_have_is_the_schemes_fault():
    with pytest.raises(PluginError, match="int8 weights with one scale for each block"):
        quantizer_attributes(LinearFormat(weight="int8", granularity="block", block_size=32))
    assert quantizer_attributes(INT4)["block_sizes"][-1] == 128


def test_bfloat16_is_chosen_only_where_it_is_native(monkeypatch):
    request = QuantizationRequest(scheme=RoundToNearest(), device="cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    assert request.torch_type() == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert request.torch_type() == torch.bfloat16
