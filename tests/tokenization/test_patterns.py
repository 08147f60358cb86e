"""Patterns of tokenizers that never end, and those of real tokenizers, which do."""

from __future__ import annotations

import json
import time

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from edgellm_core.tokenization import patterns
from edgellm_core.tokenization.errors import EndlessPatternError
from edgellm_core.tokenization.patterns import require_bounded_patterns

ENDLESS = {
    "nested": r"(a+)+$",
    "of another letter": r"(z+z+)+q",
    "alternatives": r"(a|aa)+$",
    "of spaces": r"(\s*)*$",
    "of words": r"(\w+\s?)+$",
    "of digits": r"(\d+)*!",
}

SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def write(folder, *, split=None, replace=None):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    if split:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated")])
    if replace:
        tokenizer.normalizer = normalizers.Replace(Regex(replace), " ")
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("part", ["split", "replace"])
@pytest.mark.parametrize("pattern", ENDLESS.values(), ids=ENDLESS)
def test_a_pattern_that_never_ends_is_refused_by_name(tmp_path, part, pattern):
    path = write(tmp_path, **{part: pattern})
    with pytest.raises(
        EndlessPatternError, match=r"must come to an end .* Put the tokenizer\.json of the model there"
    ) as told:
        require_bounded_patterns(path, tmp_path)
    assert repr(pattern) in str(told.value)


@pytest.mark.parametrize("pattern", [GPT2, GPT4, QWEN], ids=["GPT-2", "GPT-4", "Qwen"])
def test_patterns_of_real_tokenizers_pass_in_a_moment(tmp_path, pattern):
    began = time.monotonic()
    require_bounded_patterns(write(tmp_path, split=pattern), tmp_path)
    assert time.monotonic() - began < patterns.SECONDS / 4


def test_a_process_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.01)
    with pytest.raises(EndlessPatternError, match="it had not ended after"):
        require_bounded_patterns(write(tmp_path, split=GPT2), tmp_path)


def test_without_patterns_no_process_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(patterns.subprocess, "run", None)
    path = write(tmp_path)
    require_bounded_patterns(path, tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": {"type": "BPE", "vocab": {"Regex": 0}}}))
    require_bounded_patterns(path, tmp_path)
    path.unlink()
    require_bounded_patterns(path, tmp_path)
