"""Rounding and dequantization against torch's own casts, ModelOpt's own tensors, and tables."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from modelopt.torch.export.quant_utils import from_quantized_weight, pack_int4_in_uint8
    from modelopt.torch.quantization.qtensor import MXFP8QTensor, NVFP4QTensor

from edgellm_core.quantization.formats import FP8, INT4, INT8_SQ, MXFP8, NVFP4, LinearFormat
from edgellm_core.verification.dequantize import dequantize
from edgellm_core.verification.input_rounding import (
    input_transform,
    round_e2m1,
    round_e4m3,
    round_mxfp8,
    round_nvfp4,
    static_rounding,
)

E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()


def random(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def test_e4m3_is_that_of_torch():
    finite = E4M3[E4M3.isfinite()].unique()
    between = (finite[1:] + finite[:-1]) / 2
    values = torch.cat((finite, between, random(20000, scale=50).double(), random(20000, scale=0.01).double()))
    assert torch.equal(round_e4m3(values), values.to(torch.float8_e4m3fn).double())
    assert round_e4m3(torch.tensor([1e4, -1e4]).double()).tolist() == [448, -448]


def test_e2m1_is_the_nearest_of_the_table_and_ties_go_to_the_even_code():
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = np.concatenate([np.linspace(0, 7, 5000), (table[1:] + table[:-1]) / 2])
    distance = np.abs(values[:, None] - table)
    candidates = distance == distance.min(1, keepdims=True)
    wanted = [table[max(np.flatnonzero(row), key=lambda code: code % 2 == 0)] for row in candidates]
    found = round_e2m1(torch.from_numpy(np.stack([values, -values])))
    assert found[0].tolist() == wanted
    assert torch.equal(found[1], -found[0])


@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0])
def test_nvfp4_is_that_of_modelopt(scale):
    value = random(64, 128, seed=1, scale=scale)
    value[3] = 0  # a block of zeros
    value[4, :16] *= 1e-6  # a block whose scale E4M3 can't hold
    global_scale = value.abs().max() / (6 * 448)
    packed, block_scale, _ = NVFP4QTensor.quantize(value.clone(), 16, None, global_scale)
    wanted = packed.dequantize(torch.float32, scale=block_scale, double_scale=global_scale, block_sizes={-1: 16})
    found = round_nvfp4(value, float(global_scale), 16)
    # a tie in float64 may be none in float32
    assert torch.isclose(found, wanted, rtol=1e-6, atol=0).float().mean() > 0.999


@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0, 448.0 / 4])
def test_mxfp8_is_that_of_modelopt(scale):
    value = random(64, 128, seed=2, scale=scale)
    value[3] = 0
    value[4, 0:32] = 448.0  # the largest exactly
    value[4, 32:64] = torch.nextafter(torch.tensor(448.0), torch.tensor(1e9))
    packed, exponents = MXFP8QTensor.quantize(value)
    assert torch.equal(round_mxfp8(value, 32), packed.dequantize(torch.float32, scale=exponents))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("fp8", "largest"), [(True, 448), (False, 127)])
def test_static_rounding_multiplies_and_divides_by_the_scale(fp8, largest, dtype):
    value, scale = random(32, 64, seed=3), torch.tensor(0.011).to(dtype).float()
    scaled = value / scale
    rounded = scaled.clamp(-448, 448).to(torch.float8_e4m3fn).float() if fp8 else scaled.round().clamp(-128, 127)
    found = static_rounding(fp8, scale)(value)
    assert (torch.isclose(found, rounded * scale, rtol=1e-6)).float().mean() > 0.999
    assert found.abs().max() <= (largest + 1) * scale


def test_factors_then_input_order_come_before_rounding():
    form = LinearFormat(weight="int8", granularity="channel", input="static", smoothed=True, ordered=True)
    stored = {
        "input_order": torch.tensor([2, 0, 1]), "pre_quant_scale": torch.tensor([1.0, 10.0, 100.0]),
        "input_scale": torch.tensor(0.5),
    }  # fmt: skip
    found = input_transform(form, stored, torch.float32)(torch.tensor([[0.2, 0.3, 0.7]]))
    assert found.tolist() == [[63.5, 0.0, 3.0]]  # 0.7 · 100 is more than 127 · 0.5; 0.2 → 0; 0.3 · 10
    assert input_transform(INT4, {}, torch.float32) is None


def test_int4_as_modelopt_packs_it():
    weight = random(64, 256, seed=4)
    scale = weight.unflatten(1, (2, 128)).abs().amax(-1) / 7
    packed = pack_int4_in_uint8(weight, scale, 128)
    found = dequantize(INT4, {"weight": packed, "weight_scale": scale}, torch.float32)
    repeated = scale.repeat_interleave(128, 1)
    assert torch.equal(found, (weight / repeated).round().clamp(-8, 7) * repeated)


def test_uint4_subtracts_the_zero_point_before_the_scale():
    numbers = np.random.default_rng(5)
    codes = numbers.integers(0, 16, (8, 64))
    zeros, scale = numbers.integers(0, 16, (8, 2)), numbers.random((8, 2), np.float32)
    stored = {
        "weight": torch.from_numpy((codes[0::2] | codes[1::2] << 4).astype(np.uint8)),
        "weight_scale": torch.from_numpy(scale), "weight_zero_point": torch.from_numpy(zeros.astype(np.uint8)),
    }  # fmt: skip
    form = LinearFormat(weight="uint4", granularity="block", block_size=32)
    wanted = (codes - zeros.repeat(32, 1)) * scale.repeat(32, 1)
    assert np.array_equal(dequantize(form, stored, torch.float32).numpy(), wanted.astype(np.float32))


@pytest.mark.parametrize(("form", "name"), [(FP8, "fp8"), (INT8_SQ, "int8_sq")])
def test_eight_bits_as_modelopt_reads_them(form, name):
    codes = torch.randint(-120, -2, (16, 32), generator=torch.Generator().manual_seed(6), dtype=torch.int8)
    codes[::2] += 120  # -1 is a NaN of E4M3
    weight = codes.view(torch.float8_e4m3fn) if name == "fp8" else codes
    scale = torch.tensor(0.37) if name == "fp8" else random(16, seed=7).abs()
    found = dequantize(form, {"weight": weight, "weight_scale": scale}, torch.float32)
    assert torch.equal(found, from_quantized_weight(weight, scale, name, torch.float32))


def test_nvfp4_weights_as_modelopt_reads_them():
    weight = random(32, 64, seed=8)
    packed, scale, scale_2 = NVFP4QTensor.quantize(weight, 16)
    stored = {"weight": packed._quantized_data, "weight_scale": scale, "weight_scale_2": scale_2}
    wanted = packed.dequantize(torch.float32, scale=scale, double_scale=scale_2, block_sizes={-1: 16})
    assert torch.equal(dequantize(NVFP4, stored, torch.float16), wanted)


def test_mxfp8_weights_as_modelopt_reads_them():
    packed, exponents = MXFP8QTensor.quantize(random(32, 64, seed=9))
    stored = {"weight": packed._quantized_data, "weight_scale": exponents}
    assert torch.equal(dequantize(MXFP8, stored, torch.float16), packed.dequantize(torch.float32, scale=exponents))


def test_scales_are_rounded_to_the_type_of_the_graph():
    stored = {"weight": torch.ones(1, 1, dtype=torch.int8), "weight_scale": torch.tensor([0.1])}
    assert dequantize(INT8_SQ, stored, torch.float16).item() == np.float16(0.1)
