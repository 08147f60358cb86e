"""Checkpoints as ModelOpt writes them: equal to its own export, bit for bit, where only largest values matter."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.events import Reporter
from edgellm_core.quantization.formats import FP8, MXFP8, NVFP4
from edgellm_core.quantization.layout import read_layout
from edgellm_core.registry import ModelRegistry
from tests.calibration.conftest import read_tensors
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
    folder, ours, _notes = quantized(llama, ids, scheme)
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


@pytest.mark.parametrize(("scheme", "form"), [("fp8", FP8), ("nvfp4", NVFP4), ("mxfp8", MXFP8)])
def test_a_quantized_checkpoint_opens_with_its_layout(llama, ids, quantized, scheme, form):
    folder, _tensors, _notes = quantized(llama, ids, scheme)
    checkpoint = open_checkpoint(str(folder), registry=ModelRegistry.load(), report=Reporter("test"))
    layout = read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors)
    assert len(layout.linears) == 14
    assert set(layout.linears.values()) == {form}
    assert layout.producer.startswith("modelopt 0.")


def test_no_global_of_modelopt_changes(llama, ids, quantized):
    import modelopt.torch.quantization as mtq

    before = {name: copy.deepcopy(getattr(mtq, name)) for name in CONFIGS.values()}
    quantized(llama, ids, "fp8", skip=("*.0.*",))
    assert {name: getattr(mtq, name) for name in CONFIGS.values()} == before
