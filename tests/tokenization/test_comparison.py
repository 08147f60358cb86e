"""A comparison that can't fail proves nothing: each change of a tokenizer is seen."""

from __future__ import annotations

import json
import shutil

import pytest

from edgellm_core.runtime.errors import TokenizerFileError
from edgellm_core.runtime.tokenizer import BundleTokenizer
from edgellm_core.tokenization.comparison import compare
from edgellm_core.tokenization.reference import load_reference
from tests.tokenization.kinds import CHATML, KINDS


def lose_added_token(state, _settings):
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] != "<|im_end|>"]


def lose_vocabulary_entry(state, _settings):
    vocabulary = state["model"]["vocab"]
    if isinstance(vocabulary, dict):
        vocabulary.pop(next(word for word in reversed(vocabulary) if len(word) == 1))
    else:
        vocabulary.pop()


def swap_tokens(state, _settings):
    vocabulary = state["model"]["vocab"]
    if isinstance(vocabulary, dict):
        first, second = list(vocabulary)[-2:]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    else:
        vocabulary[-1], vocabulary[-2] = vocabulary[-2], vocabulary[-1]


def change_normalizer(state, _settings):
    state["normalizer"] = {"type": "Lowercase"} if not state["normalizer"] else None


def change_pre_tokenizer(state, _settings):
    state["pre_tokenizer"] = {"type": "WhitespaceSplit"}


def change_decoder(state, _settings):
    state["decoder"] = {"type": "Fuse"}


def add_bos(state, _settings):
    edge = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    state["post_processor"] = {
        "type": "TemplateProcessing", "single": [edge, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
    }  # fmt: skip


def change_flag(state, _settings):
    state["added_tokens"][-1]["lstrip"] = True


def no_longer_special(state, _settings):
    state["added_tokens"][-1]["special"] = False


def drop_special_token(_state, settings):
    del settings["bos_token"]


def other_special_token(_state, settings):
    settings["eos_token"] = "<|im_end|>"


def change_template(_state, settings):
    settings["chat_template"] = CHATML.replace("<|im_end|>\n", "<|im_end|>")


def drop_generation_prompt(_state, settings):
    settings["chat_template"] = CHATML.partition("{% if add_generation_prompt %}")[0]


def drop_tools(_state, settings):
    settings["chat_template"] = CHATML.replace("{{ tools | tojson }}", "")


def lose_template(_state, settings):
    del settings["chat_template"]


def split_special(_state, settings):
    settings["split_special_tokens"] = True


MUTATIONS = [
    lose_added_token, lose_vocabulary_entry, swap_tokens, change_normalizer, change_pre_tokenizer, change_decoder,
    add_bos, change_flag, no_longer_special, drop_special_token, other_special_token, change_template,
    drop_generation_prompt, drop_tools, lose_template, split_special,
]  # fmt: skip


@pytest.fixture(scope="module")
def references(trained):
    return {kind: load_reference(trained(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_every_mutation_is_seen(trained, references, tmp_path, kind, mutate):
    folder = shutil.copytree(trained(kind), tmp_path / "mutated")
    state = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    before = json.dumps([state, settings])
    mutate(state, settings)
    assert json.dumps([state, settings]) != before
    (folder / "tokenizer.json").write_text(json.dumps(state))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert compare(BundleTokenizer(trained(kind)), references[kind]).difference is None
    assert is_seen(folder, references[kind])


def is_seen(folder, reference):
    try:
        tokenizer = BundleTokenizer(folder)
    except TokenizerFileError:  # merges name a lost token
        return True
    return compare(tokenizer, reference).difference is not None


@pytest.mark.parametrize("part", ["encode", "decode", "render_chat"])
def test_behaviour_is_compared_and_not_only_files(trained, references, monkeypatch, part):
    tokenizer = BundleTokenizer(trained("byte_level_bpe"))
    original = getattr(BundleTokenizer, part)

    def changed(self, given, **settings):
        result = original(self, given, **settings)
        wrong = part != "render_chat" or len(given) > 2
        return result[:-1] if wrong else result

    monkeypatch.setattr(BundleTokenizer, part, changed)
    assert compare(tokenizer, references["byte_level_bpe"]).difference is not None


def test_a_stream_that_loses_text_is_seen(trained, references, monkeypatch):
    from edgellm_core.runtime.tokenizer import TextStream

    monkeypatch.setattr(TextStream, "flush", lambda _self: "?")
    difference = compare(BundleTokenizer(trained("byte_level_bpe")), references["byte_level_bpe"]).difference
    assert "the streamed text of the tokens" in str(difference)


def test_a_difference_that_transformers_own_files_have_is_refused(source, written, monkeypatch):
    from edgellm_core.tokenization.errors import TokenizerDiffersError

    original = BundleTokenizer.encode
    monkeypatch.setattr(BundleTokenizer, "encode", lambda self, text, **s: original(self, text, **s)[::-1])
    with pytest.raises(TokenizerDiffersError, match=r"must equal transformers' Token.* of .*; the encoding of '"):
        written(source("byte_level_bpe"))
