"""The runtime's angles against those of transformers."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgellm_core.runtime.paged.rope import rope_of

KINDS = {
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "longrope": {
        "short_factor": [1.0 + 0.1 * i for i in range(16)], "long_factor": [2.0 + 0.3 * i for i in range(16)],
        "original_max_position_embeddings": 64,
    },
}  # fmt: skip


def _both(kind, length=40, **more):
    parameters = {"rope_type": kind, "rope_theta": 10000.0, **KINDS[kind], **more}
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, head_dim=32, max_position_embeddings=256, rope_parameters=parameters
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    ours = rope_of(
        {
            "head_dim": 32, "partial_rotary_factor": 1.0, "rope_theta": 10000.0, "max_position_embeddings": 256,
            "rope_scaling": {**parameters, "type": kind}, "original_max_position_embeddings": 64,
        },
        length,
    )  # fmt: skip
    return ours, frequencies.numpy(), factor


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama3", {}),
        ("yarn", {}),
        ("yarn", {"beta_fast": 16, "beta_slow": 2, "attention_factor": 1.3}),
        ("yarn", {"mscale": 1.0, "mscale_all_dim": 0.7}),
        ("longrope", {}),
        ("longrope", {"attention_factor": 1.1}),
    ],
)
def test_equals_transformers(kind, more):
    ours, frequencies, factor = _both(kind, **more)
    np.testing.assert_allclose(ours.frequencies, frequencies, rtol=1e-5)
    assert ours.factor == pytest.approx(factor)


def test_long_contexts_take_the_other_factors():
    ours, frequencies, _ = _both("longrope", length=100)
    np.testing.assert_allclose(ours.frequencies, frequencies, rtol=1e-5)


def test_cosines_come_before_sines():
    config = {"head_dim": 8, "partial_rotary_factor": 0.5, "rope_theta": 100.0, "rope_scaling": None}
    table = rope_of(config, 4).cos_sin(np.array([0, 3]))
    np.testing.assert_allclose(table[0], [1, 1, 0, 0])
    np.testing.assert_allclose(table[1], [np.cos(3), np.cos(0.3), np.sin(3), np.sin(0.3)], rtol=1e-6)
    assert table.dtype == np.float32
