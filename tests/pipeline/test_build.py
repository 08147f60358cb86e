"""Builds of a tiny model from end to end: bundle, events, caches and resume."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import edgellm_core
from edgellm_core.bundle import load_bundle
from edgellm_core.errors import EdgellmError
from edgellm_core.pipeline import build as build_module
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.workspace import PREFIX

STAGES = ["checkpoint", "tokenizer", "trace", "surgery", "bind", "twin", "verify", "answers", "sample", "publish"]


@pytest.mark.parametrize(("precision", "largest"), [("fp32", 1e-4), ("fp16", 1e-4), ("bf16", 1e-4)])
def test_build_publishes_a_verified_bundle(llama, tmp_path, quick, precision, largest):
    bundle = build(str(llama), tmp_path / "out", quick(precision=precision))
    manifest = load_bundle(bundle.directory).manifest
    assert manifest.verification.status == "passed"
    assert manifest.verification.greedy_tokens_equal
    assert manifest.verification.max_rel_err <= largest
    assert manifest.verification.prompts >= 4
    assert manifest.family.name == "llama"
    assert manifest.precision == precision
    assert [stage.name for stage in manifest.stages] == STAGES[:-1]
    assert {rule.rule: rule.applied for rule in manifest.surgery}["AttentionToAttention"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_events_name_every_stage_and_measure_it(llama, tmp_path, quick):
    events = []
    build(str(llama), tmp_path / "out", quick(use_cache=False), listener=events.append)
    assert [event.stage for event in events if event.event == "start"] == STAGES
    assert [event.stage for event in events if event.event == "done"] == STAGES
    assert all(event.peak_rss_mib > 0 and event.seconds >= 0 for event in events)


def test_second_build_takes_the_trace_from_the_cache(llama, tmp_path, quick):
    build(str(llama), tmp_path / "first", quick())
    events = []
    build(str(llama), tmp_path / "second", quick(), listener=events.append)
    assert [event.stage for event in events if event.event == "cached"] == ["trace", "twin"]
    graphs = [(tmp_path / name / "llm" / "model.onnx").read_bytes() for name in ("first", "second")]
    assert graphs[0] == graphs[1]


def test_export_with_cached_trace_imports_neither_torch_nor_transformers(llama, tmp_path, quick):
    build(str(llama), tmp_path / "first", quick(verify="off", precision="fp16"))
    script = (
        "import sys; from edgellm_core import build;"
        f"build({str(llama)!r}, {str(tmp_path / 'second')!r}, verify='off', engine='none', precision='fp16');"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_interrupted_build_resumes_after_the_last_finished_stage(llama, tmp_path, quick, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "_publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(str(llama), tmp_path / "out", quick())
    assert (tmp_path / f"{PREFIX}out").is_dir()
    assert not (tmp_path / "out").exists()
    events = []
    bundle = build(str(llama), tmp_path / "out", quick(), listener=events.append)
    assert [event.stage for event in events if event.event == "cached"] == [
        "tokenizer",
        "trace",
        "bind",
        "twin",
        "verify",
        "answers",
        "sample",
    ]
    assert load_bundle(bundle.directory).manifest.verification.status == "passed"
    assert not (tmp_path / f"{PREFIX}out").exists()


def test_changed_weights_are_not_taken_from_an_interrupted_build(
    llama_copy, tmp_path, quick, monkeypatch, edit_weights
):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "_publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(str(llama_copy), tmp_path / "out", quick())

    def double(tensors):
        tensors["model.norm.weight"] *= 2

    edit_weights(llama_copy, double)
    events = []
    build(str(llama_copy), tmp_path / "out", quick(), listener=events.append)
    assert [event.stage for event in events if event.event == "cached"] == ["trace", "twin"]


def test_full_depth_builds_the_same_function(llama, tmp_path, quick):
    bundle = build(str(llama), tmp_path / "out", quick(full_depth=True))
    assert bundle.manifest.verification.status == "passed"


def test_forced_family_still_has_to_pass_the_gate(llama, tmp_path, quick):
    bundle = build(str(llama), tmp_path / "out", quick(family="generic"))
    assert bundle.manifest.family.name == "generic"
    assert bundle.manifest.verification.status == "passed"


def test_existing_bundle_is_replaced_only_with_force(llama, tmp_path, quick):
    build(str(llama), tmp_path / "out", quick(verify="off"))
    with pytest.raises(EdgellmError, match="--force"):
        build(str(llama), tmp_path / "out", quick(verify="off"))
    bundle = build(str(llama), tmp_path / "out", quick(verify="off", precision="fp16", force=True))
    assert bundle.manifest.precision == "fp16"


def test_sharded_and_single_checkpoints_give_the_same_graph(llama, tmp_path, quick):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    outs = [build(str(source), tmp_path / f"out-{source.name}", quick(verify="off")) for source in
            (llama, tmp_path / "sharded")]  # fmt: skip
    sizes = [out.model_path.with_name("model.onnx.data").stat().st_size for out in outs]
    assert sizes[0] == sizes[1]
    assert build(str(tmp_path / "sharded"), tmp_path / "proof", quick()).manifest.verification.status == "passed"


def test_python_api_builds_detects_and_loads(llama, tmp_path):
    bundle = edgellm_core.build(llama, tmp_path / "out", precision="fp32", engine="none", verify="off")
    assert edgellm_core.detect(llama).selection.family.name == "llama"
    assert edgellm_core.load_bundle(tmp_path / "out").manifest == bundle.manifest
    assert json.loads((tmp_path / "out" / "bundle.json").read_text())["source"]["kind"] == "directory"
    with pytest.raises(AttributeError, match="has no attribute 'biuld'"):
        _ = edgellm_core.biuld


def test_quantized_checkpoint_is_refused_by_name(llama_copy, tmp_path, quick, edit_config):
    edit_config(llama_copy, quantization_config={"quant_method": "aqlm", "bits": 4})
    with pytest.raises(EdgellmError, match=r"can't represent: aqlm\. Build from the unquantized"):
        build(str(llama_copy), tmp_path / "out", quick())


def test_tolerance_of_the_registry_wins_over_that_of_the_precision(monkeypatch, llama, tmp_path, quick):
    from edgellm_core.registry import ModelRegistry

    path = tmp_path / "registry.yaml"
    path.write_text(
        "tiny:\n  family: llama\n  hub: a/b\n  precisions:\n    fp32: {status: untested, max_rel_err: 1.0e-12}\n"
    )
    registry = ModelRegistry.load(path)
    monkeypatch.setattr(ModelRegistry, "load", classmethod(lambda _cls: registry))
    monkeypatch.setattr(build_module, "open_source", lambda *_a, **_k: _open(llama))
    with pytest.raises(EdgellmError, match=r"tolerance 1e-12"):
        build("tiny", tmp_path / "out", quick())


def _open(directory):
    from edgellm_core.checkpoint.location import Location
    from edgellm_core.checkpoint.source import open_directory

    return open_directory(directory, Location(kind="directory", id=str(directory), path=directory))
