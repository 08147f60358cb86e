"""Values in config.json of types that they never have."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm_core.checkpoint.config_types import require_types
from edgellm_core.checkpoint.errors import ConfigValueError

PATH = Path("somewhere/config.json")


@pytest.mark.parametrize(("key", "value", "wanted"), [
    ("model_type", [], "a name"), ("model_type", 3, "a name"), ("text_config", "llama", "an object"),
    ("quantization_config", [1], "an object"), ("vocab_size", "32k", "a number"), ("hidden_size", True, "a number"),
    ("num_hidden_layers", {}, "a number"), ("max_position_embeddings", [2048], "a number"),
])  # fmt: skip
def test_wrong_types_are_named(key, value, wanted):
    with pytest.raises(ConfigValueError, match=rf"config\.json' must have {wanted} under '{key}'; got .* Correct"):
        require_types(PATH, {key: value})


@pytest.mark.parametrize("config", [
    {}, {"model_type": None, "max_position_embeddings": None}, {"num_attention_heads": [4, 8], "vocab_size": 32000},
    {"hidden_size": 64.0, "text_config": {"vocab_size": 3}, "n_inner": None, "intermediate_size": [64, 128]},
])  # fmt: skip
def test_usual_types_are_taken(config):
    require_types(PATH, config)


def test_long_values_are_cut():
    with pytest.raises(ConfigValueError, match=r"got \['a', .{50,60}…\. Correct"):
        require_types(PATH, {"model_type": ["a"] * 1000})
