"""Sizes and numbers of config.json that no model has: named with their key, before anything long."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edgellm_core import detect
from edgellm_core.checkpoint.config_numbers import require_numbers
from edgellm_core.checkpoint.config_sizes import require_sizes
from edgellm_core.checkpoint.errors import ConfigSizeError, ConfigValueError
from edgellm_core.checkpoint.tensors import TensorEntry
from edgellm_core.errors import EdgellmError
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.quantization_settings import QuantizationSettings
from edgellm_core.pipeline.quantize import quantize
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.tracing.errors import UnknownConfigNameError
from tests.coverage.configs import tiny_config
from tests.coverage.model_types import decoder_only_types

PATH = Path("config.json")
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 131, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip


def tensors(layers=4, shape=(131, 96)):
    names = ["model.embed_tokens.weight", *(f"model.layers.{layer}.mlp.weight" for layer in range(layers))]
    return {
        name: TensorEntry(name=name, element_type="F32", shape=shape, file=PATH, offset=0, nbytes=4) for name in names
    }


SIZES = {
    "a billion layers": ({"num_hidden_layers": 10**9}, "at most 80 under 'num_hidden_layers', since tensors of 4"),
    "no layers": ({"n_layer": 0}, "at least 1 under 'n_layer'"),
    "a negative width": ({"hidden_size": -8}, "at least 1 under 'hidden_size'"),
    "no heads": ({"num_attention_heads": 0}, "at least 1 under 'num_attention_heads'"),
    "no heads in one layer": ({"num_attention_heads": [4, 0]}, "at least 1 under 'num_attention_heads'"),
    "heads wider than any tensor": ({"head_dim": 10**7}, "at most 12576 under 'head_dim', since its largest tensor"),
    "tokens of no table": ({"vocab_size": 10**8}, "at most 12576 under 'vocab_size'"),
    "a context of 64 bits": ({"max_position_embeddings": 2**40}, "under 'max_position_embeddings', since positions"),
    "in the text part": ({"text_config": {"num_hidden_layers": 10**9}}, "under 'num_hidden_layers'"),
}


@pytest.mark.parametrize(("config", "message"), SIZES.values(), ids=SIZES)
def test_a_size_that_no_tensor_has_is_named(config, message):
    with pytest.raises(ConfigSizeError, match=message):
        require_sizes(PATH, config, tensors())


@pytest.mark.parametrize(
    "config",
    [{"num_hidden_layers": 12}, {"intermediate_size": 0}, {"max_position_embeddings": -1}, {"n_inner": None}, {}],
    ids=str,
)
def test_shared_layers_and_what_is_not_set_pass(config):
    require_sizes(PATH, config, tensors())


NUMBERS = {
    "an epsilon below zero": ({"rms_norm_eps": -1e-5}, "a number of at least 0 under 'rms_norm_eps'"),
    "an epsilon that is none": ({"layer_norm_epsilon": float("nan")}, "under 'layer_norm_epsilon'"),
    "a base of zero": ({"rope_theta": 0}, "a number above 0 under 'rope_theta'"),
    "a base below zero": ({"rope_parameters": {"rope_theta": -1.0}}, r"under 'rope_parameters\.rope_theta'"),
    "an infinite base": ({"rope_parameters": {"rope_theta": float("inf")}}, r"under 'rope_parameters\.rope_theta'"),
    "a factor of zero": ({"rope_scaling": {"type": "linear", "factor": 0}}, r"under 'rope_scaling\.factor'"),
    "of one kind of layer": (
        {"rope_parameters": {"full_attention": {"factor": 0}}}, r"under 'rope_parameters\.full_attention\.factor'"
    ),
    "a factor that is a word": ({"rope_scaling": {"long_factor": "x"}}, "a list of numbers above 0"),
    "a factor of zero in a list": ({"rope_scaling": {"short_factor": [1.0, 0.0]}}, "a list of numbers above 0"),
    "a kind that is a list": ({"rope_parameters": {"rope_type": ["yarn"]}}, "a name under"),
    "in a part": ({"text_config": {"rms_norm_eps": -1.0}}, "under 'rms_norm_eps'"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "message"), NUMBERS.values(), ids=NUMBERS)
def test_a_number_that_nothing_can_be_computed_with_is_named(config, message):
    with pytest.raises(ConfigValueError, match=message):
        require_numbers(PATH, config)


def test_the_numbers_and_sizes_of_real_configs_pass():
    from transformers import AutoConfig

    for model_type in decoder_only_types():
        config = json.loads(json.dumps(AutoConfig.for_model(**tiny_config(model_type)).to_dict(), default=str))
        require_numbers(PATH, config)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("config") / "llama", LLAMA)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_hidden_layers": 10**9}, ConfigSizeError, "under 'num_hidden_layers'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, ConfigValueError, "rope_theta"),
        ({"rms_norm_eps": -1e-5}, ConfigValueError, "rms_norm_eps"),
        ({"hidden_act": "swoosh"}, UnknownConfigNameError, "has 'swoosh' under 'hidden_act', which LlamaForCausalLM"),
        ({"rope_parameters": {"rope_type": "spiral"}}, UnknownConfigNameError, r"under 'rope_parameters\.rope_type'"),
    ],
    ids=str,
)
def test_build_and_detect_refuse_at_once(checkpoint, tmp_path, change, error, message):
    path = checkpoint / "config.json"
    stated = path.read_text()
    path.write_text(json.dumps({**json.loads(stated), **change}))
    began = time.monotonic()
    try:
        with pytest.raises(error, match=message):
            build(str(checkpoint), tmp_path / "out", BuildSettings(engine="none", precision="fp32", verify="off"))
        if error is not UnknownConfigNameError:  # transformers' tables are looked up by --deep
            assert any(change.keys() & set(told.replace("'", " ").replace(".", " ").split())
                       for told in detect(str(checkpoint)).summary.will_not_work)  # fmt: skip
        assert time.monotonic() - began < 30
    finally:
        path.write_text(stated)
    assert not (tmp_path / "out").exists()
    assert issubclass(error, EdgellmError)


def test_quantize_refuses_before_it_makes_a_model(checkpoint, tmp_path):
    path = checkpoint / "config.json"
    stated = path.read_text()
    path.write_text(json.dumps({**json.loads(stated), "num_hidden_layers": 10**9}))
    try:
        with pytest.raises(ConfigSizeError, match="under 'num_hidden_layers'"):
            quantize(str(checkpoint), tmp_path / "out", QuantizationSettings(precision="fp8"))
    finally:
        path.write_text(stated)
