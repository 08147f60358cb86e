"""Tiny checkpoints, and a report that keeps what it was told."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from edgellm_core.events import Event, Reporter
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.checkpoints import write_tiny_checkpoint

# pytest imports tests by path; this lets them share the modules of this folder that are no tests
sys.path.insert(0, str(Path(__file__).parent))

TINY = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_single(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("single"), TINY, dtype="bfloat16")


@pytest.fixture(scope="session")
def tiny_sharded(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("sharded"), TINY, max_shard_size="4KB")


@pytest.fixture
def single(tiny_single, tmp_path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(tiny_single, tmp_path / "single"))


@pytest.fixture
def sharded(tiny_sharded, tmp_path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(tiny_sharded, tmp_path / "sharded"))


@pytest.fixture
def registry() -> ModelRegistry:
    return ModelRegistry.load()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def report(events) -> Reporter:
    return Reporter("checkpoint", events.append)
