"""One case as a real build: every outcome, from families that really do what they say."""

from __future__ import annotations

import tempfile

import pytest

from edgellm_core.errors import UnknownNameError
from edgellm_core.matrix import parse
from edgellm_core.matrix.run import RunSettings, build_settings, run_case
from edgellm_core.matrix.selection import MatrixCase

CONTEXT = "--max-seq-len must not exceed the model's context of 64 tokens; got 65."


def case(entry, family="llama", xfail=None):
    return MatrixCase(family=family, tier="l0", entry=parse(entry), xfail=xfail)


def test_the_build_has_the_precision_and_the_limits_of_the_entry():
    settings = build_settings(case("tiny-bf16-mxsl64-mxbs2-mxil16"), RunSettings(engine="tensorrt-rtx"))
    assert (settings.precision, settings.family) == ("bf16", "llama")
    assert (settings.max_seq_len, settings.max_batch_size, settings.max_input_len) == (64, 2, 16)
    assert (settings.verify, settings.engine) == ("full", "tensorrt-rtx")


def test_a_pass_has_the_measured_error_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = run_case(case("tiny-fp32-mxsl64"))
    assert (result.outcome, result.message, result.bad) == ("passed", "", False)
    assert 0 < result.max_rel_err < 1e-4
    assert result.seconds > 0
    assert list(tmp_path.glob("edgellm-*")) == []  # torch leaves a folder of its own


def test_a_refusal_is_a_failure_with_its_message():
    result = run_case(case("tiny-fp32-mxsl65"))
    assert (result.outcome, result.bad, result.details) == ("failed", True, "")
    assert result.message.startswith(CONTEXT)


def test_a_graph_that_differs_from_the_original_is_a_failure(pack, tiny_config):
    wrong = "\n    def attention_attributes(self, module, attributes):\n        import dataclasses\n"
    wrong += "        return dataclasses.replace(attributes, scale=attributes.scale * 1.5)\n"
    folder = pack({"mine": tiny_config + wrong}, "")
    result = run_case(case("tiny-fp32", "mine"), RunSettings(plugin_paths=(folder,)))
    assert result.outcome == "failed"
    assert "differs from the original" in result.message


def test_a_family_that_raises_is_named(pack):
    folder = pack({"mine": "raise KeyError('odd')"}, "")
    result = run_case(case("tiny-fp32", "mine"), RunSettings(plugin_paths=(folder,)))
    assert (result.outcome, result.bad) == ("failed", True)
    assert "KeyError" in result.message


def test_a_crash_is_told_with_its_traceback_and_raises_nothing(pack, tiny_config, monkeypatch):
    def build_settings(*_):
        raise KeyError("odd")

    monkeypatch.setattr("edgellm_core.matrix.run.build_settings", build_settings)
    result = run_case(case("tiny-fp32", "mine"), RunSettings(plugin_paths=(pack({"mine": tiny_config}, ""),)))
    assert (result.outcome, result.bad, result.message) == ("crashed", True, "KeyError: 'odd'")
    assert result.details.startswith("Traceback")


def test_what_the_product_does_not_have_is_skipped_by_name():
    result = run_case(case("tiny-int4_gptq-lora", xfail="never asked"))
    assert (result.outcome, result.seconds, result.bad) == ("skipped", 0.0, False)
    assert result.message == "Not yet: precision int4_gptq; LoRA adapters (lora)."


def test_an_expected_failure_is_no_failure():
    result = run_case(case("tiny-fp32-mxsl65", xfail="short context"))
    assert (result.outcome, result.bad) == ("xfailed", False)
    assert result.message.startswith(f"Expected to fail (short context), and failed: {CONTEXT}")


def test_an_expected_failure_that_passes_is_a_failure():
    result = run_case(case("tiny-fp32-mxsl64", xfail="short context"))
    assert (result.outcome, result.bad) == ("xpassed", True)
    assert result.message == "Expected to fail (short context), and passed."


def test_an_unknown_engine_is_refused_before_anything_runs():
    with pytest.raises(UnknownNameError, match=r"Unknown engine 'tensort'\. Did you mean 'tensorrt'\?"):
        RunSettings(engine="tensort")


def test_a_result_as_json_has_the_entry_as_text():
    assert run_case(case("tiny-int4_gptq")).to_json() == {
        "family": "llama", "entry": "tiny-int4_gptq", "tier": "l0", "outcome": "skipped", "seconds": 0.0,
        "message": "Not yet: precision int4_gptq.", "details": "", "max_rel_err": None,
    }  # fmt: skip
