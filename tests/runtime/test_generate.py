from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgellm_core.runtime.errors import EmptyPromptError, UnknownTokenError
from edgellm_core.runtime.generate import Timings, generate, left_pad
from edgellm_core.runtime.sampling import Sampler, SamplingSettings
from edgellm_core.runtime.session import DecoderSession

PROMPT = [5, 17, 3, 44]


def greedy_reference(reference, weights, prompt, count):
    """Greedy tokens from whole-sequence logits, without any cache."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(reference(weights, *left_pad([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def session(decoder):
    return DecoderSession(decoder[0])


def test_greedy_tokens_equal_the_reference(session, decoder, reference):
    timings = Timings()
    tokens = list(generate(session, PROMPT, max_new_tokens=12, timings=timings))
    assert tokens == greedy_reference(reference, decoder[1], PROMPT, 12)
    assert len(set(tokens)) > 2
    assert (timings.prompt_tokens, timings.new_tokens, timings.decode_steps) == (4, 12, 11)
    assert timings.prefill_seconds > 0
    assert timings.tokens_per_second == 11 / timings.decode_seconds


def test_stop_token_ends_the_answer_and_is_not_yielded(session):
    tokens = list(generate(session, PROMPT, max_new_tokens=12))
    stop = tokens[5]
    timings = Timings()
    stopped = list(generate(session, PROMPT, max_new_tokens=12, stop_ids={stop}, timings=timings))
    assert stopped == list(itertools.takewhile(lambda token: token != stop, tokens))
    assert timings.new_tokens == len(stopped)


def test_sampler_sees_all_tokens_so_far(session):
    seen = []

    def sampler(logits, history):
        seen.append((logits.shape, list(history)))
        return 10 + len(history)

    assert list(generate(session, PROMPT, max_new_tokens=3, sampler=sampler)) == [14, 15, 16]
    assert seen == [((48,), PROMPT), ((48,), [*PROMPT, 14]), ((48,), [*PROMPT, 14, 15])]


def test_a_seed_gives_the_same_answer_again(session):
    settings = SamplingSettings(temperature=1.5, seed=3)
    first, second = (list(generate(session, PROMPT, max_new_tokens=10, sampler=Sampler(settings))) for _ in range(2))
    assert first == second != list(generate(session, PROMPT, max_new_tokens=10))


def test_nothing_is_generated_without_room(session):
    assert list(generate(session, PROMPT, max_new_tokens=0)) == []


def test_empty_prompt_is_refused(session):
    with pytest.raises(EmptyPromptError, match="The prompt must have at least one token"):
        next(generate(session, [], max_new_tokens=1))


@pytest.mark.parametrize("identifier", [48, 49152, -1])
def test_a_token_without_an_embedding_is_refused(session, identifier):
    with pytest.raises(UnknownTokenError, match=rf"must have ids from 0 to 47, .*; got {identifier}\. Leave that"):
        next(generate(session, [1, identifier], max_new_tokens=1))


def test_left_pad_aligns_the_last_tokens():
    input_ids, attention_mask, position_ids = left_pad([[7, 8, 9], [5]], pad_id=2)
    assert input_ids.tolist() == [[7, 8, 9], [2, 2, 5]]
    assert attention_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert {array.dtype for array in (input_ids, attention_mask, position_ids)} == {np.dtype(np.int64)}


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_left_pad_refuses_empty_sequences(sequences):
    with pytest.raises(EmptyPromptError, match="at least one token"):
        left_pad(sequences)


class Recorder:
    """A session that notes what it is given and always prefers the next token."""

    vocab_size = 32

    def __init__(self):
        self.steps = []

    def initial_states(self, batch):
        assert batch == 1
        return "empty"

    def run(self, input_ids, attention_mask, position_ids, states):
        self.steps.append((input_ids.tolist()[0], attention_mask.shape[1], position_ids.tolist()[0], states))
        logits = np.zeros((1, input_ids.shape[1], 32), np.float32)
        logits[0, -1, input_ids[0, -1] + 1] = 1
        return logits, "kept"


@pytest.mark.parametrize(("reread_at", "expected"), [(None, None), (6, 2), (5, 1), (4, None), (99, None)])
def test_the_whole_text_is_read_again_at_one_length(reread_at, expected):
    session = Recorder()
    assert list(generate(session, [3, 4, 5, 6], max_new_tokens=5, reread_at=reread_at)) == [7, 8, 9, 10, 11]
    for number, (ids, mask, positions, states) in enumerate(session.steps):
        length = 4 + number
        whole = number in (0, expected)
        assert ids == (list(range(3, 3 + length)) if whole else [2 + length])
        assert positions == (list(range(length)) if whole else [length - 1])
        assert (mask, states) == (length, "empty" if whole else "kept")
