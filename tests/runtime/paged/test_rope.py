"""The emulated table against numbers worked out by hand from NVIDIA's source, in plain float64 arithmetic.

Each expectation is written here from the source's formula, with no code of ours or of transformers. Line references are
those of ``cpp/runtime/llmRuntimeUtils.cpp`` and ``cpp/kernels/posEncoding/initializeCosSinCache.cu`` at commit 17e065c.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgellm_core.runtime.errors import RopeConfigError
from edgellm_core.runtime.paged.rope import rope_of, rotary_dim, short_capacity

PLAIN = {"head_dim": 8, "partial_rotary_factor": 1.0, "rope_theta": 10000.0, "max_position_embeddings": 64}
"""Four pairs of channels: constants 10000^(0, 1/4, 1/2, 3/4) = 1, 10, 100, 1000."""

LLAMA3 = {
    "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1000,
}  # fmt: skip
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1000, "beta_fast": 32, "beta_slow": 1}
LONG = {"type": "longrope", "short_factor": [1.0, 2.0, 3.0, 4.0], "long_factor": [5.0, 6.0, 7.0, 8.0]}


def _angles(scaling, *, capacity=64, position=3, **fields):
    """Return the angles of one position and the factor on the table."""
    rope = rope_of({**PLAIN, "rope_scaling": scaling, **fields}, capacity)
    row = rope.cos_sin(np.array([position]))[0].astype(np.float64)
    cos, sin = row[: len(row) // 2], row[len(row) // 2 :]
    return np.arctan2(sin, cos), float(np.hypot(cos, sin)[0])


def _expect(found, angles, factor=1.0):
    np.testing.assert_allclose(found[0], angles, rtol=1e-6)
    assert found[1] == pytest.approx(factor, rel=1e-6)


def test_plain_angles_divide_the_position():
    _expect(_angles(None), [3, 0.3, 0.03, 0.003])  # position / theta^(2 i / 8)


@pytest.mark.parametrize("scaling", [{}, {"rope_type": "default"}, {"type": "linear", "factor": 4.0}, {"type": "su"}])
def test_a_type_that_it_does_not_know_is_the_plain_one(scaling):
    """``collectRopeConfig`` leaves RopeConfig's own kDefault where no branch takes the string."""
    _expect(_angles(scaling), [3, 0.3, 0.03, 0.003])


def test_the_key_type_wins():
    _expect(_angles({"type": "default", "rope_type": "yarn"}), [3, 0.3, 0.03, 0.003])


def test_rope_parameters_are_not_read():
    _expect(_angles(None, rope_parameters={"rope_type": "yarn", "rope_theta": 5.0}), [3, 0.3, 0.03, 0.003])


def test_theta_without_a_key_is_100000():
    """``float rotaryTheta{100000.0F}`` in llmRuntimeUtils.h: constants 100000^(i / 4)."""
    config = {key: value for key, value in PLAIN.items() if key != "rope_theta"}
    rope = rope_of({**config, "rope_scaling": None}, 64)
    np.testing.assert_allclose(rope.divisor, [1, 17.7827941, 316.227766, 5623.41325], rtol=1e-6)


def test_cosines_come_before_sines():
    table = rope_of({**PLAIN, "partial_rotary_factor": 0.5, "rope_scaling": None}, 4).cos_sin(np.array([0, 3]))
    np.testing.assert_allclose(table[0], [1, 1, 0, 0])
    np.testing.assert_allclose(table[1], [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03)], rtol=1e-6)
    assert table.dtype == np.float32


def test_angles_are_rounded_to_float32_before_their_cosine():
    """Position 100001 over 10 is 10000.1, whose float32 is 10000.0996…: 3.9e-4 off."""
    rope = rope_of({**PLAIN, "rope_scaling": None}, 131072)
    found = rope.cos_sin(np.array([100001]))[0, 1]
    assert found == pytest.approx(math.cos(float(np.float32(10000.1))), abs=1e-7)
    assert abs(found - math.cos(10000.1)) > 1e-5


