"""What a precision holds, and what it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.corpus.case import Made, case
from tests.corpus.checkpoints import edit_tensors, llama

if TYPE_CHECKING:
    from pathlib import Path


@case(outcome="right", settings={"precision": "fp16"}, tolerance=2e-2, new_tokens=0)
def float32_as_fp16(folder: Path) -> Made:
    """A float32 checkpoint in the default precision."""
    return Made(llama(folder))


@case(outcome="right", settings={"precision": "bf16"}, tolerance=5e-2, new_tokens=0)
def bfloat16(folder: Path) -> Made:
    """A bfloat16 checkpoint in its own precision."""
    return Made(llama(folder, dtype="bfloat16"))


@case(outcome="refused", values_only=True, settings={"precision": "fp16"}, message="--precision bf16")
def weight_beyond_float16(folder: Path) -> Made:
    """A weight that float16 can't hold."""
    source = llama(folder)

    def raise_one(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e6
        return tensors

    edit_tensors(source, raise_one)
    return Made(source)


@case(outcome="right", settings={"precision": "fp16"}, tolerance=2e-2, new_tokens=0)
def float32_residual_in_fp16(folder: Path) -> Made:
    """Mamba 2, whose residual is float32 in every precision, before norms with float16 weights."""
    config = {
        "model_type": "mamba2", "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4,
        "head_dim": 16, "n_groups": 2, "state_size": 8, "chunk_size": 8, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return Made(write_tiny_checkpoint(folder / "model", config))
