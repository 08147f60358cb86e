"""What is not in the graph is told by every build, also a resumed one, and recorded in bundle.json."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgellm_core.bundle import LeftOutRecord, load_bundle
from edgellm_core.pipeline import build as build_module
from edgellm_core.pipeline.build import build
from edgellm_core.weights.errors import UnexpectedTensorsError

WHY = "a buffer that the model computes itself"


@pytest.fixture
def with_frequencies(llama_copy, edit_weights):
    """A checkpoint with the rotary frequencies that old ones store."""
    names = [f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(4)]
    edit_weights(llama_copy, lambda tensors: tensors.update(dict.fromkeys(names, np.ones(8, np.float32))))
    return llama_copy


def notes(events):
    return [event.message for event in events if event.event == "note" and event.message.startswith("Left out")]


def test_groups_are_told_and_recorded(with_frequencies, tmp_path, quick):
    events = []
    bundle = build(str(with_frequencies), tmp_path / "out", quick(verify="off"), listener=events.append)
    pattern = "model.layers.*.self_attn.rotary_emb.*"
    assert load_bundle(bundle.directory).manifest.left_out == (
        LeftOutRecord(pattern=pattern, tensors=4, bytes=128, why=WHY),
    )
    assert notes(events) == [f"Left out: {pattern} (4 tensor(s), 128 bytes): {WHY}."]


def test_a_resumed_build_tells_them_too(with_frequencies, tmp_path, quick, monkeypatch):
    def crash(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "_publish", crash)
        with pytest.raises(KeyboardInterrupt):
            build(str(with_frequencies), tmp_path / "out", quick(verify="off"))
    events = []
    build(str(with_frequencies), tmp_path / "out", quick(verify="off"), listener=events.append)
    assert "bind" in [event.stage for event in events if event.event == "cached"]
    assert len(notes(events)) == 1
    assert json.loads((tmp_path / "out" / "bundle.json").read_text())["left_out"][0]["tensors"] == 4


def test_nothing_is_left_out_of_a_plain_checkpoint(llama, tmp_path, quick):
    events = []
    bundle = build(str(llama), tmp_path / "out", quick(verify="off"), listener=events.append)
    assert not load_bundle(bundle.directory).manifest.left_out
    assert not notes(events)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.bias", "model.layers.4.mlp.up_proj.weight", "extra"])
def test_what_nothing_names_is_refused(llama_copy, edit_weights, tmp_path, quick, name):
    edit_weights(llama_copy, lambda tensors: tensors.update({name: np.ones(8, np.float32)}))
    with pytest.raises(UnexpectedTensorsError, match=rf"1 tensor\(s\) that the model does not use: '{name}'"):
        build(str(llama_copy), tmp_path / "out", quick(verify="off"))
    assert not list(tmp_path.glob("out*"))
