"""Checkpoints to quantize, small enough for every test and with widths that every scheme divides."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from edgellm_core.calibration.request import QuantizationRequest
from edgellm_core.calibration.run import quantize_checkpoint
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.quantization.schemes import find_scheme
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.tracing.configuration import load_config

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "tie_word_embeddings": False, "max_position_embeddings": 128,
}  # fmt: skip
"""Grouped queries, and widths that blocks of 128 divide."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Keep tiny models on one thread: two mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """Return a random Llama checkpoint in float16."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("llama"), LLAMA, dtype="float16")


@pytest.fixture(scope="session")
def ids():
    """Return token ids [4, 32]."""
    return torch.randint(0, 256, (4, 32), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def opened():
    """Return a function that opens a directory: checkpoint and transformers config."""

    def open_it(directory):
        checkpoint = open_checkpoint(str(directory), registry=ModelRegistry.load(), report=Reporter("test"))
        family = PluginHost.load().select(checkpoint.config).family
        return checkpoint, load_config(checkpoint.directory, checkpoint.config, family)

    return open_it


@pytest.fixture
def quantized(opened, tmp_path):
    """Return a function that quantizes a directory and returns folder, tensors and notes."""

    def run(directory, ids, scheme, *, work="work", lm_head=None, brought=None, **request):
        events = []
        checkpoint, config = opened(directory)
        wanted = QuantizationRequest(
            scheme=find_scheme(scheme, brought or {}),
            lm_head=find_scheme(lm_head, {}) if lm_head else None,
            arithmetic="float32",
            **request,
        )
        report = Reporter("quantize", events.append)
        folder = quantize_checkpoint(checkpoint, config, wanted, ids, tmp_path / work, fingerprint="", report=report)
        return folder, read_tensors(folder), [event.message for event in events if event.event == "note"]

    return run


def read_tensors(folder):
    """Return all tensors of a folder of safetensors files."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors
