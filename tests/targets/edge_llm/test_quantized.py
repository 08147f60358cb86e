"""Checkpoints that ModelOpt quantized, with their linear layers in Q/DQ form around the plugin."""

from __future__ import annotations

import onnx
import pytest

import edgellm_core
from edgellm_core.errors import NoFormError
from tests.stock_modelopt import export_stock, tiny_llama


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Function from a scheme to a checkpoint with tokenizer and template that ModelOpt wrote, made once."""
    from edgellm_core.testing.checkpoints import write_tokenizer

    made = {}

    def make(scheme, *, kv_cache=False):
        if (scheme, kv_cache) not in made:
            folder = tmp_path_factory.mktemp("stock") / scheme
            model = tiny_llama()
            export_stock(folder, scheme, model=model, kv_cache=kv_cache)
            write_tokenizer(folder, vocab_size=model.config.vocab_size)
            made[scheme, kv_cache] = folder
        return made[scheme, kv_cache]

    return make


def _build(checkpoint, out):
    return edgellm_core.build(checkpoint, out, target="edge-llm", engine="none")


@pytest.mark.parametrize(
    ("scheme", "operator"),
    [
        ("fp8", "QuantizeLinear"),
        ("int8_sq", "QuantizeLinear"),
        ("nvfp4", "TRT_FP4DynamicQuantize"),
        ("mxfp8", "TRT_MXFP8DynamicQuantize"),
        ("int4_awq", "Int4GroupwiseGemmPluginV2"),
    ],
)
def test_right_by_proof(stock, tmp_path, scheme, operator):
    bundle = _build(stock(scheme), tmp_path / "out")
    assert bundle.manifest.verification.status == "passed"
    assert bundle.manifest.verification.max_rel_err < 1e-4
    nodes = onnx.load(str(bundle.model_path), load_external_data=False).graph.node
    rounded = [node for node in nodes if node.op_type == operator]
    plugins = [node for node in nodes if node.op_type == "AttentionPlugin"]
    assert len(rounded) == 7 * len(plugins)
    made = {name: node for node in nodes for name in node.output}
    joined = "QkvConcatPlugin" if scheme == "int4_awq" else "Concat"
    assert all(_maker(node.input[0], made).op_type == joined for node in plugins)


def _maker(name, made):
    node = made[name]
    return _maker(node.input[0], made) if node.op_type == "Squeeze" else node


def test_quantized_caches_are_refused(stock, tmp_path):
    with pytest.raises(NoFormError, match="Target 'edge-llm' has no form for an fp8 KV cache"):
        _build(stock("fp8", kv_cache=True), tmp_path / "out")


def test_refused_before_anything_long(edge_llm, tmp_path):
    settings = {"precision": "fp8", "kv_cache": "fp8"}
    with pytest.raises(NoFormError, match="an fp8 KV cache"):
        edgellm_core.build(edge_llm("llama").checkpoint, tmp_path / "out", target="edge-llm", **settings)
