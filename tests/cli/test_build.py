"""``edgellm build`` and ``export``: what they print, and the plan of a dry run."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from edgellm_core.cli import edgellm
from edgellm_core.pipeline.errors import QualityLimitError
from edgellm_core.testing.checkpoints import write_tiny_checkpoint

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "max_position_embeddings": 64, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "llama", LLAMA)


def invoke(*arguments):
    result = CliRunner().invoke(edgellm, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_build_says_what_was_built_and_how_it_was_proved(model, tmp_path):
    result = invoke("build", model, "-o", tmp_path / "out", "--engine", "none", "--precision", "fp32")
    assert "max relative error" in result.stdout
    assert "greedy tokens equal" in result.stdout


def test_json_prints_one_event_a_line(model, tmp_path):
    result = invoke("build", model, "-o", tmp_path / "out", "--engine", "none", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert all({"stage", "event", "seconds", "peak_rss_mib"} <= set(event) for event in events)
    assert [event["stage"] for event in events if event["event"] in {"done", "cached"}] == [
        "checkpoint", "tokenizer", "trace", "surgery", "bind", "twin", "verify", "answers", "sample", "publish",
    ]  # fmt: skip


def test_dry_run_prints_the_plan_and_writes_nothing(model, tmp_path):
    text = invoke("build", model, "-o", tmp_path / "out", "--dry-run").stdout
    assert "family llama" in text
    assert all(stage in text for stage in ("trace", "surgery", "bind", "verify", "engine"))
    plan = json.loads(invoke("build", model, "-o", tmp_path / "out", "--dry-run", "--json", "--engine", "none").stdout)
    assert "engine" not in [stage["stage"] for stage in plan["stages"]]
    assert list(tmp_path.iterdir()) == []


def test_engine_for_sm_120_is_in_the_bundle(model, tmp_path):
    invoke("build", model, "-o", tmp_path / "out", "--engine", "tensorrt-rtx", "--sm", "120", "--verify", "off")
    engine = json.loads((tmp_path / "out" / "bundle.json").read_text())["engine"]
    assert engine["backend"] == "tensorrt-rtx"
    assert engine["compute_capability"] == 120
    assert engine["bytes"] == (tmp_path / "out" / "llm" / "llm.engine").stat().st_size > 0


def test_export_then_verify_proves_the_bundle(model, tmp_path):
    out = tmp_path / "out"
    invoke("export", model, "-o", out)
    assert json.loads((out / "bundle.json").read_text())["verification"]["status"] == "skipped"
    invoke("verify", out)
    assert json.loads((out / "bundle.json").read_text())["verification"]["status"] == "passed"


def test_build_says_what_the_precision_costs(model, tmp_path):
    few = ["--engine", "none", "--verify", "off", "--quality-samples", "2", "--quality-length", "16"]
    result = invoke("build", model, "-o", tmp_path / "out", *few, "--max-kl", "0.5")
    assert "The graph was not compared with the checkpoint." in result.stdout
    assert "close it is to the unquantized original, on 30 tokens of builtin held-out text" in result.stdout
    assert "KL " in result.stdout
    result = CliRunner().invoke(edgellm, ["build", str(model), "-o", str(tmp_path / "none"), *few, "--max-kl", "0"])
    assert isinstance(result.exception, QualityLimitError)
    assert not (tmp_path / "none").exists()


def test_compare_prints_a_table_and_where_the_report_is(model, tmp_path):
    few = ["--verify", "off", "--quality-samples", "2", "--quality-length", "16", "--max-new-tokens", "2"]
    result = invoke("compare", model, "--precision", "fp32, fp16", "-o", tmp_path / "out", *few, "--prompt", "a")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows[1:3]] == ["fp32", "fp16"]
    assert all(len(row) == 7 for row in rows[1:3])
    assert f"Report: {tmp_path / 'out' / 'compare.html'}" in result.stdout


def test_build_prints_the_proof_and_one_answer_of_both(model, tmp_path):
    result = invoke("build", model, "-o", tmp_path / "out", "--engine", "none")
    assert "The graph equals the checkpoint: 4 prompts against " in result.stdout
    asked, answered, _, original = result.stdout.splitlines()[-4:]
    assert asked == "Asked 'What is the capital of France?', the bundle answers:"
    assert answered == original
