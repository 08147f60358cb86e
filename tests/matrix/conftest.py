"""Packs with families of the tests' own, and the cache that the tests of a run share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.plugin_files import HEADER

# pytest imports tests by path; this lets them share the modules of this folder that are no tests
sys.path.insert(0, str(Path(__file__).parent))

FAMILY = """
class {class_name}(ModelFamily):
    name = {name!r}
    def tiny_config(self):
        {body}
"""
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def pack(tmp_path):
    """Return a function that writes a pack: name of a family → body of its tiny_config; and its matrix.yaml."""

    def write(families, matrix):
        folder = tmp_path / "pack"
        folder.mkdir()
        classes = {name: name.title() for name in families}
        source = HEADER + "".join(
            FAMILY.format(class_name=classes[name], name=name, body=body) for name, body in families.items()
        )
        listed = ", ".join(classes.values())
        source += f"\n@hookimpl\ndef edgellm_register_families():\n    return [{listed}]\n"
        (folder / "__init__.py").write_text(source)
        (folder / "matrix.yaml").write_text(matrix)
        return folder

    return write


@pytest.fixture
def tiny_config():
    """Body of a tiny_config that returns a two-layer Llama with a context of 64 tokens."""
    return f"return {CONFIG!r}"


@pytest.fixture(scope="session")
def registry():
    return ModelRegistry.load()


@pytest.fixture
def load():
    """Return a function that loads the in-tree plugins and those of the given folders."""
    return lambda *paths: PluginHost.load(paths, {})
