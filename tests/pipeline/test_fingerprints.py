"""Earlier results are used only where nothing changed that a stage may depend on."""

from __future__ import annotations

import os
from typing import Any

import pytest

from edgellm_core import hookspecs
from edgellm_core.events import ignore_events
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.errors import QualityLimitError
from edgellm_core.pipeline.trace_cache import trace_key
from edgellm_core.pipeline.twin import twin_key
from edgellm_core.pipeline.workspace import StageRunner, Workspace

ALONE = {"EDGELLM_PLUGINS": "llama,pack"}
"""Loads few plugins, so that a test of all hooks is fast."""

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("edgellm_"))
STAGES = ("tokenizer", "quantize", "bind", "verify", "quality", "answers", "sample", "engine")
ARGUMENTS = {
    "edgellm_resolve_family": "config",
    "edgellm_before_stage": "stage",
    "edgellm_after_stage": "stage",
    "edgellm_stage_failed": "stage",
}


def write_pack(folder, hook, body="None"):
    answer = "[]" if "register" in hook else body
    source = f"from edgellm_core.hookspecs import hookimpl\n\n@hookimpl\ndef {hook}({ARGUMENTS.get(hook, '')}):\n"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(f"{source}    return {answer}\n")
    return folder


def run_stage(stage, host, workspace):
    """Return whether an earlier result of the stage was used."""
    runner = StageRunner(host=host, listener=ignore_events, settings={}, outcomes=[])
    runner.resume(stage, workspace, "the same", lambda _report: {"a": 1})
    return runner.outcomes[-1].cached


@pytest.mark.parametrize("hook", HOOKS)
def test_every_stage_runs_again_when_a_plugin_with_any_hook_changes(hook, tmp_path):
    pack = write_pack(tmp_path / "pack", hook)
    workspace = Workspace(tmp_path / "out")
    workspace.directory.mkdir()
    plain, packed = PluginHost.load(environ={"EDGELLM_PLUGINS": "llama"}), PluginHost.load([pack], environ=ALONE)
    for stage in STAGES:
        assert not run_stage(stage, plain, workspace)
        assert not run_stage(stage, packed, workspace), "a pack was added"
        assert run_stage(stage, packed, workspace), "nothing changed"
    for change in ("__init__.py", "data/table"):
        path = pack / change
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.read_text() + "\n" if path.exists() else "data")
        host = PluginHost.load([pack], environ=ALONE)
        assert not any(run_stage(stage, host, workspace) for stage in STAGES), change


@pytest.mark.parametrize("hook", HOOKS)
def test_traces_and_proofs_of_long_lengths_change_with_every_plugin(hook, tmp_path):
    config: dict[str, Any] = {"model_type": "llama"}
    pack = write_pack(tmp_path / "pack", hook)

    def keys(*paths):
        selection = PluginHost.load(paths, environ=ALONE if paths else {"EDGELLM_PLUGINS": "llama"}).select(config)
        return trace_key(config, (), selection, "fp32", full_depth=False), twin_key(config, selection)

    plain, packed = keys(), keys(pack)
    (pack / "table.npy").write_bytes(b"1")
    changed = keys(pack)
    for of_kind in zip(plain, packed, changed, strict=True):
        assert len(set(of_kind)) == 3


def test_a_stopped_build_takes_nothing_from_before_a_pack_with_rules(llama, tmp_path, quick):
    tokens = {"quality_samples": 2, "quality_length": 8, "quality": "on"}
    with pytest.raises(QualityLimitError):
        build(str(llama), tmp_path / "out", quick(precision="fp16", max_kl=0.0, **tokens))
    pack = write_pack(tmp_path / "pack", "edgellm_register_rules")
    events: list[Any] = []
    build(
        str(llama),
        tmp_path / "out",
        quick(precision="fp16", plugin_paths=(pack,), **tokens),
        listener=events.append,
    )
    assert [event.stage for event in events if event.event == "cached"] == []


def test_weights_replaced_at_equal_size_and_time_are_read_again(llama_copy):
    from tests.pipeline.test_build import _open

    path = llama_copy / "model.safetensors"
    before, status = _open(llama_copy).fingerprint(), path.stat()
    assert _open(llama_copy).fingerprint() == before
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _open(llama_copy).fingerprint() != before
