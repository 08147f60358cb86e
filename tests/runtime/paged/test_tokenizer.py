"""The runtime's tokenizer, emulated: ids worked out by hand from NVIDIA's ``cpp/tokenizer``."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from edgellm_core.runtime.errors import RuntimeTokenizerError
from edgellm_core.runtime.paged.tokenizer import RuntimeTokenizer

LETTERS = {letter: index for index, letter in enumerate("abcdĠ")}
"""``Ġ`` stands for a space, as in GPT-2's table."""


def _tokenizer(vocabulary, *, settings=None, model=None, **stated):
    whole = {"model": {"type": "BPE", "vocab": vocabulary, **(model or {})}, **stated}
    return RuntimeTokenizer(whole, settings or {})


def test_pairs_merge_by_the_id_of_what_they_make():
    """``bc`` (5) before ``ab`` (6), so ``abc`` is a, bc, whatever the merges say."""
    tokenizer = _tokenizer({**LETTERS, "bc": 5, "ab": 6}, model={"merges": ["a b", "b c"]})
    assert tokenizer.encode("abc") == [0, 5]
    assert tokenizer.encode("abcabc") == [0, 5, 0, 5]


def test_a_piece_that_is_a_token_does_not_merge():
    assert _tokenizer({**LETTERS, "bc": 5, "abcd": 9}).encode("abcd") == [9]


def test_the_leftmost_of_equal_pairs_merges_first():
    assert _tokenizer({**LETTERS, "aa": 5}).encode("aaab") == [5, 0, 1]


def test_spaces_are_bytes_of_the_table():
    assert _tokenizer({**LETTERS, "Ġa": 5}).encode("b a") == [1, 5]


def test_merges_of_models_with_byte_fallback_are_read():
    """``ab`` merges first although ``bc`` has the smaller id; ``é`` is in two bytes."""
    vocabulary = {**LETTERS, "bc": 5, "ab": 6, "<0xC3>": 7, "<0xA9>": 8}
    for merges in (["a b", "b c"], [["a", "b"], ["b", "c"]]):
        tokenizer = _tokenizer(vocabulary, model={"byte_fallback": True, "merges": merges})
        assert tokenizer.encode("abc") == [6, 2]
        assert tokenizer.encode("aéb") == [0, 7, 8, 1]


def test_added_tokens_of_both_files_stand_apart():
    tokenizer = _tokenizer(
        LETTERS,
        added_tokens=[{"id": 7, "content": "<x>", "rstrip": True}],
        settings={"added_tokens_decoder": {"8": {"content": "<x>!"}}},
    )
    assert tokenizer.encode("a<x>!b<x> a") == [0, 8, 1, 7, 4, 0]


def test_only_replace_of_strings_normalizes():
    """Not Prepend, NFC or Lowercase."""
    steps = [
        {"type": "Prepend", "prepend": "d"},
        {"type": "Lowercase"},
        {"type": "Replace", "pattern": {"String": "b"}, "content": "cc"},
        {"type": "Replace", "pattern": {"Regex": "a"}, "content": "d"},
    ]
    tokenizer = _tokenizer(LETTERS, normalizer={"type": "Sequence", "normalizers": steps})
    assert tokenizer.encode("ab") == [0, 2, 2]
    assert _tokenizer(LETTERS, normalizer=steps[2]).encode("ab") == [0, 2, 2]
    with pytest.raises(RuntimeTokenizerError, match="no token of its vocabulary is b'A'"):
        tokenizer.encode("Aa")


def test_only_split_by_regular_expressions_splits():
    """Digits, Whitespace, ByteLevel with its own expression and Split by a string let pairs merge across words."""
    vocabulary = {**LETTERS, "aĠ": 5}
    split = {"type": "Split", "pattern": {"Regex": " ?[a-z]"}, "behavior": "Isolated"}
    others = [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "use_regex": True},
        {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"},
    ]
    assert _tokenizer(vocabulary, pre_tokenizer={"type": "Sequence", "pretokenizers": others}).encode("a b") == [5, 1]
    assert _tokenizer(vocabulary, pre_tokenizer=split).encode("a b") == [0, 4, 1]
    both = {"type": "Sequence", "pretokenizers": [*others, split]}
    assert _tokenizer(vocabulary, pre_tokenizer=both).encode("a b") == [0, 4, 1]


def test_a_type_that_it_does_not_know_is_a_byte_pair_model():
    assert _tokenizer({**LETTERS, "ab": 5}, model={"type": "WordLevel"}).encode("abc") == [5, 2]


def test_a_single_unit_without_a_token_is_dropped():
    assert _tokenizer(LETTERS, model={"byte_fallback": True, "merges": ["a b"]}).encode("é") == []


@pytest.mark.parametrize("pattern", [r"\p{L}++", r"(?<=a)b", r"(?>a)", r"a{2,3}+", r"[^\r\n\p{L}]?+\p{L}"])
def test_expressions_that_it_does_not_compile(pattern):
    with pytest.raises(RuntimeTokenizerError, match="it can't compile"):
        _tokenizer(LETTERS, pre_tokenizer={"type": "Split", "pattern": {"Regex": pattern}})


@pytest.mark.parametrize("pattern", [r" ?\p{L}+", r"\p{N}{1,3}", r"\s+(?!\S)", r"(?i:'s|'t)"])
def test_expressions_that_it_compiles(pattern):
    _tokenizer(LETTERS, pre_tokenizer={"type": "Split", "pattern": {"Regex": pattern}})


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"type": "Unigram", "vocab": [["a", -1.0]]}, "no vocabulary with an id"),
        ({"type": "WordPiece", "vocab": {"a": 0}}, "a model of type WordPiece"),
        ({"type": "BPE", "vocab": {}}, "no vocabulary"),
        (None, "no vocabulary"),
    ],
)
def test_models_that_it_does_not_take(model, reason):
    with pytest.raises(RuntimeTokenizerError, match=reason):
        RuntimeTokenizer({"model": model}, {})


@pytest.fixture(scope="module")
def trained():
    """A byte-level tokenizer whose ids follow its merges, as trainers make it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the cat sat on the mat, the rat ate the oats", "naïve Straße 東京"] * 4, trainer)
    return tokenizer


@given(text=st.text(alphabet="the catsonmr,ïß東 ", max_size=40))
def test_equals_tokenizers_where_both_know_everything(trained, text):
    runtime = RuntimeTokenizer(json.loads(trained.to_str()), {})
    assert runtime.encode(text) == trained.encode(text).ids
