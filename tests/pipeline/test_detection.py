"""``detect`` runs the checks of a build, says what it did not look at, and reads no weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgellm_core import detect
from edgellm_core.pipeline import checks
from edgellm_core.pipeline.checks import FILE_CHECKS, FileCheck
from edgellm_core.pipeline.deep_detection import ACCOUNTED, TOKENIZER, TRACED
from edgellm_core.pipeline.detection import DEEP_ONLY, HEADERS, NUMBERS, VALUES


def problems(found):
    return "\n".join(found.summary.will_not_work)


def test_a_plain_checkpoint_passes_all_checks(llama):
    found = detect(llama, deep=True)
    assert not problems(found)
    assert {HEADERS, TRACED, TOKENIZER, ACCOUNTED} | {check.what for check in FILE_CHECKS} <= set(found.checked)
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
    assert {TOKENIZER, ACCOUNTED} <= set(found.not_checked)


def test_groups_that_are_left_out_are_told(llama_copy, edit_weights):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(llama_copy, lambda tensors: tensors.update({name: np.ones(8, np.float32)}))
    found = detect(llama_copy, deep=True)
    assert not problems(found)
    assert [group.tensors for group in found.left_out] == [1]
    assert json.loads(json.dumps(found.to_json()))["left_out"][0]["bytes"] == 32


def test_the_target_is_checked_too(llama):
    assert "precision" in problems(detect(llama, deep=True, target="edge-llm", precision="fp32"))


def test_build_and_detect_run_the_same_checks_of_files(llama, tmp_path, quick, monkeypatch):
    from edgellm_core.pipeline.build import build

    ran = []
    monkeypatch.setattr(checks, "FILE_CHECKS", (FileCheck(what="a spy", run=lambda _c: ran.append("build")),))
    build(str(llama), tmp_path / "out", quick(verify="off"))
    assert ran == ["build"]
