from __future__ import annotations

import pytest

from edgellm_core.checkpoint.dimensions import read_dimensions
from edgellm_core.checkpoint.estimate import estimate_stages, stage

GIB, MB = 2**30, 10**6
SMOLLM2 = read_dimensions(
    {"num_hidden_layers": 30, "hidden_size": 576, "vocab_size": 49152, "tie_word_embeddings": True}
)
LLAMA_1B_CONFIG = {"num_hidden_layers": 16, "hidden_size": 2048, "vocab_size": 128256, "tie_word_embeddings": True}
LLAMA_1B = read_dimensions(LLAMA_1B_CONFIG)


@pytest.mark.parametrize(
    ("parameters", "dimensions", "name", "field", "measured"),
    [
        (135 * MB, SMOLLM2, "bind", "ram", 404 * MB),
        (1240 * MB, LLAMA_1B, "bind", "ram", 410 * MB),
        (7600 * MB, read_dimensions({}), "bind", "ram", 414 * MB),
        (135 * MB, SMOLLM2, "engine", "ram", 1300 * MB),
        (135 * MB, SMOLLM2, "engine", "disk", 286 * MB),
        (135 * MB, SMOLLM2, "dequantize", "ram", 425 * 2**20),
        (596 * MB, read_dimensions({}), "dequantize", "ram", 475 * 2**20),
        (135 * MB, SMOLLM2, "dequantize", "disk", 269_200_000),
    ],
)
def test_estimates_lie_above_what_was_measured_and_not_far(parameters, dimensions, name, field, measured):
    stages = estimate_stages(parameters, dimensions, dequantize=2 * parameters)
    assert measured <= getattr(stage(stages, name), field) * 1.005
    assert getattr(stage(stages, name), field) < 2 * measured


def test_export_does_not_grow_with_the_model():
    small, large = (estimate_stages(count, read_dimensions({})) for count in (10**8, 10**11))
    for name in ("trace", "surgery", "bind"):
        assert stage(small, name).ram == stage(large, name).ram


@pytest.mark.parametrize(("precision", "nbytes"), [("fp32", 4), ("fp16", 2), ("bf16", 2)])
def test_disk_follows_the_precision(precision, nbytes):
    stages = estimate_stages(1000, SMOLLM2, precision=precision)
    assert stage(stages, "bind").disk == 1000 * nbytes


def test_verification_takes_a_layer_and_not_the_model():
    deep, shallow = ({**LLAMA_1B_CONFIG, "num_hidden_layers": layers} for layers in (160, 16))
    few, many = (
        stage(estimate_stages(count, read_dimensions(config)), "verify").ram
        for count, config in ((1240 * MB, shallow), (10020 * MB, deep))
    )
    assert many == pytest.approx(few, rel=0.02)


def test_stages_before_the_build_are_there_only_where_they_happen():
    names = [item.stage for item in estimate_stages(1, SMOLLM2)]
    assert names == ["trace", "surgery", "bind", "verify", "engine"]
    assert [item.stage for item in estimate_stages(1, SMOLLM2, download=5)][0] == "download"  # noqa: RUF015
    assert estimate_stages(1, SMOLLM2, download=5)[0].disk == 5