def test_proportional_divides_positions_and_leaves_a_tail():
    """rotaryScale = 1 / factor; floor(0.5 · 4) = 2 pairs turn, by constants of the whole head."""
    _expect(_angles({"type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5}), [1.5, 0.15, 0, 0])


def test_proportional_has_the_width_of_the_head():
    config = {**PLAIN, "partial_rotary_factor": 0.25, "rope_scaling": {"rope_type": "proportional"}}
    assert rotary_dim(config) == 8
    _expect(_angles({"type": "proportional"}, partial_rotary_factor=0.5), [3, 0.3, 0, 0])


def test_dynamic_without_alpha_is_plain_and_bounded():
    """initializeRopeCosSinCache makes no table for a capacity above max_position_embeddings."""
    _expect(_angles({"type": "dynamic", "factor": 4.0}), [3, 0.3, 0.03, 0.003])
    assert rope_of({**PLAIN, "rope_scaling": {"type": "dynamic"}}, 64).longest == 64


def test_alpha_raises_theta_by_the_head_not_by_what_is_rotated():
    """10000 · 64^(8 / 6) = 10000 · 256; of a head of 8, half is rotated: constants 1 and √2560000 = 1600."""
    _expect(_angles({"type": "dynamic", "alpha": 64.0}, partial_rotary_factor=0.5), [3, 3 / 1600])


def test_llama3_bands():
    """Wavelengths 2π · (1, 10, 100, 1000) = 6.28, 62.8, 628, 6283 against 1000 / 4 = 250 and 1000 / 1 = 1000.

    The first two stay; the last is divided by 8; for the third smooth = (1000 / 628.3185 - 1) / 3 = 0.1971831, so its
    frequency is 0.01 · (0.8028169 / 8 + 0.1971831) = 0.002975352.
    """
    _expect(_angles(LLAMA3), [3, 0.3, 0.008926056, 0.003 / 8])


def test_llama3_reads_the_original_context_beside_rope_scaling():
    scaling = {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}
    _expect(_angles(scaling, original_max_position_embeddings=1000), [3, 0.3, 0.008926056, 0.003 / 8])


def test_yarn_ramp_and_factor():
    """correctionDim(n) = 8 ln(1000 / (2π n)) / (2 ln 10000): 0.6971 for 32, 2.2018 for 1, so low 0 and high 3.

    ramp = 0, 1/3, 2/3, 1; frequency = interpolated · ramp + kept · (1 - ramp) with interpolated = kept / 4:
    kept · (1, 3/4, 1/2, 1/4). Factor 0.1 ln 4 + 1 = 1.1386294.
    """
    _expect(_angles(YARN), [3, 0.225, 0.015, 0.00075], 1.1386294)


@pytest.mark.parametrize("ignored", [{"truncate": False}, {"mscale": 1.0, "mscale_all_dim": 0.5}])
def test_what_of_yarn_is_not_read(ignored):
    _expect(_angles({**YARN, **ignored}), [3, 0.225, 0.015, 0.00075], 1.1386294)


def test_yarn_takes_attention_factor():
    _expect(_angles({**YARN, "attention_factor": 1.25}), [3, 0.225, 0.015, 0.00075], 1.25)
    _expect(_angles({**YARN, "attention_factor": None}), [3, 0.225, 0.015, 0.00075], 1.1386294)
    assert _angles({**YARN, "factor": 0.5})[1] == pytest.approx(1.0)


def test_longrope_has_one_table_by_capacity():
    """The factor is √(1 + ln(64 / 16) / ln 16) = √1.5, whatever attention_factor says."""
    fields = {"original_max_position_embeddings": 16}
    for capacity, divisors in ((16, [1, 2, 3, 4]), (17, [5, 6, 7, 8]), (64, [5, 6, 7, 8])):
        angles = np.array([3, 0.3, 0.03, 0.003]) / divisors
        _expect(_angles({**LONG, "attention_factor": 7.0}, capacity=capacity, **fields), angles, 1.5**0.5)


def test_the_largest_cache_with_short_factors():
    assert short_capacity({**PLAIN, "rope_scaling": LONG, "original_max_position_embeddings": 16}) == 16
    assert short_capacity({**PLAIN, "rope_scaling": YARN}) is None
    assert short_capacity({**PLAIN, "rope_scaling": None}) is None


def test_longrope_without_a_longer_context_has_no_factor():
    assert _angles(LONG, original_max_position_embeddings=64)[1] == pytest.approx(1.0)


@pytest.mark.parametrize("fields", [{"use_rope": False}, {"rope_scaling": {"type": "nope"}}])
def test_no_rope_turns_nothing(fields):
    table = rope_of({**PLAIN, "rope_scaling": None, **fields}, 64).cos_sin(np.array([5]))
    np.testing.assert_array_equal(table[0], [1, 1, 1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("scaling", "reason"),
    [
        ({"type": "mrope"}, "images"),
        ({"type": "default", "mrope_section": [1, 1, 2]}, "images"),
        ({"type": None}, "a string"),
        ({**LLAMA3, "low_freq_factor": 4.0}, "low_freq_factor < high_freq_factor"),
        ({**LLAMA3, "factor": None}, "number under factor"),
        ({**LLAMA3, "original_max_position_embeddings": 0}, "positive"),
        ({"type": "yarn", "factor": 2.0}, "original_max_position_embeddings"),
        ({**YARN, "beta_fast": None}, "beta_fast"),
        ({**YARN, "factor": -1.0}, "positive for yarn"),
        ({**LONG, "short_factor": [1.0]}, "4 numbers"),
        ({"type": "proportional", "factor": 0}, "positive"),
    ],
)
def test_what_the_runtime_refuses(scaling, reason):
    with pytest.raises(RopeConfigError, match=reason):
        _angles(scaling, original_max_position_embeddings=None if scaling.get("type") == "yarn" else 16)


def test_an_odd_width_is_refused():
    with pytest.raises(RopeConfigError, match="even number of channels, not 3"):
        _angles(None, partial_rotary_factor=0.4)


def test_alpha_needs_a_head_above_two():
    with pytest.raises(RopeConfigError, match="head_dim above 2"):
        _angles({"type": "dynamic", "alpha": 2.0}, head_dim=2)
