from __future__ import annotations

import json

import pytest
from transformers import GenerationConfig

from edgellm_core.runtime.errors import GenerationSettingError
from edgellm_core.runtime.generation_settings import NOT_APPLIED, read_generation_config, runtime_record
from edgellm_core.runtime.logits_processors import PROCESSORS
from edgellm_core.untrusted import CorruptJsonError


def write(folder, config=None, generation=None):
    (folder / "config.json").write_text(json.dumps(config or {}))
    if generation is not None:
        text = generation if isinstance(generation, str) else json.dumps(generation)
        (folder / "generation_config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("config", "generation"),
    [
        ({"eos_token_id": 3, "repetition_penalty": 1.5}, {"eos_token_id": [5, 6]}),
        ({"eos_token_id": 3, "num_beams": 4}, None),
        ({"eos_token_id": 3}, {}),
        ({"eos_token_id": None, "text_config": {"eos_token_id": [7], "min_length": 4}}, None),
        ({"eos_token_id": 2, "text_config": {"eos_token_id": 9}}, None),
        ({}, {"repetition_penalty": 1.05, "top_k": 20, "eos_token_id": None}),
    ],
)
def test_settings_are_those_that_transformers_reads(tmp_path, config, generation):
    folder = write(tmp_path, config, generation)
    try:
        theirs = GenerationConfig.from_pretrained(folder)
    except OSError:
        theirs = GenerationConfig.from_pretrained(folder, config_file_name="config.json", _from_model_config=True)
    ours = read_generation_config(folder)
    for name in ("eos_token_id", *PROCESSORS, *NOT_APPLIED):
        assert ours.get(name) == getattr(theirs, name), name


def test_what_changes_greedy_answers_is_recorded(tmp_path):
    stated = {
        "eos_token_id": [5, 6, 5], "do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 0, "min_length": 0, "suppress_tokens": [9], "num_beams": 4, "num_return_sequences": 1,
        "guidance_scale": 1.0, "cache_implementation": "hybrid", "chat_format": "chatml",
    }  # fmt: skip
    record = runtime_record(write(tmp_path, {}, stated), reread_at=65)
    assert record.stop_tokens == (5, 6)
    assert record.settings == {"repetition_penalty": 1.1, "suppress_tokens": [9]}
    assert record.not_applied == {"num_beams": 4}
    assert record.reread_at == 65


def test_a_checkpoint_without_settings_asks_for_nothing(tmp_path):
    record = runtime_record(write(tmp_path))
    assert record.model_dump() == {"reread_at": None, "stop_tokens": (), "settings": {}, "not_applied": {}}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("suppress_tokens", "abc", "must be a list of token ids; got 'abc'. Correct it in generation_config.json"),
        ("repetition_penalty", -1.0, "must be a number above 0; got -1.0"),
        ("bad_words_ids", [1, 2], "must be lists of token ids; got"),
        ("sequence_bias", {"3": 1.0}, "must be pairs of a list of token ids and a number"),
        ("exponential_decay_length_penalty", [5], "must be a number of tokens and a factor"),
        ("min_length", 2.5, "must be a whole number"),
        ("forced_eos_token_id", True, "must be token ids"),
        ("remove_invalid_values", 3, "must be true or false"),
        ("eos_token_id", "2", "must be a token id, or a list of such; got '2'"),
        ("eos_token_id", True, "must be a token id, or a list of such; got True"),
        ("eos_token_id", [2, [3]], "must be a token id, or a list of such"),
        ("eos_token_id", {"a": 2}, "must be a token id, or a list of such"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, name, value, message):
    with pytest.raises(GenerationSettingError, match=message):
        runtime_record(write(tmp_path, {}, {name: value}))


@pytest.mark.parametrize("content", ["{ no JSON", "[]", "", "[" * 10_000, '{"eos_token_id": ' + "9" * 5000 + "}"])
def test_a_damaged_file_is_refused(tmp_path, content):
    folder = write(tmp_path, {"eos_token_id": 3}, content)
    with pytest.raises(CorruptJsonError, match=r"generation_config\.json'.*Copy or download the file again"):
        read_generation_config(folder)
