from __future__ import annotations

import json
import os
import shutil

import pytest
from gguf_files import write_llama_gguf

from edgellm_core.checkpoint.errors import MissingShardError, PickleCheckpointError
from edgellm_core.checkpoint.gguf.conversion import file_digest
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.untrusted.errors import CorruptJsonError


def test_directory(tiny_sharded, registry, report):
    checkpoint = open_checkpoint(str(tiny_sharded), registry=registry, report=report)
    assert checkpoint.directory == tiny_sharded
    assert (checkpoint.source.kind, checkpoint.source.id) == ("directory", str(tiny_sharded))
    assert checkpoint.source.revision is None
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.tensors["model.embed_tokens.weight"].shape == (64, 16)
    assert [path.name for path in checkpoint.tokenizer_files()] == ["tokenizer.json", "tokenizer_config.json"]


def test_gguf_file(tmp_path, registry, report):
    path = write_llama_gguf(tmp_path / "x.gguf")
    checkpoint = open_checkpoint(str(path), registry=registry, report=report)
    assert (checkpoint.source.kind, checkpoint.source.id) == ("gguf", str(path))
    assert checkpoint.source.digest == file_digest(path)
    assert checkpoint.directory.name.startswith(file_digest(path))
    assert "model.layers.1.mlp.up_proj.weight" in checkpoint.tensors


def test_converted_checkpoint_loads_in_transformers(tmp_path, registry, report):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = open_checkpoint(str(write_llama_gguf(tmp_path / "x.gguf")), registry=registry, report=report)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.directory)
    assert set(model.state_dict()) - {"lm_head.weight"} == set(checkpoint.tensors)
    assert AutoTokenizer.from_pretrained(checkpoint.directory)("ab")["input_ids"]


def test_digest_depends_on_content_and_not_on_place_or_time(single, tmp_path, registry, report):
    def digest(directory):
        return open_checkpoint(str(directory), registry=registry, report=report).source.digest

    copy = shutil.copytree(single, tmp_path / "copy")
    os.utime(copy / "model.safetensors", (1, 1))
    assert digest(copy) == digest(single)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert digest(copy) != digest(single)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_fingerprint_changes_with_every_file_that_is_read(single, registry, report, name):
    before = open_checkpoint(str(single), registry=registry, report=report).fingerprint()
    assert open_checkpoint(str(single), registry=registry, report=report).fingerprint() == before
    path = single / name
    path.write_text((path.read_text() if path.exists() else "") + "\n")
    assert open_checkpoint(str(single), registry=registry, report=report).fingerprint() != before


def test_fingerprint_changes_when_weights_are_written_again(single, registry, report):
    before = open_checkpoint(str(single), registry=registry, report=report).fingerprint()
    os.utime(single / "model.safetensors", ns=(1, 1))
    assert open_checkpoint(str(single), registry=registry, report=report).fingerprint() != before


def test_generation_config_comes_from_the_config_where_there_is_none(single, registry, report):
    (single / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    checkpoint = open_checkpoint(str(single), registry=registry, report=report)
    assert checkpoint.generation_config == {"eos_token_id": [7, 8]}
    (single / "generation_config.json").unlink()
    assert checkpoint.generation_config == {"bos_token_id": 1, "eos_token_id": 2}


def test_corrupt_config(single, registry, report):
    (single / "config.json").write_text('{"model_type": "llama",}')
    with pytest.raises(CorruptJsonError, match=r"config\.json', line 1, column"):
        open_checkpoint(str(single), registry=registry, report=report)


def test_pickle_only(single, registry, report):
    (single / "model.safetensors").rename(single / "pytorch_model.bin")
    with pytest.raises(PickleCheckpointError, match="save_pretrained"):
        open_checkpoint(str(single), registry=registry, report=report)


def test_missing_shard(sharded, registry, report):
    min(sharded.glob("model-*.safetensors")).unlink()
    with pytest.raises(MissingShardError, match="1 of them are missing"):
        open_checkpoint(str(sharded), registry=registry, report=report)
