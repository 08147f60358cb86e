"""The comparison with ``generate`` has teeth: every rule that a runtime drops or bends is found."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import edgellm_core
from edgellm_core.bundle import RuntimeRecord
from edgellm_core.runtime.session import DecoderSession
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.verification.errors import GenerationDiffersError, OriginalGenerationError
from edgellm_core.verification.generation import compare_generation, original_answer

SWITCH = 24
PHI3 = {
    "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "vocab_size": 96, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "original_max_position_embeddings": SWITCH, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": SWITCH,
        "short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 9.0, 17.0],
    },
}  # fmt: skip
PROMPTS = [[5, 9, 33], [(7 * i) % 90 + 3 for i in range(SWITCH - 4)], [(11 * i) % 90 + 3 for i in range(SWITCH + 5)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "phi3", PHI3)


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "phi3"
    return edgellm_core.build(folder, out, precision="fp32", engine="none", verify="off")


@pytest.fixture(scope="module")
def session(built):
    return DecoderSession(built.model_path, threads=1)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def compare(session, model, folder):
    def run(runtime, *, where=folder, prompts=PROMPTS):
        return compare_generation(session, model, runtime, prompts, folder=where, tolerance=1e-4)

    return run


@pytest.fixture
def with_settings(folder, tmp_path):
    """Return a function that makes a folder with the checkpoint's config and other settings of generation."""

    def write(**settings):
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
        return tmp_path

    return write


def test_answers_across_the_switch_are_equal(built, compare):
    rules = RuntimeRecord(reread_at=SWITCH + 1, stop_tokens=(2,), settings={}, not_applied={})
    assert built.manifest.runtime == rules
    found = compare(built.manifest.runtime)
    assert (found.prompts, found.ties) == (3, 0)
    assert found.tokens > 90
    assert found.max_rel_err < 1e-4


@pytest.mark.parametrize("reread_at", [None, SWITCH, SWITCH + 2], ids=["never", "early", "late"])
def test_reading_again_elsewhere_is_found(built, compare, reread_at):
    message = rf"after a prompt of \d+ tokens, at token \d+ of the answer \({SWITCH + 1} tokens before it\)"
    with pytest.raises(GenerationDiffersError, match=message):
        compare(built.manifest.runtime.model_copy(update={"reread_at": reread_at}))


@pytest.fixture
def stops(model, folder):
    """Two tokens that the answer to the first prompt holds."""
    tokens = original_answer(model, folder, PROMPTS[0], max_new_tokens=48).tokens
    return tokens[3], next(token for token in tokens[5:] if token != tokens[3])


def test_stop_tokens_are_compared(built, compare, with_settings, stops):
    where, rules = with_settings(eos_token_id=list(stops)), built.manifest.runtime
    compare(rules.model_copy(update={"stop_tokens": stops}), where=where)
    with pytest.raises(
        GenerationDiffersError, match=f"goes on after token {stops[0]}, at which generate ends the answer"
    ):
        compare(rules.model_copy(update={"stop_tokens": stops[1:]}), where=where)
    with pytest.raises(GenerationDiffersError, match=r"ends the answer at token \d+, at which generate goes on"):
        compare(rules.model_copy(update={"stop_tokens": stops}))


SETTINGS = {
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": list(range(3, 40)),
    "begin_suppress_tokens": list(range(3, 90)),
    "exponential_decay_length_penalty": [4, 1.5],
    "min_new_tokens": 20,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_compared(built, compare, with_settings, name, stops):
    where = with_settings(eos_token_id=list(stops), num_beams=3, **{name: SETTINGS[name]})
    rules = built.manifest.runtime.model_copy(update={"stop_tokens": stops, "settings": {name: SETTINGS[name]}})
    compare(rules, where=where)
    with pytest.raises(GenerationDiffersError, match="must answer as transformers' generate does"):
        compare(rules.model_copy(update={"settings": {}}), where=where)


def test_settings_that_generate_refuses_are_named(compare, built, with_settings):
    with pytest.raises(OriginalGenerationError, match=r"refuses the settings .*penalty.* Correct generation_config"):
        compare(built.manifest.runtime, where=with_settings(repetition_penalty=2))


def test_another_graph_is_found(built, session, model, folder):
    with torch.no_grad():
        model.lm_head.weight[3] += 0.5
    try:
        with pytest.raises(GenerationDiffersError, match="error of the logits"):
            compare_generation(session, model, built.manifest.runtime, PROMPTS, folder=folder, tolerance=1e-4)
    finally:
        with torch.no_grad():
            model.lm_head.weight[3] -= 0.5


class _Shifted:
    """The graph, with logits that are wrong by 2e-4 of the largest."""

    def __init__(self, session):
        self._session = session

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run(self, *inputs):
        logits, states = self._session.run(*inputs)
        return logits + 2e-4 * abs(logits).max(), states


def test_only_what_rounding_explains_may_exceed_the_tolerance(built, session, model, folder, monkeypatch):
    runtime = built.manifest.runtime
    named = {"folder": folder, "tolerance": 1e-4}
    with pytest.raises(GenerationDiffersError, match=r"error of the logits 0\.0002\d?, 0\.0001 allowed"):
        compare_generation(_Shifted(session), model, runtime, PROMPTS[:1], **named)
    monkeypatch.setattr("edgellm_core.verification.rounding_noise.RELATIVE", 2**-12)
    found = compare_generation(_Shifted(session), model, runtime, PROMPTS[:1], **named)
    assert found.max_rel_err > 1e-4
