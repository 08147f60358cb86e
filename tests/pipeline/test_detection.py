"""``detect`` runs the checks of a build, says what it did not look at, and reads no weights."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edgellm_core import detect
from edgellm_core.pipeline import checks
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.checks import FILE_CHECKS, FileCheck
from edgellm_core.pipeline.deep_detection import ACCOUNTED, LENGTHS, TOKENIZER, TRACED
from edgellm_core.pipeline.detection import DEEP_ONLY, HEADERS, NUMBERS, VALUES
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.tracing import masks
from tests.pipeline.conftest import LLAMA


def problems(found):
    return "\n".join(found.summary.will_not_work)


def test_a_plain_checkpoint_passes_all_checks(llama):
    found = detect(llama, deep=True)
    assert not problems(found)
    assert {HEADERS, TRACED, TOKENIZER, ACCOUNTED, LENGTHS} | {check.what for check in FILE_CHECKS} <= set(
        found.checked
    )
    assert found.not_checked == (VALUES, NUMBERS)
    assert not found.left_out


def test_a_plain_detect_says_what_it_leaves_to_deep(llama):
    found = detect(llama)
    assert {check.what for check in FILE_CHECKS if check.light} < set(found.checked)
    assert found.not_checked == ("settings of generation (--deep)", DEEP_ONLY, VALUES, NUMBERS)


def test_weights_are_never_read(llama_copy):
    path = llama_copy / "model.safetensors"
    raw = path.read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    expected = problems(detect(llama_copy, deep=True))
    with path.open("r+b") as stream:
        stream.truncate(length)
        stream.truncate(len(raw))  # a hole in place of the data
    assert problems(detect(llama_copy, deep=True)) == expected == ""


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.pop("model.norm.weight"), "lacks 1 tensor(s) that the model needs: 'model.norm.weight'"),
    (lambda t: t.update({"model.extra": np.ones(3, np.float32)}), "does not use: 'model.extra'"),
    (lambda t: t.update({"model.norm.weight": np.ones(3, np.float32)}), "'model.norm.weight' has [3], not [96]"),
], ids=["missing", "unexpected", "misshapen"])  # fmt: skip
def test_tensors_are_accounted_for_by_their_headers(llama_copy, edit_weights, change, message):
    edit_weights(llama_copy, change)
    assert message in problems(detect(llama_copy, deep=True))


def test_a_key_that_nothing_reads_is_told(llama_copy, edit_config):
    edit_config(llama_copy, attention_multiplier=0.3)
    found = detect(llama_copy, deep=True)
    assert "'attention_multiplier'" in problems(found)
    assert {TOKENIZER, ACCOUNTED, LENGTHS} <= set(found.not_checked)
    assert found.twin is None


def test_groups_that_are_left_out_are_told(llama_copy, edit_weights):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(llama_copy, lambda tensors: tensors.update({name: np.ones(8, np.float32)}))
    found = detect(llama_copy, deep=True)
    assert not problems(found)
    assert [group.tensors for group in found.left_out] == [1]
    assert json.loads(json.dumps(found.to_json()))["left_out"][0]["bytes"] == 32


@pytest.fixture
def windowed(tmp_path):
    return write_tiny_checkpoint(
        tmp_path / "windowed",
        {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 24},
    )


def test_a_twin_that_differs_is_told(windowed, monkeypatch):
    kept = masks.classify_mask
    monkeypatch.setattr(
        masks, "classify_mask", lambda *given: (kind := kept(*given)) and replace(kind, window=kind.window + 1)
    )
    found = detect(windowed, deep=True)
    assert "The graph differs from the original beyond sliding_window (24)" in problems(found)
    assert found.twin is None
    assert LENGTHS in found.checked


def test_build_takes_the_proof_of_detect(windowed, tmp_path, quick):
    found = detect(windowed, deep=True, precision="fp32")
    assert [threshold.name for threshold in found.twin.thresholds] == ["sliding_window"]
    assert found.to_json()["twin"]["thresholds"][0]["value"] == 24
    bundle = build(str(windowed), tmp_path / "out", quick())
    assert next(stage for stage in bundle.manifest.stages if stage.name == "twin").cached
    assert bundle.manifest.verification.twin == found.twin


def test_a_model_without_a_twin_is_not_checked(llama, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    monkeypatch.setattr("edgellm_core.verification.twin.shrink.MOST_PARAMETERS", 100)
    assert f"{LENGTHS} (its widths can't be shrunk)" in detect(llama, deep=True).not_checked


def test_the_target_is_checked_too(llama):
    assert "precision" in problems(detect(llama, deep=True, target="edge-llm", precision="fp32"))


def test_build_and_detect_run_the_same_checks_of_files(llama, tmp_path, quick, monkeypatch):
    ran = []
    monkeypatch.setattr(checks, "FILE_CHECKS", (FileCheck(what="a spy", run=lambda _c: ran.append("build")),))
    build(str(llama), tmp_path / "out", quick(verify="off"))
    assert ran == ["build"]
