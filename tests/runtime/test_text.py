from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgellm_core.bundle import RuntimeRecord
from edgellm_core.bundle.errors import MissingPluginError
from edgellm_core.errors import InvalidSettingError
from edgellm_core.runtime.errors import NoChatTemplateError, PromptTooLongError, UnknownTokenError
from edgellm_core.runtime.generate import generate
from edgellm_core.runtime.sampling import SamplingSettings
from edgellm_core.runtime.text import TextGenerator, generate_text
from edgellm_core.testing.decoder_bundle import write_decoder_bundle

PROMPT = "the capital of France is"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_decoder_bundle(tmp_path_factory.mktemp("root") / "bundle")


@pytest.fixture(scope="module")
def generator(bundle):
    return TextGenerator(bundle)


def test_answer_is_the_decoded_greedy_tokens_and_streams(bundle, generator):
    pieces = []
    result = generator.generate(PROMPT, max_new_tokens=9, on_text=pieces.append)
    ids = generator.tokenizer.encode(PROMPT)
    assert len(ids) == 5
    assert list(result.tokens) == list(generate(generator.session, ids, max_new_tokens=9, stop_ids=generator.stop_ids))
    assert result.text == "".join(pieces) == generator.tokenizer.decode(result.tokens)
    assert len(pieces) == len(result.tokens)
    assert result.finish_reason == "length"
    assert generate_text(bundle, PROMPT, max_new_tokens=9).text == result.text


def test_stop_token_of_generation_config_ends_the_answer(tmp_path, generator):
    tokens = generator.generate(PROMPT, max_new_tokens=9).tokens
    stop = tokens[4]
    files = {"generation_config.json": json.dumps({"eos_token_id": [stop]})}
    result = TextGenerator(write_decoder_bundle(tmp_path / "b", files=files)).generate(PROMPT)
    assert result.tokens == tokens[: tokens.index(stop)]
    assert result.finish_reason == "stop"


def test_context_ends_the_answer(tmp_path):
    short = TextGenerator(write_decoder_bundle(tmp_path / "b", config={"text_config": {"max_position_embeddings": 8}}))
    result = short.generate(PROMPT)
    assert (len(result.tokens), result.finish_reason) == (3, "length")
    with pytest.raises(PromptTooLongError, match="shorter than the model's context of 8 tokens; got 10"):
        short.generate(f"{PROMPT} {PROMPT}")


def test_a_prompt_beyond_the_embedding_is_refused(tmp_path):
    bundle = write_decoder_bundle(tmp_path / "b")
    path = bundle.llm / "tokenizer.json"
    state = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    state["added_tokens"].append({"id": len(state["model"]["vocab"]), "content": "<|new|>", "special": True, **flags})
    path.write_text(json.dumps(state))
    with pytest.raises(UnknownTokenError, match=r"The tokens of a prompt must have ids from 0 to \d+, "):
        generate_text(bundle, f"{PROMPT} <|new|>", max_new_tokens=2)


def test_chat_uses_the_template(bundle):
    (bundle.llm / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}a{% endif %}"
    )
    generator = TextGenerator(bundle)
    with_system = generator.encode_prompt("hello world", chat=True, system="Paris")
    assert with_system == generator.tokenizer.encode("system Paris user hello world a", add_special_tokens=False)
    assert generator.encode_prompt("hello world", chat=True) == with_system[2:]


def test_chat_without_template_is_refused(tmp_path):
    bundle = write_decoder_bundle(tmp_path / "b")
    config = json.loads((bundle.llm / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (bundle.llm / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(NoChatTemplateError, match="--chat needs a chat template"):
        TextGenerator(bundle).generate(PROMPT, chat=True)


def test_system_message_needs_chat(generator):
    with pytest.raises(InvalidSettingError, match=r"--system needs the chat template; got 'Be brief'\. Add --chat"):
        generator.generate(PROMPT, system="Be brief")


def test_sampling_settings_are_used(generator):
    settings = {"max_new_tokens": 12, "sampling": SamplingSettings(temperature=2.0, seed=5)}
    first = generator.generate(PROMPT, **settings)
    assert first.tokens == generator.generate(PROMPT, **settings).tokens
    assert first.tokens != generator.generate(PROMPT, max_new_tokens=12).tokens


def test_a_target_that_nobody_brings_is_refused(bundle):
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"target": "other"}))
    with pytest.raises(MissingPluginError, match="needs target 'other', which came from a plugin that bundle"):
        TextGenerator(other)


def with_runtime(bundle, **fields):
    runtime = RuntimeRecord(**{"reread_at": None, "stop_tokens": (), "settings": {}, "not_applied": {}, **fields})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"runtime": runtime}))


def test_stop_tokens_of_the_manifest_are_the_only_ones(tmp_path, generator):
    tokens = generator.generate(PROMPT, max_new_tokens=9).tokens
    files = {"generation_config.json": json.dumps({"eos_token_id": tokens[1]})}
    bundle = with_runtime(write_decoder_bundle(tmp_path / "b", files=files), stop_tokens=[tokens[4]])
    assert TextGenerator(bundle).stop_ids == {tokens[4]}
    assert TextGenerator(bundle).generate(PROMPT, max_new_tokens=9).tokens == tokens[: tokens.index(tokens[4])]


def test_settings_of_the_manifest_are_applied(bundle, generator):
    tokens = generator.generate(PROMPT, max_new_tokens=9).tokens
    without = TextGenerator(with_runtime(bundle, settings={"suppress_tokens": [tokens[0]]}))
    assert tokens[0] not in without.generate(PROMPT, max_new_tokens=9).tokens


def test_an_own_penalty_stands_in_for_the_models(bundle, generator):
    plain = generator.generate(PROMPT, max_new_tokens=12).tokens
    penalized = TextGenerator(with_runtime(bundle, settings={"repetition_penalty": 3.0}))
    assert penalized.generate(PROMPT, max_new_tokens=12).tokens != plain
    none = SamplingSettings(repetition_penalty=1.0)
    assert penalized.generate(PROMPT, max_new_tokens=12, sampling=none).tokens == plain
    same = SamplingSettings(repetition_penalty=3.0)
    assert (
        generator.generate(PROMPT, max_new_tokens=12, sampling=same).tokens
        == penalized.generate(PROMPT, max_new_tokens=12).tokens
    )


@pytest.mark.parametrize(
    ("stated", "expected"),
    [({"eos_token_id": 7}, {2, 7}), ({"eos_token_id": [7, 3]}, {2, 3, 7}), ({"eos_token_id": None}, {2}), ({}, {2})],
)
def test_bundles_of_earlier_versions_stop_at_the_tokenizers_end_too(tmp_path, stated, expected):
    bundle = write_decoder_bundle(tmp_path / "b", files={"generation_config.json": json.dumps(stated)})
    generator = TextGenerator(bundle)
    assert generator.stop_ids - {generator.tokenizer.eos_id} == expected - {2}
    assert generator.tokenizer.eos_id in generator.stop_ids
