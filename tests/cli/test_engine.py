from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from edgellm_core.bundle import load_bundle
from edgellm_core.bundle.errors import NotABundleError
from edgellm_core.cli import edgellm
from edgellm_core.engine.backend import BACKENDS
from edgellm_core.engine.errors import MissingBackendError, UnknownComputeCapabilityError
from edgellm_core.errors import InvalidSettingError
from edgellm_core.testing.decoder_bundle import write_decoder_bundle
from edgellm_core.testing.decoder_graph import DecoderShape


@pytest.fixture
def bundle(tmp_path):
    return write_decoder_bundle(tmp_path / "bundle", shape=DecoderShape(layers=1, hidden=64), element_type="FLOAT16")


def invoke(*arguments):
    return CliRunner().invoke(edgellm, ["engine", *map(str, arguments)])


def test_engine_enters_the_bundle_and_a_second_one_replaces_it(bundle):
    before = bundle.manifest
    result = invoke(bundle.directory, "--engine", "tensorrt-rtx", "--sm", 120, "--max-batch-size", 2)
    assert result.exit_code == 0, result.exception
    assert "llm.engine: " in result.stdout
    assert " MB for SM 120, " in result.stdout
    first = load_bundle(bundle.directory)
    assert first.engine_path.stat().st_size == first.manifest.engine.bytes
    assert first.manifest.engine.compute_capability == 120
    (profile,) = first.manifest.engine.profiles
    assert profile.name == "generation"
    assert (profile.batch, profile.seq, profile.past) == ((1, 2, 2), (1, 32, 64), (0, 16, 63))
    assert first.manifest.versions == {"tensorrt-rtx": BACKENDS["tensorrt-rtx"].version()}
    assert [stage.name for stage in first.manifest.stages] == ["engine"]
    assert {file.path for file in first.manifest.files} - {file.path for file in before.files} == {"llm/llm.engine"}

    assert invoke(bundle.directory, "--max-seq-len", 32).exit_code == 0
    second = load_bundle(bundle.directory)
    assert second.manifest.engine.compute_capability is None
    assert [stage.name for stage in second.manifest.stages] == ["engine"]
    assert len(second.manifest.files) == len(first.manifest.files)


def test_events_are_json_lines(bundle):
    result = invoke(bundle.directory, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("start", "done")
    assert {event["stage"] for event in events} == {"engine"}
    assert all({"seconds", "peak_rss_mib"} <= event.keys() for event in events)
    assert any(event.get("message", "").startswith("Engine: tensorrt-rtx") for event in events)


def test_failed_build_leaves_a_whole_bundle_without_engine(bundle):
    assert invoke(bundle.directory).exit_code == 0
    model = bundle.model_path.read_bytes()
    bundle.model_path.write_bytes(b"\xff" * len(model))
    result = invoke(bundle.directory, "--no-check")
    assert "can't take the graph of model.onnx" in str(result.exception)
    bundle.model_path.write_bytes(model)
    assert load_bundle(bundle.directory).manifest.engine is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--sm", 99), UnknownComputeCapabilityError, r"--sm must be .*; got 99"),
        (("--engine", "tensorrt"), MissingBackendError, r"--engine tensorrt needs the package tensorrt"),
        (("--max-input-len", 60, "--max-seq-len", 50), InvalidSettingError, r"--max-input-len must not exceed"),
        (("--max-seq-len", 65), InvalidSettingError, r"must not exceed the model's context of 64 tokens; got 65"),
    ],
)
def test_bad_settings_are_one_sentence(bundle, arguments, error, message):
    result = invoke(bundle.directory, *arguments)
    with pytest.raises(error, match=message):
        raise result.exception
    assert load_bundle(bundle.directory).manifest.engine is None


def test_other_directories_are_refused(tmp_path):
    with pytest.raises(NotABundleError, match="is not an edgellm bundle"):
        raise invoke(tmp_path).exception
