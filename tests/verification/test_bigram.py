"""Settings and stop tokens on a checkpoint's vocabulary, without its weights."""

from __future__ import annotations

import json

import pytest

from edgellm_core.runtime.generation_settings import runtime_record
from edgellm_core.verification.bigram import compare_settings
from edgellm_core.verification.errors import GenerationDiffersError, OriginalGenerationError

VOCABULARY = 300
STATED = {
    "eos_token_id": [7, 290], "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "suppress_tokens": [5, 9],
    "begin_suppress_tokens": [7, 13], "min_new_tokens": 2, "sequence_bias": [[[12], 1.5], [[3, 4], -2.0]],
    "bad_words_ids": [[30], [31, 32]], "exponential_decay_length_penalty": [9, 1.1], "forced_eos_token_id": 7,
    "encoder_repetition_penalty": 1.2, "encoder_no_repeat_ngram_size": 4,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text(json.dumps(STATED))
    return tmp_path


def test_recorded_settings_answer_as_generate_does(folder):
    found = compare_settings(runtime_record(folder), folder, vocabulary=VOCABULARY)
    assert found.prompts == 5
    assert found.max_rel_err < 1e-6


@pytest.mark.parametrize("dropped", [7, 290])
def test_a_dropped_stop_token_is_found(folder, dropped):
    record = runtime_record(folder)
    kept = tuple(token for token in record.stop_tokens if token != dropped)
    with pytest.raises(GenerationDiffersError, match=r"goes on after token|error of the logits inf"):
        compare_settings(record.model_copy(update={"stop_tokens": kept}), folder, vocabulary=VOCABULARY)


def test_a_stop_token_too_many_is_found(folder):
    record = runtime_record(folder).model_copy(update={"stop_tokens": (7, 290, 41), "settings": {}})
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 290]}))
    with pytest.raises(GenerationDiffersError, match="ends the answer at token 41, at which generate goes on"):
        compare_settings(record, folder, vocabulary=VOCABULARY)


@pytest.mark.parametrize("name", sorted(set(STATED) - {"eos_token_id", "encoder_no_repeat_ngram_size"}))
def test_a_dropped_setting_is_found(folder, name):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 290], name: STATED[name]}))
    record = runtime_record(folder)
    compare_settings(record, folder, vocabulary=VOCABULARY)
    with pytest.raises(GenerationDiffersError, match="must answer as transformers' generate does"):
        compare_settings(record.model_copy(update={"settings": {}}), folder, vocabulary=VOCABULARY)


def test_stop_tokens_beyond_the_vocabulary_change_nothing(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5000]}))
    compare_settings(runtime_record(folder), folder, vocabulary=VOCABULARY)


def test_settings_that_generate_refuses_are_named(folder):
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 2}))
    with pytest.raises(OriginalGenerationError, match="has to be a strictly positive float"):
        compare_settings(runtime_record(folder), folder, vocabulary=VOCABULARY)
