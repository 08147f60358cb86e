"""``edgellm surgery --target edge-llm`` on files that torch.onnx and transformers made."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from foreign_decoders import EXPORTERS, decoder

from edgellm_core import simplify_onnx
from edgellm_core.errors import EdgellmError
from edgellm_core.runtime.paged.functions import add_functions
from edgellm_core.runtime.paged.rope import rope_of
from edgellm_core.runtime.paged.session import GraphFiles, PagedGraph, Step, read_table
from edgellm_core.targets.edge_llm import fuse_attention
from edgellm_core.verification.session import load_graph


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Function from an exporter, a kind of model and changes of its config to the file and the model, made once."""
    made = {}

    def export(exporter, model_type, attention="sdpa", **changes):
        key = exporter, model_type, attention, repr(changes)
        if key not in made:
            model = decoder(model_type, attention, **changes)
            path = tmp_path_factory.mktemp("exported") / "decoder.onnx"
            EXPORTERS[exporter](model, path)
            made[key] = path, model
        return made[key]

    return export


def plugins_of(path):
    nodes = onnx.load(path, load_external_data=False).graph.node
    found = [node for node in nodes if node.op_type == "AttentionPlugin"]
    return [{one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} for node in found]


def logits_of(path, ids, config):
    """Run a rewritten file as the runtime does, with the angles of a config.json, token by token after three."""
    model = onnx.load(path, load_external_data=False)
    add_functions(model)
    session = load_graph(model, path.parent, [], widened=False)

    def cos_sin(positions):
        return rope_of(config, int(positions.max()) + 1).cos_sin(positions)

    graph = PagedGraph(session, GraphFiles(path, read_table(path.with_name("embedding.safetensors")), cos_sin))
    graph.start(len(ids))
    bounds = [0, 3, *range(4, ids.shape[1] + 1)]
    parts = []
    for start, end in itertools.pairwise(bounds):
        positions = np.tile(np.arange(start, end), (len(ids), 1))
        parts.append(graph.run(Step(ids[:, start:end], np.ones((len(ids), end), np.int64), positions))[0])
    return np.concatenate(parts, axis=1)


PLAIN = {"rope_scaling": None, "rope_theta": 10000.0, "head_dim": 8, "partial_rotary_factor": 1.0}


@pytest.mark.parametrize(
    ("exporter", "attention"),
    [("torch", "eager"), ("torch", "sdpa"), ("without-cache", "sdpa"), ("transformers", "sdpa")],
)
def test_a_decoder_becomes_the_runtime_s(exporter, attention, exported, tmp_path):
    path, model = exported(exporter, "llama", attention)
    out = tmp_path / "model.onnx"
    result = simplify_onnx(path, out, target="edge-llm")
    counts = {op: result.operators_after.get(op, 0) for op in ("trt_edgellm::AttentionPlugin", "RMSNormalization")}
    assert counts == {"trt_edgellm::AttentionPlugin": 2, "RMSNormalization": 5}
    assert result.check.cases == 4
    for plugin in plugins_of(out):
        assert [plugin[key] for key in ("num_q_heads", "num_kv_heads", "head_size")] == [4, 2, 8]
        assert plugin["sliding_window_size"] == -1
        assert plugin["attention_scale"] == pytest.approx(8**-0.5, rel=1e-3)  # float16 of the file
    ids = np.random.default_rng(5).integers(3, 61, (2, 9))
    with torch.no_grad():
        expected = model.float()(torch.from_numpy(ids)).logits.numpy()
    model.half()
    assert np.abs(logits_of(out, ids, PLAIN) - expected).max() < 0.01 * np.abs(expected).max()


def _changed(monkeypatch, **wrong):
    right = fuse_attention._attributes
    monkeypatch.setattr(fuse_attention, "_attributes", lambda pattern: {**right(pattern), **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"attention_scale": 0.3},
        {"sliding_window_size": 6},
        {"num_q_heads": 2, "num_kv_heads": 3},
        {"enable_qk_norm": 0, "qk_norm_post_rope": 0, "attention_scale": -0.35},
    ],
)
def test_a_wrong_attribute_is_caught_and_leaves_no_file(wrong, exported, tmp_path, monkeypatch):
    path, _ = exported("torch", "llama")
    _changed(monkeypatch, **wrong)
    with pytest.raises(EdgellmError, match="Nothing was written"):
        simplify_onnx(path, tmp_path / "model.onnx", target="edge-llm")
    assert list(tmp_path.iterdir()) == []
