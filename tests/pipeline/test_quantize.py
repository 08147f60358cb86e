"""``edgellm quantize`` in Python: what is published, when, and what is refused before anything runs."""

from __future__ import annotations

import json

import pytest

import edgellm_core
from edgellm_core.calibration.errors import OutputExistsError
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.events import Reporter
from edgellm_core.pipeline.errors import QuantizedCheckpointError
from edgellm_core.pipeline.quantization_settings import QuantizationSettings
from edgellm_core.quantization.formats import FP8
from edgellm_core.quantization.layout import read_layout
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.calibration.conftest import LLAMA

QUICK = {"calib_data": "builtin", "calib_samples": 4, "calib_length": 32}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source"), LLAMA, dtype="float16")


def layout_of(folder):
    checkpoint = open_checkpoint(str(folder), registry=ModelRegistry.load(), report=Reporter("test"))
    return read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors)


def test_a_quantized_checkpoint_is_published(source, tmp_path):
    events = []
    out = edgellm_core.quantize(source, tmp_path / "out", precision="fp8", listener=events.append, **QUICK)
    assert out == tmp_path / "out"
    assert set(layout_of(out).linears.values()) == {FP8}
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "hf_quant_config.json", "model.safetensors.index.json", "tokenizer.json"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    notes = [event.message for event in events if event.event == "note"]
    assert any("Calibrating on 4 × 32 tokens of builtin" in note for note in notes)
    progress = [event for event in events if event.event == "progress"]
    assert progress[-1].completed == progress[-1].total
    assert "samples/s" in progress[-1].message


def test_an_existing_output_is_kept_or_replaced_as_asked(source, tmp_path):
    out = tmp_path / "out"
    edgellm_core.quantize(source, out, precision="fp8", **QUICK)
    with pytest.raises(OutputExistsError, match="Give --force to replace it"):
        edgellm_core.quantize(source, out, precision="mxfp8", **QUICK)
    edgellm_core.quantize(source, out, precision="mxfp8", force=True, **QUICK)
    assert json.loads((out / "hf_quant_config.json").read_text())["quantization"]["quant_algo"] == "MXFP8"


def test_an_output_that_is_something_else_is_never_replaced(source, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-mum.txt").write_text("Hello")
    with pytest.raises(OutputExistsError, match="something that is not a quantized checkpoint"):
        edgellm_core.quantize(source, tmp_path / "letters", precision="fp8", force=True, **QUICK)
    assert (tmp_path / "letters" / "to-mum.txt").read_text() == "Hello"


def test_a_quantized_source_is_refused(source, tmp_path):
    out = edgellm_core.quantize(source, tmp_path / "out", precision="fp8", **QUICK)
    with pytest.raises(QuantizedCheckpointError, match="quantized"):
        edgellm_core.quantize(out, tmp_path / "twice", precision="fp8", **QUICK)
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"precision": "fp9"}, UnknownNameError, "Did you mean 'fp8'"),
        ({"precision": "fp8", "lm_head": "int4"}, UnknownNameError, "Unknown quantization scheme 'int4'"),
        ({"precision": "fp8", "kv_cache": "fp4"}, UnknownNameError, "Did you mean 'fp8'"),
        ({"precision": "fp8", "device": "gpu"}, UnknownNameError, "Unknown device 'gpu'"),
        ({"precision": "fp8", "calib_samples": 0}, InvalidSettingError, "--calib-samples must be at least 1"),
        ({"precision": "fp16", "lm_head": "fp8"}, InvalidSettingError, "--lm-head needs a --precision that quantizes"),
        ({"precision": "fp16", "skip": ("*",)}, InvalidSettingError, "--skip needs a --precision that quantizes"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_can_not_work_are_refused_at_once(settings, error, message):
    with pytest.raises(error, match=message):
        QuantizationSettings(**settings)


def test_an_element_type_is_no_scheme(source, tmp_path):
    with pytest.raises(InvalidSettingError, match="--precision must be a quantization scheme; got fp16"):
        edgellm_core.quantize(source, tmp_path / "out", precision="fp16")
