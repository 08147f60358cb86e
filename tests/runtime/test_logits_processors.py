"""Each setting against transformers' own processor of it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from edgellm_core.runtime.logits_processors import PROCESSORS, Request, make_processors

VOCAB = 24
TOKENS = st.integers(0, VOCAB - 1)
SETTINGS = {
    "sequence_bias": [[[3], -2.0], [[5, 6], 4.0], [[1, 2, 7], -9.0], [[4, 4], 2.5]],
    "encoder_repetition_penalty": 1.7,
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[9], [2], [10, 11], [0, 1, 2]],
    "min_length": 9,
    "min_new_tokens": 3,
    "forced_bos_token_id": 6,
    "forced_eos_token_id": [2, 5],
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [2, 1.4],
    "suppress_tokens": [0, 7, -1, 99],
    "begin_suppress_tokens": [8, 11],
}


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **sizes))


def theirs(model, settings, prompt, history, logits, most):
    config = GenerationConfig(eos_token_id=[2, 12], max_length=most, **settings)
    ids = torch.tensor([prompt])
    model._prepare_special_tokens(config, device="cpu", batch_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        processors = model._get_logits_processor(config, input_ids_seq_length=len(prompt), encoder_input_ids=ids)
    return processors(torch.tensor([history]), torch.tensor(logits)[None])[0].numpy()


def ours(settings, prompt, history, logits, most):
    request = Request(prompt=prompt, most=most, stop_tokens=(2, 12), settings=settings)
    for process in make_processors(request):
        logits = process(logits, history)
    return logits


def test_all_processors_are_covered():
    assert list(SETTINGS) == list(PROCESSORS)


@pytest.mark.parametrize("name", SETTINGS)
@given(
    prompt=st.lists(TOKENS, min_size=1, max_size=8),
    answer=st.lists(TOKENS, max_size=8),
    room=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_each_setting_does_what_transformers_does(model, name, prompt, answer, room, seed):
    check(model, {name: SETTINGS[name]}, prompt, answer, room, seed)


@given(
    names=st.sets(st.sampled_from(sorted(SETTINGS)), min_size=2),
    prompt=st.lists(TOKENS, min_size=1, max_size=8),
    answer=st.lists(TOKENS, max_size=8),
    seed=st.integers(0, 9),
)
def test_settings_together_do_what_transformers_does(model, names, prompt, answer, seed):
    check(model, {name: SETTINGS[name] for name in names}, prompt, answer, 2, seed)


def check(model, settings, prompt, answer, room, seed):
    history, most = prompt + answer, len(prompt) + len(answer) + room
    logits = np.random.default_rng(seed).normal(size=VOCAB).astype(np.float32)
    if "remove_invalid_values" in settings:
        logits[[1, 2, 3]] = np.nan, np.inf, -np.inf
    before = logits.copy()
    found = ours(settings, prompt, history, logits, most)
    np.testing.assert_allclose(found, theirs(model, settings, prompt, history, before, most), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(logits, before)
