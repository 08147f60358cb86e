from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgellm_core.errors import InvalidSettingError
from edgellm_core.runtime.sampling import (
    Sampler,
    SamplingSettings,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    softmax,
)

# probabilities 0.5, 0.25, 0.125, 0.125
LOGITS = np.log(np.array([4.0, 8.0, 2.0, 2.0], np.float32))
finite_logits = arrays(np.float32, st.integers(2, 30), elements=st.floats(-50, 50, width=32))


def frequencies(settings, draws=4000, history=()):
    sampler = Sampler(settings)
    counts = Counter(sampler(LOGITS, list(history)) for _ in range(draws))
    return [counts[token] / draws for token in range(len(LOGITS))]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 1.0}, [0.25, 0.5, 0.125, 0.125]),
        # p ** (1 / 0.5), renormalized: 1/16, 1/4, 1/64, 1/64 over 22/64
        ({"temperature": 0.5}, [4 / 22, 16 / 22, 1 / 22, 1 / 22]),
        ({"temperature": 1.0, "top_k": 2}, [1 / 3, 2 / 3, 0, 0]),
        ({"temperature": 1.0, "top_k": 1}, [0, 1, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.5}, [0, 1, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.6}, [1 / 3, 2 / 3, 0, 0]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.9}, [2 / 8, 4 / 8, 1 / 8, 1 / 8]),  # a tie at rank 3 keeps both
    ],
)
def test_frequencies_follow_the_probabilities(settings, expected):
    # 4000 draws: three standard deviations of a frequency are at most 0.024
    np.testing.assert_allclose(frequencies(SamplingSettings(seed=1, **settings)), expected, atol=0.03)


def test_greedy_takes_the_highest():
    assert frequencies(SamplingSettings(), draws=5) == [0, 1, 0, 0]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    logits = np.array([2.0, -1.0, 0.0, 3.0], np.float32)
    assert penalize_repetition(logits, [0, 1, 1, 2], 2.0).tolist() == [1.0, -2.0, 0.0, 3.0]
    assert logits.tolist() == [2.0, -1.0, 0.0, 3.0]
    assert Sampler(SamplingSettings(repetition_penalty=2.0))(LOGITS, [1]) == 0  # log 8 / 2 < log 4


def test_the_same_seed_draws_the_same():
    settings = SamplingSettings(temperature=1.0, seed=7)
    first, second = Sampler(settings), Sampler(settings)
    assert [first(LOGITS, []) for _ in range(50)] == [second(LOGITS, []) for _ in range(50)]
    other = Sampler(SamplingSettings(temperature=1.0, seed=8))
    assert [first(LOGITS, []) for _ in range(50)] != [other(LOGITS, []) for _ in range(50)]


@given(finite_logits, st.integers(1, 30))
def test_top_k_keeps_the_k_highest(logits, count):
    kept = np.flatnonzero(np.isfinite(keep_top_k(logits, count)))
    threshold = sorted(logits, reverse=True)[min(count, len(logits)) - 1]
    assert kept.tolist() == [index for index, value in enumerate(logits) if value >= threshold]


@given(finite_logits, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, total):
    kept = np.isfinite(keep_top_p(logits, total))
    chances = softmax(logits)
    assert kept.any()
    assert chances[kept].sum() >= total - 1e-9
    assert chances[kept].sum() - chances[kept].min() < total + 1e-9
    assert not kept.all() or chances[kept].min() > 0 or len(logits) == kept.sum()
    if not kept.all():
        assert chances[kept].min() >= chances[~kept].max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, r"--temperature must be at least 0; got -1\.0"),
        ({"temperature": 1.0, "top_k": -1}, r"--top-k must be at least 0; got -1"),
        ({"temperature": 1.0, "top_p": 0.0}, r"--top-p must be above 0 and at most 1; got 0\.0"),
        ({"temperature": 1.0, "top_p": 1.5}, r"--top-p must be above 0 and at most 1; got 1\.5"),
        ({"temperature": float("nan")}, r"--temperature must be at least 0; got nan"),
        ({"repetition_penalty": 0.0}, r"--repetition-penalty must be above 0; got 0\.0"),
        ({"temperature": 1.0, "seed": -3}, r"--seed must be at least 0; got -3"),
        ({"top_k": 5}, r"--top-k has no effect on greedy answers; got 5\. Add --temperature"),
        ({"top_p": 0.9}, r"--top-p has no effect on greedy answers; got 0\.9"),
    ],
)
def test_settings_refuse_values_that_cannot_work(settings, message):
    with pytest.raises(InvalidSettingError, match=message):
        SamplingSettings(**settings)
