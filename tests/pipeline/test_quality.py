"""The stage quality of a build: when it runs, what it records, and the limit."""

from __future__ import annotations

import json

import pytest

from edgellm_core.bundle import load_bundle
from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.errors import QualityLimitError, QualityNotMeasurableError
from edgellm_core.pipeline.quality import is_wanted
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.pipeline.workspace import PREFIX
from edgellm_core.testing.checkpoints import write_tiny_checkpoint, write_tokenizer
from edgellm_core.verification.errors import ComparisonMemoryError
from tests.stock_modelopt import export_stock, tiny_llama

FEW = {"verify": "off", "precision": "fp16", "quality_samples": 2, "quality_length": 32}


def test_a_measured_build_says_what_its_precision_costs(llama, tmp_path, quick):
    build(str(llama), tmp_path / "out", quick(**FEW, quality="on"))
    manifest = load_bundle(tmp_path / "out").manifest
    quality = manifest.quality
    assert quality.tokens == 2 * 31
    assert "builtin held-out text" in quality.text
    assert "in float32" in quality.reference
    assert 0 < quality.kl < 1e-3
    assert quality.perplexity == pytest.approx(quality.original_perplexity, rel=1e-2)
    assert quality.max_kl is None
    assert "quality" in [stage.name for stage in manifest.stages]


def test_without_quantization_nothing_is_measured_unless_asked_for(llama, tmp_path, quick):
    build(str(llama), tmp_path / "out", quick(verify="off"))
    assert load_bundle(tmp_path / "out").manifest.quality is None


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"precision": "fp16"}, False),
        ({"precision": "fp8"}, True),
        ({"precision": "fp8", "quality": "off"}, False),
        ({"precision": "fp16", "quality": "on"}, True),
        ({"precision": "fp16", "max_kl": 0.1}, True),
    ],
)
def test_when_the_quality_is_measured(settings, wanted):
    assert is_wanted(BuildSettings(**settings)) is wanted


def test_a_limit_refuses_a_graph_beyond_it_and_keeps_what_is_done(llama, tmp_path, quick):
    with pytest.raises(QualityLimitError, match=r"within --max-kl 0 nats .* divergence is .*raise --max-kl"):
        build(str(llama), tmp_path / "out", quick(**FEW, max_kl=0.0))
    assert not (tmp_path / "out").exists()
    assert (tmp_path / f"{PREFIX}out").is_dir()
    events = []
    build(str(llama), tmp_path / "out", quick(**FEW, max_kl=0.5), listener=events.append)
    assert {"bind", "quality"} <= {event.stage for event in events if event.event == "cached"}
    assert load_bundle(tmp_path / "out").manifest.quality.max_kl == 0.5


def test_a_budget_that_holds_no_layer_is_refused_with_its_remedy(llama, tmp_path, quick):
    with pytest.raises(ComparisonMemoryError, match=r"hold its largest layer in memory; .* Raise --max-memory"):
        build(str(llama), tmp_path / "a", quick(**FEW, quality="on", max_memory=1))
    assert not (tmp_path / "a").exists()


def test_a_model_without_tokenizer_is_not_measured(llama_copy, tmp_path, quick):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llama_copy / name).unlink()
    with pytest.raises(QualityNotMeasurableError, match="has no tokenizer to read text with"):
        build(str(llama_copy), tmp_path / "out", quick(**FEW, max_kl=1.0))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"quality": "maybe"}, UnknownNameError, "Unknown value of --quality 'maybe'"),
        ({"max_kl": -1.0}, InvalidSettingError, "--max-kl must be at least 0"),
        ({"max_kl": float("nan")}, InvalidSettingError, "--max-kl must be at least 0; got nan"),
        ({"max_kl": 1.0, "quality": "off"}, InvalidSettingError, "--max-kl needs --quality on or auto"),
        ({"quality_samples": 0}, InvalidSettingError, "--quality-samples must be at least 1"),
        ({"quality_length": 1}, InvalidSettingError, "--quality-length must be at least 2"),
    ],
)
def test_settings_that_can_not_work_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        BuildSettings(**settings)


def test_the_manifest_keeps_the_record(llama, tmp_path, quick):
    build(str(llama), tmp_path / "out", quick(**FEW, quality="on"))
    stored = json.loads((tmp_path / "out" / "bundle.json").read_text())["quality"]
    assert load_bundle(tmp_path / "out").manifest.quality.model_dump() == stored


@pytest.fixture(scope="module")
def divisible(tmp_path_factory):
    """A tiny checkpoint whose widths every scheme divides."""
    directory = tmp_path_factory.mktemp("models") / "divisible"
    return write_tiny_checkpoint(directory, tiny_llama(max_position_embeddings=64).config.to_dict())


@pytest.fixture(scope="module")
def half(divisible, tmp_path_factory):
    """What float16 costs the divisible checkpoint."""
    settings = BuildSettings(**FEW, quality="on", engine="none")
    return build(str(divisible), tmp_path_factory.mktemp("half") / "out", settings).manifest.quality


@pytest.mark.parametrize("scheme", ["fp8", "int8_sq", "int4_awq", "nvfp4", "mxfp8"])
def test_a_quantized_build_is_measured_against_the_source(divisible, half, tmp_path, quick, scheme):
    few = {**FEW, "precision": scheme, "calib_data": "builtin", "calib_samples": 4, "calib_length": 32}
    quality = build(str(divisible), tmp_path / "out", quick(**few)).manifest.quality
    assert quality.original_perplexity == half.original_perplexity
    assert quality.kl > 10 * half.kl
    assert quality.kl < 0.5


def test_a_source_that_is_quantized_already_has_no_original(tmp_path, quick):
    export_stock(tmp_path / "source", "fp8")
    write_tokenizer(tmp_path / "source", vocab_size=256)
    with pytest.raises(QualityNotMeasurableError, match="the source is quantized already, so there is no original"):
        build(str(tmp_path / "source"), tmp_path / "out", quick(**FEW, max_kl=1.0))
