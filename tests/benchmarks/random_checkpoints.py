"""Random checkpoints of a given shape, streamed to disk without holding them in memory."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_BYTES = 64 << 20
SHARD_BYTES = 4 << 30
BFLOAT16_MASK, BFLOAT16_EXPONENT = 0x807F, 0x3C00
"""Random sign and mantissa on the fixed exponent of 2^-7: finite and in float16's range."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a Llama- or Qwen2-shaped decoder."""

    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool = False
    bias: bool = False

    def config(self) -> dict[str, object]:
        """Return config.json."""
        architecture = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[self.model_type]
        return {
            "model_type": self.model_type, "architectures": [architecture], "hidden_size": self.hidden,
            "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied, "max_position_embeddings": 4096, "dtype": "bfloat16",
        }  # fmt: skip

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return all tensors by name, in the order of the forward."""
        head_dim = self.hidden // self.heads
        kv = self.kv_heads * head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            shapes[f"{prefix}.input_layernorm.weight"] = (self.hidden,)
            for name, width in (("q", self.hidden), ("k", kv), ("v", kv)):
                shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (width, self.hidden)
                if self.bias:
                    shapes[f"{prefix}.self_attn.{name}_proj.bias"] = (width,)
            shapes[f"{prefix}.self_attn.o_proj.weight"] = (self.hidden, self.hidden)
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (self.hidden,)
            for name in ("gate", "up"):
                shapes[f"{prefix}.mlp.{name}_proj.weight"] = (self.intermediate, self.hidden)
            shapes[f"{prefix}.mlp.down_proj.weight"] = (self.hidden, self.intermediate)
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab, self.hidden)
        return shapes

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(math.prod(shape) for shape in self.tensors().values())


def write_checkpoint(directory: Path, shape: Shape) -> Path:
    """Write a random bfloat16 checkpoint in shards of at most 4 GiB."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(shape.config(), indent=2))
    block = np.random.default_rng(0).integers(0, 2**16, BLOCK_BYTES // 2, dtype=np.uint16)
    block &= BFLOAT16_MASK
    block |= BFLOAT16_EXPONENT
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, dims in shape.tensors().items():
        nbytes = 2 * math.prod(dims)
        if size and size + nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = dims
        size += nbytes
    files = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{index + 1:05}-of-{len(shards):05}.safetensors" for index in range(len(shards))]
    )
    for file, tensors in zip(files, shards, strict=True):
        _write_shard(directory / file, tensors, block)
    if len(shards) > 1:
        weight_map = {name: file for file, tensors in zip(files, shards, strict=True) for name in tensors}
        index = {"metadata": {"total_size": 2 * shape.parameters}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def _write_shard(path: Path, tensors: dict[str, tuple[int, ...]], block: np.ndarray) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dims in tensors.items():
        nbytes = 2 * math.prod(dims)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [end, end + nbytes]}
        end += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = memoryview(block).cast("B")
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, end, BLOCK_BYTES):
            stream.write(data[: min(BLOCK_BYTES, end - start)])
