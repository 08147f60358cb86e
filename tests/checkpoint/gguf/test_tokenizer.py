from __future__ import annotations

import json

import gguf
import pytest
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from edgellm_core.checkpoint.errors import GgufConversionError
from edgellm_core.checkpoint.gguf import tokenizer as module
from edgellm_core.checkpoint.gguf.header import read_gguf_header
from edgellm_core.checkpoint.gguf.tokenizer import write_tokenizer

LETTERS = [*bytes_to_unicode().values()]
WORDS = ["<｜begin▁of▁sentence｜>", "<｜end｜>", "<think>", "tool call", *LETTERS, "ab", "bc", "abc"]
KINDS = [3, 3, 4, 4, *[1] * (len(WORDS) - 4)]


def write(path, *, architecture="qwen2", model="gpt2", pre="gpt-2", words=WORDS, kinds=KINDS, **fields):
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    if model == "gpt2":
        writer.add_token_merges(["a b", "b c"])
    else:
        writer.add_token_scores([-float(index) for index in range(len(words))])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for key, value in fields.items():
        name = "tokenizer." + key.replace("__", ".")
        writer.add_bool(name, value) if isinstance(value, bool) else writer.add_string(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_gguf_header(path)


def test_tokens_that_are_not_in_the_byte_alphabet_are_whole(tmp_path, report):
    write_tokenizer(write(tmp_path / "x.gguf"), tmp_path / "made", report)
    made = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert made("<｜end｜>ab<think>tool call").input_ids == [1, WORDS.index("ab"), 2, 3]
    assert (made.bos_token_id, made.eos_token_id, made.unk_token) == (0, 1, None)
    assert made.decode([0, 2, 1], skip_special_tokens=True) == "<think>"
    assert len(made) == len(WORDS)  # transformers would add <|endoftext|>, beyond the embedding


@pytest.mark.parametrize(("pre", "expected"), [("gpt-2", ["ab", "c"]), ("llama-bpe", ["abc"])])
def test_whole_words_are_looked_up_before_merging(tmp_path, report, pre, expected):
    write_tokenizer(write(tmp_path / "x.gguf", pre=pre), tmp_path / "made", report)
    made = AutoTokenizer.from_pretrained(tmp_path / "made")
    found = made.convert_ids_to_tokens(made("abc", add_special_tokens=False).input_ids)
    assert found == expected
    assert made("a").input_ids[0] == (0 if pre == "llama-bpe" else WORDS.index("a"))


@pytest.mark.parametrize(("stated", "begins"), [(True, True), (False, False)])
def test_first_token_is_added_as_the_file_says(tmp_path, report, stated, begins):
    header = write(tmp_path / "x.gguf", pre="llama-bpe", ggml__add_bos_token=stated)
    write_tokenizer(header, tmp_path / "made", report)
    assert (AutoTokenizer.from_pretrained(tmp_path / "made")("a").input_ids[0] == 0) == begins


@pytest.mark.parametrize("prefix", [True, False])
def test_space_in_front_of_a_text(tmp_path, report, prefix):
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    kinds = [2, 3, 3, *[6] * 256, 1, 1, 1]
    header = write(tmp_path / "x.gguf", model="llama", words=words, kinds=kinds, ggml__add_space_prefix=prefix)
    write_tokenizer(header, tmp_path / "made", report)
    made = AutoTokenizer.from_pretrained(tmp_path / "made")
    found = made.convert_ids_to_tokens(made("a", add_special_tokens=False).input_ids)
    assert found == (["▁a"] if prefix else ["a"])
    assert made.decode(made("a", add_special_tokens=False).input_ids) == "a"


def test_runs_of_blanks_in_a_gemma_vocabulary(tmp_path, report):
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "  ", "<table>"]
    kinds = [3, 3, 3, 2, *[6] * 256, 1, 1, 4, 4]
    header = write(tmp_path / "x.gguf", architecture="gemma3", model="llama", words=words, kinds=kinds)
    write_tokenizer(header, tmp_path / "made", report)
    made = AutoTokenizer.from_pretrained(tmp_path / "made")
    ids = made("a  a<table>", add_special_tokens=False).input_ids
    assert ids == [words.index(word) for word in ("a", "  ", "a", "<table>")]
    assert made.decode(ids) == "a  a<table>"


def test_all_chat_templates_are_kept(tmp_path, report):
    header = write(tmp_path / "x.gguf", chat_template="{{ 'default' }}", chat_template__tool_use="{{ 'tools' }}")
    write_tokenizer(header, tmp_path / "made", report)
    made = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert made.chat_template == {"default": "{{ 'default' }}", "tool_use": "{{ 'tools' }}"}


def test_file_without_a_tokenizer(tmp_path, report, events):
    writer = gguf.GGUFWriter(str(tmp_path / "x.gguf"), "qwen2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_tokenizer(read_gguf_header(tmp_path / "x.gguf"), tmp_path / "made", report)
    assert not (tmp_path / "made").exists()
    assert events[-1].message == "'x.gguf' has no tokenizer, so the checkpoint has none."


def test_moved_token_is_refused(tmp_path, report, monkeypatch):
    whole = module._Description.to_json

    def moved(self):
        made = json.loads(whole(self))
        vocab = made["model"]["vocab"]
        vocab["ab"], vocab["a"] = vocab["a"], vocab["ab"]
        made["added_tokens"] = [token for token in made["added_tokens"] if token["id"] != 3]
        del vocab["tool call"]
        return json.dumps(made)

    monkeypatch.setattr(module._Description, "to_json", moved)
    with pytest.raises(GgufConversionError, match="its token 'tool call' would be lost"):
        write_tokenizer(write(tmp_path / "x.gguf"), tmp_path / "made", report)
