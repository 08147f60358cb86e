"""Scales fold into what feeds a layer, found by numbers; the float layer stays what it was, and rounding loses less."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgellm_core.calibration.awq import round_int4, search_awq
from edgellm_core.calibration.folding import find_feeder
from edgellm_core.calibration.forward import LayerForward
from edgellm_core.calibration.hidden_states import hold_states
from edgellm_core.calibration.scales import Search
from edgellm_core.calibration.smoothing import Fold, apply_folds
from edgellm_core.calibration.smoothquant import round_int8, search_smoothquant
from edgellm_core.calibration.stack import open_stack
from edgellm_core.calibration.statistics import InputStatistics, Measured
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.calibration.conftest import LLAMA

GEMMA = {
    "model_type": "gemma", "architectures": ["GemmaForCausalLM"], "vocab_size": 256, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 32,
}  # fmt: skip
"""Norms that multiply by 1 + w, and one key head for all queries."""

PHI3 = {
    "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "vocab_size": 256, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "pad_token_id": 0, "max_position_embeddings": 128, "original_max_position_embeddings": 128,
}  # fmt: skip
"""Queries, keys and values in one projection, gate and up in another."""

PHI = {
    "model_type": "phi", "architectures": ["PhiForCausalLM"], "vocab_size": 256, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "partial_rotary_factor": 0.5,
}  # fmt: skip
"""A layer norm with a bias that feeds attention and MLP side by side, and GELU, which no scale passes."""


@pytest.fixture
def probe(tmp_path, opened, ids):
    """Return a function that opens the first layer of a checkpoint of a config as a probe."""

    def make(config):
        checkpoint, loaded = opened(write_tiny_checkpoint(tmp_path / config["model_type"], config, dtype="bfloat16"))
        stack = open_stack(checkpoint, loaded, dtype=torch.float32, device=torch.device("cpu"))
        states = hold_states(
            tmp_path / "states", (*ids.shape, config["hidden_size"]), torch.float32, torch.device("cpu")
        )
        forward = LayerForward(stack, ids, states)
        with torch.no_grad():
            forward.prepare(fresh=True)
            return forward.probe(0)

    return make


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            LLAMA,
            {
                "self_attn.q_proj": ("input_layernorm", "weight", 0),
                "self_attn.o_proj": ("self_attn.v_proj", "rows", 0),
                "mlp.gate_proj": ("post_attention_layernorm", "weight", 0),
                "mlp.down_proj": ("mlp.up_proj", "rows", 0),
            },
        ),
        (
            GEMMA,
            {
                "self_attn.k_proj": ("input_layernorm", "one_plus_weight", 0),
                "self_attn.o_proj": ("self_attn.v_proj", "rows", 0),
                "mlp.up_proj": ("post_attention_layernorm", "one_plus_weight", 0),
                "mlp.down_proj": ("mlp.up_proj", "rows", 0),
            },
        ),
        (
            PHI3,
            {
                "self_attn.qkv_proj": ("input_layernorm", "weight", 0),
                "self_attn.o_proj": ("self_attn.qkv_proj", "rows", 96),
                "mlp.down_proj": ("mlp.gate_up_proj", "rows", 128),
            },
        ),
        (
            PHI,
            {
                "self_attn.q_proj": ("input_layernorm", "weight", 0),
                "self_attn.dense": ("self_attn.v_proj", "rows", 0),
                "mlp.fc1": ("input_layernorm", "weight", 0),
                "mlp.fc2": None,
            },
        ),
    ],
    ids=["llama", "gemma", "phi3", "phi"],
)
def test_feeders_are_found_by_numbers(probe, config, expected):
    layer = probe(config)
    with torch.no_grad():
        found = {reader: find_feeder(layer, f"{layer.path}.{reader}") for reader in expected}
    named = {
        reader: feeder and (feeder.module.removeprefix(f"{layer.path}."), feeder.kind, feeder.first)
        for reader, feeder in found.items()
    }
    assert named == expected


def test_a_value_row_feeds_one_channel_of_each_query_head_of_its_group(probe):
    layer = probe(LLAMA)
    with torch.no_grad():
        feeder = find_feeder(layer, f"{layer.path}.self_attn.o_proj")
    heads, dim, group = 4, 32, 2
    expected = [(head // group) * dim + channel for head in range(heads) for channel in range(dim)]
    assert feeder.row_of.tolist() == expected
    assert feeder.rows == 64


@pytest.mark.parametrize("config", [LLAMA, GEMMA, PHI3], ids=["llama", "gemma", "phi3"])
def test_folds_leave_the_layer_what_it_was(probe, config):
    layer = probe(config)
    generator = torch.Generator().manual_seed(3)
    groups = {}
    for path, value in layer.inputs.items():
        groups.setdefault((value.data_ptr(), value.shape[-1]), []).append(path)
    folds = []
    with torch.no_grad():
        for readers in groups.values():
            feeder = find_feeder(layer, readers[0])
            scale = (torch.rand(feeder.rows, generator=generator) * 9 + 0.1)[feeder.row_of]
            folds.append(Fold(readers=tuple(readers), feeder=feeder, scale=scale, strength=0.5))
        assert len(folds) == 4
        changed = apply_folds(layer.weights, folds)
        moved = (layer.run(changed) - layer.output).abs().max() / layer.output.abs().max()
        wrong = {
            **changed,
            next(name for name in changed if name.endswith("norm.weight")): layer.weights[
                next(name for name in changed if name.endswith("norm.weight"))
            ],
        }
        assert moved <= 1e-5
        assert layer.changes_output(wrong, tolerance=1e-3)


def test_a_norm_takes_over_a_scale_without_rounding_error(probe):
    layer = probe(GEMMA)
    name = f"{layer.path}.input_layernorm.weight"
    with torch.no_grad():
        feeder = find_feeder(layer, f"{layer.path}.self_attn.q_proj")
    wanted = torch.rand(64, generator=torch.Generator().manual_seed(0)) * 4 + 0.1
    scale = feeder.storable(layer.weights[name], wanted, torch.bfloat16)
    stored = feeder.multiplied(layer.weights, 1 / scale)[name].to(torch.bfloat16)
    assert torch.allclose((1 + stored.float()) * scale, 1 + layer.weights[name], rtol=1e-6, atol=0)
    assert torch.allclose(scale, wanted, rtol=0.02)


def statistics_of(inputs):
    statistics = InputStatistics()
    statistics.add(inputs, Measured(channels=True, products=1))
    return statistics


def test_the_loss_of_awq_is_the_squared_error_of_the_outputs():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 64, generator=generator) * torch.rand(64, generator=generator) * 5
    weights = [torch.randn(rows, 64, generator=generator) for rows in (16, 8)]
    search = Search.over(torch.arange(64), torch.device("cpu"))
    search_awq(statistics_of(inputs), weights, 32, search)
    stacked = torch.cat(weights)
    plain = (inputs @ (round_int4(stacked, 32) - stacked).T).square().sum()
    assert search.losses[None] == pytest.approx(float(plain), rel=1e-4)
    best = (inputs / search.scale) @ round_int4(stacked * search.scale, 32).T - inputs @ stacked.T
    assert min(search.losses.values()) == pytest.approx(float(best.square().sum()), rel=1e-4)
    assert best.square().sum() < 0.9 * plain


def test_the_loss_of_smoothquant_predicts_the_error_of_rounded_inputs_and_weights():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 64, generator=generator)
    inputs[:, 3] *= 60  # an outlier, which SmoothQuant is about
    weight = torch.randn(32, 64, generator=generator)
    search = Search.over(torch.arange(64), torch.device("cpu"))
    strength = search_smoothquant(statistics_of(inputs), [weight], search)
    assert strength > 0

    def error(scale):
        scaled, columns = inputs / scale, weight * scale
        step, steps = scaled.abs().max() / 127, columns.abs().amax(1, keepdim=True) / 127
        rounded = (scaled / step).round() * step @ ((columns / steps).round() * steps).T
        return float((rounded - inputs @ weight.T).square().sum())

    assert search.losses[None] == pytest.approx(error(torch.ones(64)), rel=0.2)
    assert min(search.losses.values()) == pytest.approx(error(search.scale), rel=0.2)
    assert error(search.scale) < 0.2 * error(torch.ones(64))


def test_channels_of_one_value_row_share_their_scale():
    row_of = torch.tensor([0, 1, 0, 1])
    search = Search.over(row_of, torch.device("cpu"))
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 1.0, 3.0, 1.0])
    search_awq(statistics_of(inputs), [torch.randn(8, 4, generator=torch.Generator().manual_seed(1))], 4, search)
    assert search.scale[0] == search.scale[2] != search.scale[1] == search.scale[3]


@pytest.mark.parametrize("scheme", ["int4_awq", "int8_sq"])
def test_a_smoothed_checkpoint_has_no_scale_left_and_computes_the_same(llama, ids, quantized, scheme):
    folder, tensors, notes = quantized(llama, ids, scheme)
    assert not [name for name in tensors if "pre_quant_scale" in name]
    assert not [note for note in notes if "takes a scale" in note]
    assert json.loads((folder / "hf_quant_config.json").read_text())["quantization"].get("pre_quant_scale") is not True
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    plain = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and f"{name}.weight_scale" in tensors:
                module.weight.copy_(dequantized(tensors, name))
                unscaled = plain.get_submodule(name).weight
                unscaled.copy_(round_int4(unscaled, 128) if scheme == "int4_awq" else round_int8(unscaled))
            elif f"{name}.weight" in tensors and "norm" in name:
                module.weight.copy_(tensors[f"{name}.weight"])
        original = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)(ids).logits
        errors = [(rounded(ids).logits - original).square().mean() for rounded in (model, plain)]
    assert errors[0] < 0.1 * original.square().mean()
    assert errors[0] < (errors[1] if scheme == "int4_awq" else 4 * errors[1])  # int8_sq trades for rounded inputs


def dequantized(tensors, name):
    """Return the weight of a layer in int8 or int4 as floats, written out from the formats' description."""
    weight, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"]
    if weight.dtype == torch.int8:
        return weight.float() * scale[:, None]
    pairs = torch.stack([weight & 15, weight >> 4], dim=1).reshape(-1, weight.shape[1]).to(torch.int8)
    signed = torch.where(pairs > 7, pairs - 16, pairs).float()
    return (signed.reshape(signed.shape[0], scale.shape[1], -1) * scale[:, :, None]).reshape(signed.shape)


def test_inputs_that_nothing_takes_a_scale_for_are_named(ids, quantized, tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "source", PHI, dtype="float16", tokenizer=False)
    _folder, _tensors, notes = quantized(folder, ids, "int4_awq")
    assert "Inputs that nothing before them takes a scale for: 2, model.layers.0.mlp.fc2, …." in notes
