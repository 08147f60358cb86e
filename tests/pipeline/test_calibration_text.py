"""The text of a quantization: the bundle's tokenizer, the model's context, texts of plugins."""

from __future__ import annotations

import json

import pytest
from tokenizers import decoders, pre_tokenizers

from edgellm_core.calibration.data.builtin_text import builtin_texts
from edgellm_core.calibration.data.packing import shuffled
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.calibration_text import calibration_text
from edgellm_core.pipeline.quantization_settings import QuantizationSettings
from edgellm_core.registry import ModelRegistry
from edgellm_core.runtime.errors import UnknownTokenError
from edgellm_core.testing.plugin_files import write_plugin


@pytest.fixture
def text_of():
    """Function from a checkpoint and settings to the samples and what was said."""

    def text(directory, *plugins, **settings):
        said = []
        report = Reporter("quantize", lambda event: said.append(event.message))
        checkpoint = open_checkpoint(str(directory), registry=ModelRegistry.load(), report=report)
        host = PluginHost.load(plugins, environ={})
        asked = QuantizationSettings(precision="fp8", **{"calib_data": "builtin", "calib_samples": 2, **settings})
        selection = host.select(checkpoint.config)
        return calibration_text(checkpoint, selection, asked, host=host, report=report), said

    return text


def test_samples_are_no_longer_than_the_context(llama, text_of):
    text, said = text_of(llama, calib_length=512)
    assert text.ids.shape == (2, 64)
    assert "Samples have 64 tokens in place of 512: the model's context is no longer." in said
    assert said[-1].startswith("Calibrating on 2 × 64 tokens of builtin calibration text")


def test_a_tokenizer_of_an_older_form_is_converted(llama_copy, text_of):
    """GPT-2's vocab.json and merges.txt, here of single bytes, so that ids can be read back."""
    (llama_copy / "tokenizer.json").unlink()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, "<|endoftext|>"])}
    (llama_copy / "vocab.json").write_text(json.dumps(vocabulary))
    (llama_copy / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (llama_copy / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UnknownTokenError, match=r"ids from 0 to 130, .* got \d+"):
        text_of(llama_copy, calib_length=64)
    config = json.loads((llama_copy / "config.json").read_text())
    (llama_copy / "config.json").write_text(json.dumps(config | {"vocab_size": 257}))
    text, _ = text_of(llama_copy, calib_length=64)
    letter = {index: letter for letter, index in vocabulary.items()}
    written = decoders.ByteLevel().decode([letter[index] for index in text.ids[0].tolist()])
    assert written in "<|endoftext|>".join(shuffled(builtin_texts("calibration"), 0))


def test_texts_of_plugins_are_found(llama, tmp_path, text_of):
    source = """
class Notes(CalibrationData):
    name = "notes"
    def texts(self):
        while True:
            yield "some text of a plugin"

@hookimpl
def edgellm_register_calibration_data(): return [Notes]
"""
    plugin = write_plugin(tmp_path, "notes", source)
    text, _ = text_of(llama, plugin, calib_data="notes", calib_length=8)
    assert text.source == "notes (of a plugin)"
