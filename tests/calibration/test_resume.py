"""A quantization that is killed goes on after the last finished layer, to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from edgellm_core.calibration.resume import LayerRecord, Progress
from edgellm_core.quantization.formats import INT4
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.calibration.conftest import LLAMA, read_tensors

KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from edgellm_core.calibration.request import QuantizationRequest
from edgellm_core.calibration.run import quantize_checkpoint
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.quantization.schemes import find_scheme
from edgellm_core.registry import ModelRegistry
from edgellm_core.tracing.configuration import load_config

source, work, scheme, moment = sys.argv[1:]

def listener(event):
    if event.message.startswith(moment):
        os.kill(os.getpid(), signal.SIGKILL)

report = Reporter("quantize", listener)
checkpoint = open_checkpoint(source, registry=ModelRegistry.load(), report=report)
config = load_config(checkpoint.directory, checkpoint.config, PluginHost.load().select(checkpoint.config).family)
ids = torch.randint(0, 256, (4, 32), generator=torch.Generator().manual_seed(1))
request = QuantizationRequest(scheme=find_scheme(scheme, {}), arithmetic="float32")
quantize_checkpoint(checkpoint, config, request, ids, Path(work), fingerprint="", report=report)
"""


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    return write_tiny_checkpoint(
        tmp_path_factory.mktemp("deep"), {**LLAMA, "num_hidden_layers": 4}, dtype="float16", tokenizer=False
    )


@pytest.mark.parametrize("scheme", ["fp8", "int4_awq"])
def test_a_killed_quantization_resumes_to_the_same_bytes(deep, ids, quantized, tmp_path, scheme):
    arguments = [str(deep), str(tmp_path / "work"), scheme, "layer 3 of 4"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=os.environ, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    record = json.loads((tmp_path / "work" / "progress.json").read_text())
    assert len(record["layers"]) == 2
    resumed, ours, notes = quantized(deep, ids, scheme)
    assert "Going on after layer 2 of 4." in notes
    whole, expected, _notes = quantized(deep, ids, scheme, work="whole")
    assert set(ours) == set(expected)
    assert all(
        torch.equal(ours[name].reshape(-1).view(torch.uint8), expected[name].reshape(-1).view(torch.uint8))
        for name in expected
    )
    for path in whole.iterdir():
        assert path.read_bytes() == (resumed / path.name).read_bytes()


def test_another_setting_starts_anew(deep, ids, quantized):
    quantized(deep, ids, "fp8")
    _folder, tensors, notes = quantized(deep, ids, "fp8", skip=("*.0.*",))
    assert not [note for note in notes if note.startswith("Going on")]
    assert tensors["model.layers.0.mlp.up_proj.weight"].dtype == torch.float16


def test_the_files_of_the_hidden_states_go_when_it_is_done(deep, ids, quantized):
    folder, _tensors, _notes = quantized(deep, ids, "fp8")
    assert not list((folder.parent / "states").iterdir())


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = LayerRecord(linears={"a": INT4}, excluded={"b": "why"}, unscaled=("c",), cached=True, strengths={"d": 0.5})
    assert LayerRecord.from_json(json.loads(json.dumps(asdict(record)))) == record
    progress = Progress(tmp_path / "work", "one")
    progress.add(record)
    assert Progress(tmp_path / "work", "one").layers == [record]
    (tmp_path / "work" / "other").write_text("of the first")
    assert Progress(tmp_path / "work", "two").layers == []
    assert not (tmp_path / "work" / "other").exists()


def test_a_record_cut_short_by_a_crash_starts_anew(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "progress.json").write_text('{"fingerprint": "on')
    assert Progress(tmp_path / "work", "one").layers == []
    assert read_tensors(tmp_path / "work") == {}
