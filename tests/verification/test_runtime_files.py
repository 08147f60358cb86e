"""Where the runtime's tokenizer reads text otherwise, the build says so."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from edgellm_core.verification.runtime_files import ADDED_TEXTS, device_notes, probe_texts, tokenizer_notes

BYTES = dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), range(256), strict=True))


def _write(folder, tokenizer, **settings):
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return tokenizer_notes(folder)


def _bytes(vocabulary=BYTES, merges=()):
    tokenizer = Tokenizer(models.BPE(dict(vocabulary), list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def test_equal_ids_need_no_words(tmp_path):
    assert _write(tmp_path, _bytes()) == []


def test_no_tokenizer(tmp_path):
    assert tokenizer_notes(tmp_path) == []


def test_merges_in_another_order_than_ids(tmp_path):
    vocabulary = {**BYTES, "ce": 256, "nc": 257}
    [note] = _write(tmp_path, _bytes(vocabulary, [("n", "c"), ("c", "e")]))
    assert "makes" in note
    assert "'The capital of France is' (2 of 6 texts differ)" in note


def test_a_normalizer_that_is_passed_over(tmp_path):
    tokenizer = _bytes()
    tokenizer.normalizer = normalizers.Lowercase()
    [note] = _write(tmp_path, tokenizer)
    assert "tokenizer of its own" in note


def test_an_added_token_only_in_the_settings(tmp_path):
    """The runtime reads those of tokenizer_config.json, ``tokenizers`` does not."""
    [note] = _write(tmp_path, _bytes(), added_tokens_decoder={"300": {"content": "capital"}})
    assert "'The capital of France is'" in note


def test_a_token_that_strips_spaces(tmp_path):
    from tokenizers import AddedToken

    tokenizer = _bytes()
    tokenizer.add_special_tokens([AddedToken("<x>", rstrip=True, lstrip=True)])
    [note] = _write(tmp_path, tokenizer)
    assert "'one <x> two<x>three'" in note


def test_a_text_that_it_can_not_read(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "The": 1}, unk_token="<unk>"))
    [note] = _write(tmp_path, tokenizer)
    assert "can't read 'The capital of France is'" in note


def test_a_model_that_it_does_not_load(tmp_path):
    [note] = _write(tmp_path, Tokenizer(models.Unigram([("a", -1.0)], 0, False)))
    assert "does not load this tokenizer" in note


def test_many_added_tokens_are_tried_from_both_ends():
    tokens = [{"content": f"<{index}>"} for index in range(100)]
    texts = probe_texts({"added_tokens": tokens})
    assert sum(text.startswith("one <") for text in texts) == ADDED_TEXTS
    assert any("<0>" in text for text in texts)
    assert any("<99>" in text for text in texts)


@pytest.mark.parametrize(
    ("head_dim", "scaling", "told"),
    [
        (64, {"type": "yarn"}, False),
        (96, {"type": "yarn"}, True),
        (256, {"type": "llama3"}, True),
        (96, {"type": "longrope"}, False),
        (80, {"rope_type": "longrope"}, True),
        (80, {"type": "dynamic"}, False),
        (80, None, False),
    ],
)
def test_tables_without_kernels_are_told(tmp_path, head_dim, scaling, told):
    config = {"head_dim": head_dim, "partial_rotary_factor": 1.0, "rope_scaling": scaling}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = device_notes(tmp_path)
    assert [f"rotated channels only, not for {head_dim}" in note for note in found] == [True] * told
