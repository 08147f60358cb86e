"""What the gate plans to run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.testing.checkpoints import write_tokenizer
from edgellm_core.verification.cases import (
    DECODE_STEPS,
    FARTHEST_POSITION,
    alone,
    case_steps,
    plan_cases,
    spread_case,
)
from edgellm_core.verification.prompts import MOST_TOKENS, RANDOM_LENGTHS, choose_prompts

PROMPTS = ((1, 2, 3, 4, 5), (6,) * 11, (7,) * 8, tuple(range(20)))


def test_the_demanded_cases_are_planned():
    cases = plan_cases(PROMPTS)
    alone = [case for case in cases if case.name == "prompt alone"]
    assert [case.rows for case in alone] == [(prompt,) for prompt in PROMPTS]
    assert len(alone[0].following[0]) == DECODE_STEPS >= 16
    (padded,) = (case for case in cases if case.name == "padded batch")
    assert padded.rows == (PROMPTS[0], PROMPTS[3])
    assert [len(tokens) for tokens in padded.following] == [4, 4]
    (chunked,) = (case for case in cases if case.name == "chunked prompt")
    assert chunked.chunks == (10, 10)


def test_a_graph_of_one_token_a_step_is_not_asked_for_chunks():
    cases = plan_cases(PROMPTS, one_token=True)
    assert [case.name for case in cases] == [*["prompt alone"] * 4, "padded batch"]
    assert all(case.chunks == (1,) * len(case.rows[0]) for case in cases[:-1])


def test_the_rows_of_a_batch_alone_read_the_same_tokens():
    (padded,) = (case for case in plan_cases(PROMPTS, one_token=True) if case.name == "padded batch")
    for row, single in enumerate(alone(padded)):
        steps = case_steps(single)
        assert all(step.input_ids.shape == (1, 1) for step in steps)
        read = [int(step.input_ids[0, 0]) for step in steps]
        assert read == [*padded.rows[row], *padded.following[row]]


@pytest.mark.parametrize("case", plan_cases(PROMPTS), ids=lambda case: f"{case.name} {case.prompts}")
def test_the_steps_of_a_case_read_its_rows(case):
    steps = case_steps(case)
    following = case.following or ((),) * len(case.rows)
    ids = np.concatenate([step.input_ids for step in steps], axis=1)
    positions = np.concatenate([step.position_ids for step in steps], axis=1)
    for row, prompt in enumerate(case.rows):
        real = steps[-1].attention_mask[row].astype(bool)
        assert ids[row, real].tolist() == [*prompt, *following[row]]
        assert positions[row, real].tolist() == list(range(len(prompt) + len(following[row])))
    past = 0
    for step in steps:
        past += step.input_ids.shape[1]
        assert step.attention_mask.shape == (len(case.rows), past)
        assert step.real.shape == step.input_ids.shape
    assert [step.chooses for step in steps] == [number >= len(case.chunks) - 1 for number in range(len(steps))]


@given(st.integers(1, 1 << 20))
def test_spread_positions_stay_inside_the_context(context):
    case = spread_case(PROMPTS, context=context, layers=2)
    if case is None:
        assert context < 2 * (len(PROMPTS[2]) + 4)
        return
    positions = [int(position) for step in case_steps(case) for position in step.position_ids[0]]
    assert positions == [case.stride * index for index in range(len(positions))]
    assert max(context, FARTHEST_POSITION) > positions[-1] >= min(context, FARTHEST_POSITION) // 4
    assert positions[-1] < context


@pytest.mark.parametrize("longest", [1, 2, 7, 48, 1000])
@pytest.mark.parametrize("vocab_size", [3, 50, 50_000])
@pytest.mark.parametrize("tokenizer", [True, False])
def test_prompts_are_four_and_fit(tmp_path, longest, vocab_size, tokenizer):
    if tokenizer:
        write_tokenizer(tmp_path, vocab_size=200)
    prompts = choose_prompts(tmp_path, vocab_size=vocab_size, longest=longest)
    assert prompts == choose_prompts(tmp_path, vocab_size=vocab_size, longest=longest)
    assert len(prompts) == 4
    assert all(0 <= token < vocab_size for prompt in prompts for token in prompt)
    assert all(1 <= len(prompt) <= min(longest, MOST_TOKENS) for prompt in prompts)
    if longest >= 7:
        assert len({len(prompt) for prompt in prompts}) == 4


def test_a_text_that_the_tokenizer_knows_is_used_and_another_is_not(tmp_path):
    write_tokenizer(tmp_path, vocab_size=131)
    prompts = choose_prompts(tmp_path, vocab_size=131, longest=1000)
    import tokenizers

    known = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("The capital of France is").ids
    assert list(prompts[0]) == known
    assert [len(prompt) for prompt in prompts[1:]] == list(RANDOM_LENGTHS[1:])
    assert all(len(set(prompt)) > len(prompt) / 2 for prompt in prompts)
