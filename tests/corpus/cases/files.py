"""Weights as files: indexes that disagree with them, tensors in two of them, types that are cast."""

from __future__ import annotations

import json
import shutil
import struct
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.corpus.case import Made, case
from tests.corpus.checkpoints import LLAMA, edit_json, edit_tensors, llama

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INDEX = "model.safetensors.index.json"


def sharded(folder: Path) -> tuple[Path, Path]:
    """Write a checkpoint of several files twice; return both."""
    source = write_tiny_checkpoint(folder / "model", LLAMA, max_shard_size="20KB")
    return source, shutil.copytree(source, folder / "original")


def edit_map(source: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Change the map of an index in place."""
    weight_map = json.loads((source / INDEX).read_text(encoding="utf-8"))["weight_map"]
    change(weight_map)
    edit_json(source / INDEX, weight_map=weight_map)


def copy_into_another(source: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Put a changed copy of the last norm into another file, which comes later."""
    files = sorted(source.glob("model-*.safetensors"))
    holder = next(file for file in files[:-1] if "model.layers.0.input_layernorm.weight" in load_file(file))
    copy = change(load_file(holder)["model.layers.0.input_layernorm.weight"])
    save_file({**load_file(files[-1]), "model.layers.0.input_layernorm.weight": copy}, files[-1])


@case(outcome="right")
def index_without_metadata(folder: Path) -> Made:
    """An index of shards without the key metadata, on which transformers raises a KeyError."""
    source, original = sharded(folder)
    edit_json(source / INDEX, remove=("metadata",))
    return Made(source, original)


@case(outcome="right", note="numbered files are read as one checkpoint")
def shards_without_index(folder: Path) -> Made:
    """Numbered files, and no index of them."""
    source, original = sharded(folder)
    (source / INDEX).unlink()
    return Made(source, original)


@case(outcome="refused", message="of them are missing")
def numbered_file_missing(folder: Path) -> Made:
    """Numbered files without an index, one of which is missing."""
    source, _original = sharded(folder)
    (source / INDEX).unlink()
    min(source.glob("model-*.safetensors")).unlink()
    return Made(source)


@case(outcome="refused", message="of them are missing")
def shard_missing(folder: Path) -> Made:
    """An index that names a file which is not there."""
    source, _original = sharded(folder)
    max(source.glob("model-*.safetensors")).unlink()
    return Made(source)


@case(outcome="right", note="names the wrong file for 1 tensor(s), for example 'model.norm.weight'")
def index_names_the_wrong_file(folder: Path) -> Made:
    """An index that places a tensor in another file than it lies in; transformers looks into all of them."""
    source, original = sharded(folder)
    edit_map(source, lambda places: places.update({"model.norm.weight": places["model.embed_tokens.weight"]}))
    return Made(source, original)


@case(outcome="right", note="lists, but no file holds, 1 tensor(s), for example 'model.rope.table'")
def index_lists_what_no_file_holds(folder: Path) -> Made:
    """An index with a tensor that is in no file and that the model does not need."""
    source, original = sharded(folder)
    edit_map(source, lambda places: places.update({"model.rope.table": places["model.norm.weight"]}))
    return Made(source, original)


@case(outcome="right", note="1 tensor(s) lie in several files with equal bytes")
def tensor_in_two_files(folder: Path) -> Made:
    """A tensor that two files hold, with the same bytes."""
    source, original = sharded(folder)
    copy_into_another(source, torch.clone)
    return Made(source, original)


@case(outcome="refused", values_only=True, message="'model.layers.0.input_layernorm.weight' lies in")
def tensor_in_two_files_differs(folder: Path) -> Made:
    """A tensor that two files hold, with one number changed; transformers takes the last without a word."""
    source, _original = sharded(folder)
    copy_into_another(source, lambda norm: norm + torch.eye(len(norm))[5])
    return Made(source)


@case(outcome="refused", message="and the two differ")
def tensor_in_two_files_of_other_types(folder: Path) -> Made:
    """A tensor that two files hold in different types."""
    source, _original = sharded(folder)
    copy_into_another(source, torch.Tensor.half)
    return Made(source)


def write_header(source: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON header of a checkpoint in one file; the data stays."""
    path = source / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    fields = json.loads(raw[8 : 8 + length])
    change(fields)
    header = json.dumps(fields).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])


@case(outcome="right")
def metadata_null(folder: Path) -> Made:
    """A safetensors header whose metadata is null."""
    source = llama(folder)
    shutil.copytree(source, folder / "original")
    write_header(source, lambda fields: fields.update({"__metadata__": None}))
    return Made(source, folder / "original")


@case(outcome="refused", message="occurs twice in its header")
def name_twice_in_one_header(folder: Path) -> Made:
    """A safetensors header that holds one name twice."""
    source = llama(folder)
    path = source / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"model.layers.1.self_attn.k_proj", b"model.layers.0.self_attn.k_proj", 1))
    return Made(source)


@case(outcome="right")
def float64_norms(folder: Path) -> Made:
    """Norms in float64, all else in float32."""
    source = llama(folder)
    edit_tensors(source, lambda t: {name: x.double() if "norm" in name else x for name, x in t.items()})
    return Made(source)


@case(outcome="right", settings={"precision": "fp16"}, tolerance=2e-2, new_tokens=0)
def float64_as_fp16(folder: Path) -> Made:
    """A whole checkpoint in float64, built in the default precision."""
    return Made(llama(folder, dtype="float64"))


@case(outcome="right")
def integer_norm(folder: Path) -> Made:
    """A norm whose weights are integers, which transformers casts."""
    source = llama(folder)
    edit_tensors(source, lambda t: t | {"model.norm.weight": torch.arange(32) % 3 + 1})
    return Made(source)


@case(outcome="refused", message="has element type F8_E4M3, which can't be turned into F32")
def float8_without_scales(folder: Path) -> Made:
    """Weights in float8 that no quantization is named for."""
    source = llama(folder)
    name = "model.layers.0.mlp.up_proj.weight"
    edit_tensors(source, lambda t: t | {name: t[name].to(torch.float8_e4m3fn)})
    return Made(source)


@case(outcome="right")
def tied_in_another_type(folder: Path) -> Made:
    """An output head that is tied to the embedding, held as well, equal and in another type."""
    source = llama(folder, dtype="bfloat16", tie_word_embeddings=True)
    edit_tensors(source, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].float()})
    return Made(source)


@case(outcome="refused", values_only=True, message="ties 'lm_head.weight' to 'model.embed_tokens.weight'")
def tied_but_different(folder: Path) -> Made:
    """An output head that config.json ties to the embedding and that differs from it."""
    source = llama(folder, tie_word_embeddings=True)
    edit_tensors(source, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"] * 1.01})
    return Made(source)


@case(outcome="right")
def loader_keys(folder: Path) -> Made:
    """Keys of config.json that loaders write and that say nothing about the model."""
    source = llama(folder)
    edit_json(source / "config.json", _model_name_or_path="somewhere", _from_auto=True, _commit_hash="0123")
    return Made(source)


def beside_the_plain(folder: Path, **keys: Any) -> Made:
    """Write a small Llama with further keys in config.json; the original is loaded without them."""
    source = llama(folder)
    original = shutil.copytree(source, folder / "original")
    edit_json(source / "config.json", **keys)
    return Made(source, original)


@case(outcome="right")
def kernels_of_another_machine(folder: Path) -> Made:
    """Attention by a package that is not installed, which some loaders write down."""
    keys = {"_attn_implementation": "flash_attention_2", "attn_implementation": "flex_attention"}
    return beside_the_plain(folder, **keys)


@case(outcome="right")
def other_returns_of_a_forward(folder: Path) -> Made:
    """What a forward returns beside the logits and in which container; transformers 5 stops at a plain tuple."""
    keys = {"output_attentions": True, "output_hidden_states": True, "use_cache": False, "torchscript": True}
    return beside_the_plain(folder, return_dict=False, **keys)


@case(outcome="refused", message="'_window_pattern'")
def unknown_key_with_underscore(folder: Path) -> Made:
    """A key of config.json that looks like a loader's and that nothing reads."""
    source = llama(folder)
    edit_json(source / "config.json", _window_pattern=6)
    return Made(source)
