from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgellm_core.runtime.errors import InvalidTextError, TokenizerFileError
from edgellm_core.runtime.tokenizer import REPLACEMENT, BundleTokenizer

SPECIAL = ["<s>", "</s>", "<|im_end|>"]


def byte_level():
    """One token a byte, as GPT-2's alphabet spells them."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def sentencepiece():
    """Words with a leading space mark, and single bytes for the rest, as Llama 2 spells them."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁Hello", "▁world", "wor", "ld", "!"]
    tokenizer = Tokenizer(
        models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def write(directory, tokenizer, config=None):
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    kinds = {"byte_level": byte_level(), "sentencepiece": sentencepiece()}
    return {kind: BundleTokenizer(write(root / kind, tokenizer)) for kind, tokenizer in kinds.items()}


@pytest.mark.parametrize("text", ["Hello", "naïve 日本語 👩‍👩‍👧", "a\n\n b  c "])
def test_text_survives_encoding_and_decoding(bundles, text):
    tokenizer = bundles["byte_level"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@given(ids=st.lists(st.integers(0, 300), max_size=40))
def test_streamed_pieces_are_the_whole_text(bundles, kind, ids):
    tokenizer = bundles[kind]
    known = [identifier for identifier in ids if identifier < (259 if kind == "byte_level" else 266)]
    stream = tokenizer.stream()
    pieces = [stream.push(identifier) for identifier in known]
    streamed, whole = "".join(pieces) + stream.flush(), tokenizer.decode(known)
    if kind == "byte_level" or REPLACEMENT not in whole:
        assert streamed == whole
    assert stream.flush() == ""


@pytest.mark.parametrize("text", ["\ud800", "half \udcff of a pair"])
def test_text_that_is_no_unicode_is_named(bundles, text):
    with pytest.raises(InvalidTextError, match=r"character \d+ is '\\ud[8c]\w\w', half of a pair"):
        next(iter(bundles.values())).encode(text)


@given(text=st.text(max_size=30))
def test_streaming_never_shows_half_a_character(bundles, text):
    stream = bundles["byte_level"].stream()
    pieces = [stream.push(identifier) for identifier in bundles["byte_level"].encode(text)]
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)
        assert "".join(pieces) == text


def test_each_character_comes_with_its_last_byte(bundles):
    stream = bundles["byte_level"].stream()
    pieces = [stream.push(identifier) for identifier in bundles["byte_level"].encode("é日👩")]
    assert pieces == ["", "é", "", "", "日", "", "", "", "👩"]


def test_unfinished_character_is_shown_at_the_end_only(bundles):
    stream = bundles["byte_level"].stream()
    ids = bundles["byte_level"].encode("a日")[:-1]
    assert [stream.push(identifier) for identifier in ids] == ["a", "", ""]
    assert stream.flush() == REPLACEMENT


def test_special_tokens_are_skipped_and_do_not_eat_spaces(bundles):
    tokenizer = bundles["sentencepiece"]
    ids = [tokenizer.backend.token_to_id(token) for token in ("<s>", "▁Hello", "<|im_end|>", "▁world", "!", "</s>")]
    stream = tokenizer.stream()
    assert [stream.push(identifier) for identifier in ids] == ["", "Hello", "", " world", "!", ""]
    assert tokenizer.decode(ids) == "Hello world!"


@pytest.mark.parametrize("eos", ["</s>", {"content": "</s>", "lstrip": False, "special": True}])
def test_special_tokens_are_read_in_both_spellings(tmp_path, eos):
    config = {"eos_token": eos, "pad_token": None, "add_prefix_space": False, "extra_special_tokens": {}}
    tokenizer = BundleTokenizer(write(tmp_path, byte_level(), config))
    assert tokenizer.special_tokens == {"eos_token": "</s>"}
    assert tokenizer.eos_id == 257


@pytest.mark.parametrize("single", [None, "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("config", [{}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}])
def test_edges_equal_transformers(tmp_path, single, config):
    from transformers import PreTrainedTokenizerFast

    tokenizer = byte_level()
    if single:
        edges = [("<s>", 256), ("</s>", 257)]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=edges)
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast", **config}
    bundle = BundleTokenizer(write(tmp_path, tokenizer, config))
    assert bundle.encode("ab") == PreTrainedTokenizerFast.from_pretrained(tmp_path)("ab")["input_ids"]
    assert 256 not in bundle.encode("ab", add_special_tokens=False)


def test_padding_and_truncation_stored_in_the_file_are_off(tmp_path):
    tokenizer = byte_level()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    bundle = BundleTokenizer(write(tmp_path, tokenizer))
    assert len(bundle.encode("abcde")) == 5
    assert len(bundle.encode("a")) == 1


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(TokenizerFileError, match=r"tokenizer\.json can't be used: "):
        BundleTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerFileError, match=r"tokenizer\.json can't be used: "):
        BundleTokenizer(tmp_path)
    write(tmp_path, byte_level())
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(
        TokenizerFileError, match=r"tokenizer_config\.json can't be used: expected an object, found list"
    ):
        BundleTokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerFileError, match="not valid JSON"):
        BundleTokenizer(tmp_path)


def word_piece():
    """Words apart, as BERT decodes them."""
    words = ["[UNK]", *["hello", "world", "isn", "'", "t", "n't", ".", ",", "!", "?", "a", "b", "s", "##s"]]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


@given(ids=st.lists(st.integers(1, 14), max_size=12))
def test_streamed_pieces_are_the_text_that_is_cleaned_up(ids):
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = BundleTokenizer(write(Path(folder), word_piece(), {"clean_up_tokenization_spaces": True}))
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)


@pytest.mark.parametrize("forced", [True, False])
def test_only_forced_cleaning_touches_bpe(tmp_path, forced):
    config = {"clean_up_tokenization_spaces": True}
    if forced:
        config["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"] = True
    tokenizer = BundleTokenizer(write(tmp_path, byte_level(), config))
    assert tokenizer.decode(tokenizer.encode("a . b")) == ("a. b" if forced else "a . b")


def no_word_for_the_unknown(state):
    state["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}
    state["added_tokens"] = []


def panic(state):
    state["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "X", "type_id": 0}}], "pair": [],
        "special_tokens": {},
    }  # fmt: skip


@pytest.mark.parametrize("change", [no_word_for_the_unknown, panic])
def test_a_text_that_the_library_fails_on_is_one_sentence(tmp_path, change):
    write(tmp_path, byte_level())
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    change(state)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(TokenizerFileError, match=r"tokenizer\.json can't be used: [^\n]*$"):
        BundleTokenizer(tmp_path).encode("b")


def test_a_panic_while_reading_is_one_sentence(tmp_path):
    write(tmp_path, byte_level())
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    state["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(TokenizerFileError, match=r"tokenizer\.json can't be used: Precompiled: .*precompiled_charsmap"):
        BundleTokenizer(tmp_path)
