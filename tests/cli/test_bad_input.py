"""Bad input to ``edgellm build``: one sentence on standard error, exit code 1, no traceback, nothing left behind."""

from __future__ import annotations

import json

import pytest

from edgellm_core.testing.checkpoints import write_tiny_checkpoint

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "llama", LLAMA)


def test_unknown_model_name_gets_a_suggestion(fails, tmp_path):
    assert "Did you mean 'smollm2-135m-instruct'?" in fails("build", "smollm2-135-instruct", "-o", tmp_path / "out")


def test_directory_without_config(fails, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json" in fails("build", tmp_path / "empty", "-o", tmp_path / "out")


def test_pickle_only_checkpoint(fails, tmp_path, model):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text((model / "config.json").read_text())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    message = fails("build", folder, "-o", tmp_path / "out")
    assert "pytorch_model.bin" in message
    assert "safetensors" in message


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "lama", "architectures": ["LamaForCausalLM"]},
            ["'lama'", "LamaForCausalLM", "'llama'", "--family"],
        ),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, ["'vit'", "ViTModel", "edgellm builds decoders with"]),
    ],
    ids=["unknown to transformers", "not a language model"],
)
def test_unsupported_architecture(fails, tmp_path, model, config, said):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    message = fails("build", folder, "-o", tmp_path / "out", "--engine", "none")
    assert all(part in message for part in said)
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


def test_output_directory_that_is_not_ours(fails, tmp_path, model):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert str(out) in fails("build", model, "-o", out, "--force")
    assert (out / "thesis.txt").read_text() == "mine"


def test_unwritable_disk(fails, model):
    assert "/proc/edgellm" in fails("build", model, "-o", "/proc/edgellm/out")


def test_unknown_compute_capability(fails, tmp_path, model):
    message = fails("build", model, "-o", tmp_path / "out", "--engine", "tensorrt-rtx", "--sm", "121000")
    assert "121000" in message
    assert "120" in message
    assert list(tmp_path.iterdir()) == []


def test_input_longer_than_sequence(fails, tmp_path, model):
    message = fails("build", model, "-o", tmp_path / "out", "--max-input-len", "64", "--max-seq-len", "32")
    assert "--max-input-len must not exceed --max-seq-len (32); got 64" in message


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(64), b"not a gguf file at all"])
def test_corrupt_gguf(fails, tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert "model.gguf" in fails("build", path, "-o", tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "value", "suggestion"),
    [
        ("--precision", "fp61", "Did you mean 'fp16'?"),
        ("--target", "onx", "Did you mean 'onnx'?"),
        ("--family", "lama", "Did you mean 'llama'?"),
        ("--verify", "ful", "Did you mean 'full'?"),
        ("--engine", "tensorrt-rxt", "Did you mean 'tensorrt-rtx'?"),
        ("--max-memory", "lots", "Write it like 8GiB"),
    ],
)
def test_wrong_choice_gets_a_suggestion(fails, tmp_path, model, option, value, suggestion):
    assert suggestion in fails("build", model, "-o", tmp_path / "out", option, value)
    assert list(tmp_path.iterdir()) == []
