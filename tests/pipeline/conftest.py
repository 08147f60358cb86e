"""Tiny checkpoints that the pipeline's tests share, and functions that damage them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.testing.checkpoints import write_tiny_checkpoint

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 131, "hidden_size": 96,
    "intermediate_size": 112, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def quick():
    """Return a function that makes settings for a build without an engine, in float32."""

    def settings(**changes):
        return BuildSettings(**{"engine": "none", "precision": "fp32", **changes})

    return settings


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A tiny random Llama checkpoint in float32."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "llama", LLAMA)


@pytest.fixture
def llama_copy(llama, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(llama, tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def edit_weights():
    """Return the function that changes the tensors of a single-file checkpoint in place."""

    def edit(checkpoint, change):
        path = checkpoint / "model.safetensors"
        tensors = {name: tensor.copy() for name, tensor in load_file(path).items()}
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return edit


@pytest.fixture(scope="session")
def edit_config():
    """Return the function that changes keys of a checkpoint's config.json."""

    def edit(checkpoint, **changes):
        path = checkpoint / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.fixture
def nothing_left(tmp_path):
    """After the test, fail if a bundle or a work directory was left beside the output."""
    yield
    left = [path.name for path in tmp_path.iterdir() if path.name == "out" or path.name.startswith(".edgellm")]
    assert left == []
