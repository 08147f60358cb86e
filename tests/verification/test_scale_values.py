"""Scales that no tool writes are refused by name, in every form that stores one."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgellm_core.events import Reporter
from edgellm_core.pipeline.sources import open_source
from edgellm_core.registry import ModelRegistry
from edgellm_core.verification.errors import ScaleValueError
from tests.stock_modelopt import export_stock

LAYER = "model.layers.1.mlp.down_proj"
VALUES = {"negative": -1.0, "nan": float("nan"), "infinite": float("inf"), "zero": 0.0}


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    made = {}

    def checkpoint(scheme):
        if scheme not in made:
            made[scheme] = tmp_path_factory.mktemp(scheme)
            export_stock(made[scheme], scheme, kv_cache=scheme == "fp8")
        return made[scheme]

    return checkpoint


def opened(folder):
    return open_source(str(folder), registry=ModelRegistry.load(), report=Reporter("checkpoint"))


def with_value(source, folder, name, change):
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name].clone())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def first_is(value):
    def change(tensor):
        tensor.reshape(-1)[0] = value
        return tensor

    return change


SCALES = [
    ("fp8", f"{LAYER}.weight_scale"), ("fp8", f"{LAYER}.input_scale"),
    ("fp8", "model.layers.0.self_attn.k_proj.k_scale"), ("fp8", "model.layers.1.self_attn.v_proj.v_scale"),
    ("int8_sq", f"{LAYER}.weight_scale"), ("int8_sq", f"{LAYER}.pre_quant_scale"),
    ("int4_awq", f"{LAYER}.weight_scale"), ("int4_awq", f"{LAYER}.pre_quant_scale"),
    ("nvfp4", f"{LAYER}.weight_scale_2"), ("nvfp4", f"{LAYER}.input_scale"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(("scheme", "name"), SCALES)
def test_values_that_are_no_scales_are_refused(stock, tmp_path, scheme, name, value):
    folder = with_value(stock(scheme), tmp_path / "copy", name, first_is(VALUES[value]))
    with pytest.raises(ScaleValueError, match=f"'{name}' of .* has the value {VALUES[value]:g}"):
        opened(folder)


@pytest.mark.parametrize(("scheme", "value"), [("nvfp4", -0.5), ("nvfp4", float("nan")), ("mxfp8", 255)])
def test_narrow_scales_are_looked_at_too(stock, tmp_path, scheme, value):
    name = f"{LAYER}.weight_scale"
    folder = with_value(stock(scheme), tmp_path / "copy", name, first_is(value))
    with pytest.raises(ScaleValueError, match=f"'{name}' of .* has the value"):
        opened(folder)


def test_a_scale_of_zero_over_zeros_is_taken(stock, tmp_path):
    def first_block(tensor):
        if tensor.dtype == torch.uint8:
            tensor[0, :128] &= 0xF0  # the first block of output 0
        else:
            tensor[0, 0] = 0
        return tensor

    folder = with_value(stock("int4_awq"), tmp_path / "zeros", f"{LAYER}.weight_scale", first_block)
    with pytest.raises(ScaleValueError, match="has the value 0"):
        opened(folder)
    opened(with_value(folder, tmp_path / "fine", f"{LAYER}.weight", first_block))


@pytest.mark.parametrize("scheme", ["fp8", "int8_sq", "int4_awq", "nvfp4", "mxfp8"])
def test_what_modelopt_writes_is_taken(stock, scheme):
    opened(stock(scheme))
