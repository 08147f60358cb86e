"""Splits of a text are said by ``Split`` where that is the same, and left where it is not."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from edgellm_core.runtime.paged.tokenizer import RuntimeTokenizer
from edgellm_core.targets.edge_llm.pre_tokenizer import PROBES, plain_splits, write_plain_splits

BYTES = dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), range(256), strict=True))
ACROSS = {**BYTES, "Ċĉ": 256, "ĊĠ": 257, "12": 258, "ĠĠ": 259, "'t": 260, "t's": 261}
"""Tokens over two words, which only splits keep apart."""


def _stated(*steps):
    merges = [(token[:-1], token[-1]) for token in ACROSS if len(token) == 2]
    tokenizer = Tokenizer(models.BPE(ACROSS, [*merges, ("t", "'s")][: len(merges)]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    return json.loads(tokenizer.to_str())


DIGITS, WORDS = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


@pytest.mark.parametrize("steps", [(DIGITS, WORDS), (WORDS,), (pre_tokenizers.Digits(False), WORDS)])
def test_the_runtime_makes_the_same_ids(steps):
    stated = _stated(*steps)
    rewritten = plain_splits(stated)
    for text in PROBES:
        wanted = Tokenizer.from_str(json.dumps(stated)).encode(text).ids
        assert Tokenizer.from_str(json.dumps(rewritten)).encode(text).ids == wanted
        assert RuntimeTokenizer(rewritten, {}).encode(text) == wanted
    assert any(RuntimeTokenizer(stated, {}).encode(t) != RuntimeTokenizer(rewritten, {}).encode(t) for t in PROBES)


def test_a_single_step_is_rewritten():
    stated = {**_stated(WORDS), "pre_tokenizer": json.loads(WORDS.__getstate__())}
    assert [step["type"] for step in plain_splits(stated)["pre_tokenizer"]["pretokenizers"]] == ["Split", "ByteLevel"]


@pytest.mark.parametrize(
    "step",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.Whitespace(),
    ],
)
def test_what_split_can_not_say_or_need_not_is_left(step):
    assert plain_splits(_stated(step)) is None


def test_the_file_is_rewritten_once(tmp_path):
    path = tmp_path / "tokenizer.json"
    write_plain_splits(path)
    assert not path.exists()
    path.write_text(json.dumps(_stated(DIGITS, WORDS)), encoding="utf-8")
    write_plain_splits(path)
    once = path.read_text(encoding="utf-8")
    assert json.loads(once)["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": r"\p{N}"}
    write_plain_splits(path)
    assert path.read_text(encoding="utf-8") == once


def test_a_rewrite_that_reads_otherwise_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(_stated(WORDS)), encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    monkeypatch.setattr("edgellm_core.targets.edge_llm.pre_tokenizer.GPT2_WORDS", r"\p{L}+")
    write_plain_splits(path)
    assert path.read_text(encoding="utf-8") == before
