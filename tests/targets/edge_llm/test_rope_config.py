"""What config.json says of RoPE, so that the runtime computes the model's angles, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgellm_core.targets.edge_llm.errors import RopeNotExpressibleError
from edgellm_core.targets.edge_llm.rope_config import partial_factor, rope_fields

BASE = {"rope_theta": 10000.0}
YARN = {"rope_type": "yarn", **BASE, "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {
    "rope_type": "longrope", **BASE, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def _rope(parameters, raw=None, *, head_dim=16, rotary_dim=16, **known):
    return rope_fields(
        raw if raw is not None else {"rope_parameters": parameters},
        {"rope_parameters": parameters, "max_position_embeddings": 256, "head_dim": head_dim, **known},
        head_dim=head_dim,
        rotary_dim=rotary_dim,
    )


@pytest.mark.parametrize(
    ("parameters", "sizes", "reason"),
    [
        ({"rope_type": "axial", **BASE}, {}, "it has no rope_type 'axial'"),
        ({"rope_type": "linear", **BASE, "factor": 2.0}, {"rotary_dim": 8}, "'linear' for a part of each head"),
        ({"rope_type": "proportional", **BASE}, {"rotary_dim": 8}, "rotates whole heads"),
        ({"sliding_attention": {"rope_type": "default"}}, {}, "other parameters for each kind of layer"),
        ({"rope_type": "default"}, {}, "names no rope_theta"),
        ({**YARN, "truncate": False}, {}, "truncate is false"),
        ({**LONG, "attention_factor": 1.5}, {}, "1.1547, made of .* that of the model is 1.5"),
        ({**LONG, "factor": 32.0}, {}, "that of the model is 1.35401"),
    ],
)
def test_angles_that_the_runtime_lacks(parameters, sizes, reason):
    with pytest.raises(RopeNotExpressibleError, match=reason):
        _rope(parameters, **sizes)


def test_plain_angles():
    plain = {"rope_type": "default", "rope_theta": 500000.0}
    assert _rope(plain, raw={"rope_theta": 500000.0}) == {
        "rope_theta": 500000.0, "rope_scaling": None, "partial_rotary_factor": 1.0,
    }  # fmt: skip
    assert _rope(plain, rotary_dim=8)["partial_rotary_factor"] == 0.5
    assert _rope(plain)["rope_scaling"]["type"] == "default"


def test_text_has_no_sections_of_mrope():
    """The runtime would wait for the positions of images; those of text are one and the same."""
    stated = {"rope_type": "default", **BASE, "mrope_section": [2, 3, 3]}
    assert "mrope_section" not in _rope(stated)["rope_scaling"]


def test_linear_is_proportional_over_whole_heads():
    scaling = _rope({"rope_type": "linear", **BASE, "factor": 2.5})["rope_scaling"]
    assert (scaling["type"], scaling["rope_type"]) == ("proportional", "proportional")
    assert (scaling["factor"], scaling["partial_rotary_factor"]) == (2.5, 1.0)


def test_what_makes_yarns_factor_is_folded_into_it():
    scaling = _rope({**YARN, "mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": None})["rope_scaling"]
    assert scaling["attention_factor"] == pytest.approx((0.1 * math.log(4) + 1) / (0.07 * math.log(4) + 1))
    assert not {"mscale", "mscale_all_dim"} & scaling.keys()
    assert (scaling["beta_fast"], scaling["beta_slow"]) == (32, 1)
    assert _rope({**YARN, "mscale": 1.0})["rope_scaling"]["attention_factor"] == pytest.approx(0.1 * math.log(4) + 1)
    assert _rope({**YARN, "attention_factor": 1.3})["rope_scaling"]["attention_factor"] == 1.3


def test_yarn_without_a_factor_takes_the_ratio_of_contexts():
    assert _rope({**YARN, "factor": None})["rope_scaling"]["factor"] == 4.0


def test_whole_bounds_need_no_truncation():
    """32 ln(o / (2π n)) / (2 ln θ) is 4 and 12 for θ = 2^32, o = 2π · 2^8, n = 1 and 2^-16."""
    whole = {
        **YARN, "truncate": False, "rope_theta": 2.0**4, "original_max_position_embeddings": 1 << 20,
        "beta_fast": (1 << 20) / (2 * math.pi), "beta_slow": (1 << 20) / (2 * math.pi) / 16,
    }  # fmt: skip
    assert "truncate" not in _rope(whole)["rope_scaling"]


def test_llama3_takes_the_original_context_that_transformers_takes():
    parameters = {"rope_type": "llama3", **BASE, "factor": 8.0, "original_max_position_embeddings": 32}
    raw = {"rope_scaling": {**parameters, "original_max_position_embeddings": 64}}
    assert _rope(parameters, raw=raw)["rope_scaling"]["original_max_position_embeddings"] == 32


def test_names_that_only_transformers_knows():
    """``su`` is what Phi-3 called longrope; the runtime would take it for plain angles."""
    fields = _rope(LONG, raw={"rope_scaling": {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}})
    assert (fields["rope_scaling"]["type"], fields["rope_scaling"]["rope_type"]) == ("longrope", "longrope")
    assert fields["original_max_position_embeddings"] == 64


@pytest.mark.parametrize("head_dim", [16, 20, 24, 44, 46, 52, 64, 72, 80, 96, 128, 192, 256])
def test_the_width_survives_float32(head_dim):
    for rotary_dim in range(2, head_dim + 1, 2):
        factor = partial_factor(head_dim, rotary_dim)
        assert int(np.float32(head_dim) * np.float32(factor)) == int(head_dim * factor) == rotary_dim


def test_a_factor_that_float32_cuts_is_replaced():
    """In float32 46 times 14 / 46 is 13.999999."""
    assert int(np.float32(46) * np.float32(14 / 46)) == 13
    assert partial_factor(46, 14, 14 / 46) > 14 / 46
    assert partial_factor(10, 7, 0.7) == 0.7
