from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.checkpoint.gguf import rope
from edgellm_core.checkpoint.gguf.rope import llama3_factors


def frequencies(theta, pairs):
    return [theta ** (-pair / pairs) for pair in range(pairs)]


@given(
    st.sampled_from([1e4, 5e5, 1e6]), st.integers(4, 64), st.floats(1.5, 64), st.sampled_from([2.0, 4.0, 8.0]),
    st.sampled_from([64, 1024, 8192, 32768]),
)  # fmt: skip
def test_parameters_give_the_factors_back(theta, pairs, factor, high, original):
    factors = llama3_factors(frequencies(theta, pairs), factor, 1.0, high, original)
    found = rope._frequency_factors(factors, theta, 2 * pairs, 131072)
    if found["rope_type"] == "linear":
        assert factors == pytest.approx([found["factor"]] * pairs)
    elif found["rope_type"] == "llama3":
        given_back = llama3_factors(
            frequencies(theta, pairs), found["factor"], found["low_freq_factor"], found["high_freq_factor"],
            found["original_max_position_embeddings"],
        )  # fmt: skip
        assert given_back == pytest.approx(factors, rel=2e-5)
    else:
        assert found["short_factor"] == found["long_factor"] == factors


def test_llama_31_is_recognised():
    factors = llama3_factors(frequencies(5e5, 64), 8.0, 1.0, 4.0, 8192)
    assert rope._frequency_factors(factors, 5e5, 128, 131072) == {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip


def test_factors_are_one_for_short_waves_and_the_factor_for_long_ones():
    fast, slow = 2 * math.pi / 100, 2 * math.pi / 10000  # waves of 100 and 10,000 tokens
    assert llama3_factors([fast, slow], 8.0, 1.0, 4.0, 8192) == [1.0, 8.0]
