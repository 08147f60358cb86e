"""The runtime's table against the original's, over the whole context."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import LlamaConfig

from edgellm_core.runtime.paged.rope import rope_of, short_capacity
from edgellm_core.targets.edge_llm.rope_config import rope_fields
from edgellm_core.verification.errors import RopeTablesDifferError
from edgellm_core.verification.rope_tables import (
    compare_tables,
    lengths_with_tables,
    one_of_each_pair,
    original_table,
    rotary_modules,
)

CONTEXT = 8192
LONG = {
    "short_factor": [1.0 + 0.1 * i for i in range(16)], "long_factor": [2.0 + 0.3 * i for i in range(16)],
    "original_max_position_embeddings": 512,
}  # fmt: skip
KINDS = {
    "default": {},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512},
    "yarn": {"factor": 16.0, "original_max_position_embeddings": 512, "mscale": 1.0, "mscale_all_dim": 0.7},
    "linear": {"factor": 2.5},
    "dynamic": {"factor": 4.0},
    "proportional": {"factor": 3.0, "partial_rotary_factor": 0.25},
    "longrope": LONG,
}


def _both(kind, **more):
    """Return transformers' config, and what is written for it."""
    parameters = {"rope_type": kind, "rope_theta": 10000.0, **KINDS[kind], **more}
    config = LlamaConfig(
        vocab_size=32, hidden_size=64, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=32,
        max_position_embeddings=CONTEXT, rope_parameters=dict(parameters),
    )  # fmt: skip
    fields = rope_fields({"rope_parameters": parameters}, config.to_dict(), head_dim=32, rotary_dim=32)
    written = json.loads(json.dumps({"head_dim": 32, "max_position_embeddings": CONTEXT, **fields}))
    return config, written


def _compare(config, rope, context):
    modules = list(rotary_modules(config))
    assert [name for name, _ in modules] == ["model.rotary_emb"]
    for name, module in modules:
        compare_tables(name, rope, original_table(module, context))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_over_the_whole_context(kind):
    config, written = _both(kind)
    lengths = lengths_with_tables(CONTEXT, short_capacity(written))
    assert lengths == ([512, CONTEXT] if kind == "longrope" else [CONTEXT])
    for length in lengths:
        _compare(config, rope_of(written, length), length)


def test_a_context_within_the_original_one_has_one_table():
    assert lengths_with_tables(512, 512) == [512]


def _scaled(**fields):
    return lambda written: {**written, "rope_scaling": {**written["rope_scaling"], **fields}}


@pytest.mark.parametrize(
    ("kind", "damage", "difference"),
    [
        ("default", lambda written: {**written, "rope_theta": 10001.0}, "of channel"),
        ("default", lambda written: {**written, "partial_rotary_factor": 0.5}, "16 columns instead of 32"),
        ("llama3", _scaled(factor=8.01), "of channel"),
        ("yarn", _scaled(attention_factor=1.0), "of channel"),
        ("yarn", _scaled(beta_slow=2), "of channel"),
        ("linear", _scaled(type="linear"), "of channel"),
        ("longrope", lambda written: {**written, "max_position_embeddings": 4096}, "of channel"),
    ],
)
def test_a_wrong_key_is_caught(kind, damage, difference):
    config, written = _both(kind)
    context = short_capacity(written) or CONTEXT
    with pytest.raises(RopeTablesDifferError, match=difference):
        _compare(config, rope_of(damage(written), context), context)


def test_the_other_table_of_longrope_is_caught():
    config, written = _both("longrope")
    with pytest.raises(RopeTablesDifferError, match="of channel"):
        _compare(config, rope_of(written, 513), 512)


def test_the_table_of_the_short_context_beyond_it_is_caught():
    """Also at early positions, which long texts turn by other angles."""
    config, written = _both("longrope")
    with pytest.raises(RopeTablesDifferError, match="at position"):
        _compare(config, rope_of(written, 512), 513)


@pytest.mark.parametrize("attribute", ["divisor", "multiplier"])
def test_a_table_rounded_to_float16_is_caught(attribute):
    """Frequencies off by 2⁻¹², as in a RoPE table that was kept in float16."""
    config, written = _both("yarn")
    rope = rope_of(written, CONTEXT)
    rounded = getattr(rope, attribute).astype(np.float16).astype(np.float32)
    damaged = replace(rope, **{attribute: rounded, "factor": np.float32(np.float16(rope.factor))})
    with pytest.raises(RopeTablesDifferError, match="of channel"):
        _compare(config, damaged, CONTEXT)


def test_rounded_cosines_are_caught(monkeypatch):
    config, written = _both("default")
    rope = rope_of(written, CONTEXT)
    exact = type(rope).cos_sin
    monkeypatch.setattr(type(rope), "cos_sin", lambda self, at: exact(self, at).astype(np.float16).astype(np.float32))
    with pytest.raises(RopeTablesDifferError, match="of channel"):
        _compare(config, rope, CONTEXT)


def test_a_table_without_numbers_is_caught():
    config, written = _both("default")
    rope = rope_of(written, CONTEXT)
    with pytest.raises(RopeTablesDifferError, match="of channel"):
        _compare(config, replace(rope, factor=np.float32(np.nan)), CONTEXT)


def test_pairs_side_by_side_or_half_a_row_apart():
    once = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(one_of_each_pair(np.concatenate([once, once], axis=1)), once)
    np.testing.assert_array_equal(one_of_each_pair(np.repeat(once, 2, axis=1)), once)
    np.testing.assert_array_equal(one_of_each_pair(once), once)
