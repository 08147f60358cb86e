"""The README's demo: SmolLM2 with real weights, from the installed package to an answer, proven in both precisions."""

from __future__ import annotations

import json
import sys

import pytest

from edgellm_core.cli import main

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def edgellm():
    """Return the function that runs the command line in process; a non-zero exit fails the test."""

    def run(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["edgellm", *map(str, arguments)])
            with pytest.raises(SystemExit) as stop:
                main()
        assert stop.value.code == 0

    return run


@pytest.fixture(scope="module")
def demo(tmp_path_factory, edgellm):
    """The demo's bundle, with an engine for SM 120."""
    out = tmp_path_factory.mktemp("demo") / "smollm2"
    edgellm("build", MODEL, "-o", out, "--sm", "120")
    return out


def test_demo_bundle_is_verified_and_has_an_engine(demo):
    manifest = json.loads((demo / "bundle.json").read_text())
    proof, engine = manifest["verification"], manifest["engine"]
    assert proof["status"] == "passed"
    assert proof["greedy_tokens_equal"]
    assert proof["prompts"] >= 4
    assert proof["max_rel_err"] <= 1e-4
    assert (engine["backend"], engine["compute_capability"]) == ("tensorrt-rtx", 120)
    assert engine["bytes"] == (demo / "llm" / "llm.engine").stat().st_size


def test_demo_answers_the_question(demo, edgellm, capsys):
    edgellm("run", demo, "What is the capital of France?", "--chat")
    output = capsys.readouterr()
    assert "Paris" in output.out
    assert "tokens/s" in output.err


def test_demo_in_float32_is_exact(tmp_path, edgellm):
    edgellm("build", MODEL, "-o", tmp_path / "out", "--precision", "fp32", "--engine", "none")
    proof = json.loads((tmp_path / "out" / "bundle.json").read_text())["verification"]
    assert proof["greedy_tokens_equal"]
    assert proof["max_rel_err"] <= 1e-4
