"""A tiny checkpoint to compare precisions of, and a comparison of it."""

from __future__ import annotations

import pytest
from safetensors.numpy import load_file, save_file

from edgellm_core.report.compare import compare
from edgellm_core.report.settings import CompareSettings
from edgellm_core.testing.checkpoints import write_tiny_checkpoint

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 131, "hidden_size": 96,
    "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

FEW = {"verify": "off", "quality_samples": 2, "quality_length": 32}


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A tiny random Llama checkpoint in float32."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "llama", LLAMA)


@pytest.fixture(scope="session")
def overflowing(tmp_path_factory):
    """A checkpoint with a weight that float16 can't hold."""
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "overflowing", LLAMA)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    changed = tensors[name].copy()
    changed[0, 0] = 1e6
    save_file({**tensors, name: changed}, path, metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="session")
def compared(llama, tmp_path_factory):
    """The folder of a comparison of two precisions, and its numbers."""
    out = tmp_path_factory.mktemp("compared") / "out"
    settings = CompareSettings(
        precisions=("fp32", "fp16"), prompts=("word <script>1</script>", "a b"), max_new_tokens=4, build=FEW
    )
    return out, compare(str(llama), out, settings)
