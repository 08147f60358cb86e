from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.engine.errors import UnexpectedGraphInputError
from edgellm_core.engine.profiles import ProfileLimits, input_ranges, limits_for_context, make_profiles
from edgellm_core.errors import InvalidSettingError

LIMITS = ProfileLimits(max_batch_size=4, max_input_len=512, max_seq_len=2048)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_size": 0}, r"--max-batch-size must be at least 1; got 0\."),
        ({"max_input_len": 0}, r"--max-input-len must be at least 1; got 0\."),
        ({"max_input_len": 1, "max_seq_len": 1}, r"--max-seq-len must be at least 2; got 1\."),
        (
            {"max_input_len": 300, "max_seq_len": 200},
            r"--max-input-len must not exceed --max-seq-len \(200\); got 300\.",
        ),
    ],
)
def test_limits_refuse_what_no_sequence_fits(settings, message):
    with pytest.raises(InvalidSettingError, match=message):
        ProfileLimits(**settings)


@pytest.mark.parametrize(
    ("context", "given_limits", "expected"),
    [
        (None, {}, (1, 1024, 4096)),
        (2048, {}, (1, 1024, 2048)),
        (512, {}, (1, 512, 512)),
        (32768, {"max_seq_len": 16384, "max_batch_size": 2}, (2, 1024, 16384)),
        (32768, {"max_input_len": 8192}, (1, 8192, 8192)),
        (2048, {"max_seq_len": 256}, (1, 256, 256)),
    ],
)
def test_limits_default_to_the_context(context, given_limits, expected):
    limits = limits_for_context(context, **given_limits)
    assert (limits.max_batch_size, limits.max_input_len, limits.max_seq_len) == expected


def test_limits_refuse_more_than_the_context():
    with pytest.raises(InvalidSettingError, match=r"--max-seq-len must not exceed the model's context of 2048 tokens"):
        limits_for_context(2048, max_seq_len=4096)


@pytest.mark.parametrize(
    ("profile", "name", "shape", "expected"),
    [
        ("prefill", "input_ids", (-1, -1), ((1, 1), (4, 256), (4, 512))),
        ("prefill", "position_ids", (-1, -1), ((1, 1), (4, 256), (4, 512))),
        ("prefill", "attention_mask", (-1, -1), ((1, 1), (4, 256), (4, 2559))),
        ("prefill", "past_key_values.0.key", (-1, 3, -1, 64), ((1, 3, 0, 64), (4, 3, 0, 64), (4, 3, 2047, 64))),
        ("decode", "input_ids", (-1, -1), ((1, 1), (4, 1), (4, 1))),
        ("decode", "attention_mask", (-1, -1), ((1, 1), (4, 1025), (4, 2048))),
        ("decode", "past_key_values.0.indexer", (-1, -1, 64), ((1, 0, 64), (4, 1024, 64), (4, 2047, 64))),
        ("decode", "past_key_values.7.value", (-1, 3, -1, 64), ((1, 3, 0, 64), (4, 3, 1024, 64), (4, 3, 2047, 64))),
        ("generation", "input_ids", (-1, -1), ((1, 1), (4, 256), (4, 512))),
        ("generation", "attention_mask", (-1, -1), ((1, 1), (4, 1152), (4, 2559))),
        ("decode", "past_state.2.conv", (-1, 96, 4), ((1, 96, 4), (4, 96, 4), (4, 96, 4))),
        ("prefill", "input_ids", (-1, 1), ((1, 1), (4, 1), (4, 1))),
    ],
)
def test_input_ranges_follow_the_contract(profile, name, shape, expected):
    assert input_ranges(name, shape, make_profiles([profile], LIMITS)[0]) == expected


@pytest.mark.parametrize(
    ("name", "shape"),
    [("pixel_values", (-1, 3, 8, 8)), ("past_key_values.0.key", (-1, -1, -1, 64)), ("past_state.0.s", (-1, -1))],
)
def test_input_ranges_refuse_other_inputs(name, shape):
    with pytest.raises(UnexpectedGraphInputError, match=rf"Graph input '{name}' .* is no input of its target"):
        input_ranges(name, shape, make_profiles(["prefill"], LIMITS)[0])


@given(batch=st.integers(1, 64), input_len=st.integers(1, 10_000), extra=st.integers(0, 10_000))
def test_profiles_are_ordered_and_consistent(batch, input_len, extra):
    limits = ProfileLimits(max_batch_size=batch, max_input_len=input_len, max_seq_len=max(input_len + extra, 2))
    for profile in make_profiles(["prefill", "decode", "generation"], limits):
        for low, optimum, high in (profile.batch, profile.seq, profile.past, profile.total):
            assert 0 <= low <= optimum <= high
        assert profile.total[1] == profile.past[1] + profile.seq[1] <= limits.max_seq_len
        assert profile.past[0] == 0
        assert profile.past[2] + 1 == limits.max_seq_len
