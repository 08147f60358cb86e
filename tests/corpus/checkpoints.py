"""Small checkpoints that the cases start from, and ways to change what lies on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from edgellm_core.testing.checkpoints import write_tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 96, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip

Tensors = dict[str, torch.Tensor]


def llama(folder: Path, *, dtype: str = "float32", **fields: Any) -> Path:
    """Write a small Llama with other fields of its config; return its folder."""
    return write_tiny_checkpoint(folder / "model", LLAMA | fields, dtype=dtype)


def edit_tensors(directory: Path, change: Callable[[Tensors], Tensors], *, metadata: Any = None) -> None:
    """Replace the tensors of a checkpoint in one file."""
    path = directory / "model.safetensors"
    changed = {name: tensor.clone().contiguous() for name, tensor in change(load_file(path)).items()}
    save_file(changed, path, metadata=metadata or {"format": "pt"})


def edit_json(path: Path, *, remove: tuple[str, ...] = (), **fields: Any) -> None:
    """Set and remove keys of a JSON file."""
    contents = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps({k: v for k, v in contents.items() if k not in remove}), encoding="utf-8")
