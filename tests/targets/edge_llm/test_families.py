"""Every family is right by proof, or refused by the name of what the runtime lacks."""

from __future__ import annotations

import json

import pytest

import edgellm_core
from edgellm_core.errors import EdgellmError
from edgellm_core.targets.edge_llm.errors import AttentionNotExpressibleError

NO_NORM = {"use_qk_norm": False}
RIGHT = [
    ("llama", {}), ("qwen2", {}), ("qwen3", {}), ("phi3", {}), ("hunyuan_v1_dense", {}), ("mistral", {}), ("gemma", {}),
    ("granite", {}), ("starcoder2", {}), ("glm4", {}), ("olmo2", {}), ("ministral", {}), ("cohere", NO_NORM),
    ("phi", {"qk_layernorm": False}), ("stablelm", {"qk_layernorm": False}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "changes"), RIGHT, ids=[name for name, _ in RIGHT])
def test_right_by_proof(edge_llm, family, changes):
    manifest = edge_llm(family, **changes).bundle.manifest
    assert (manifest.target, manifest.verification.status) == ("edge-llm", "passed")
    assert manifest.verification.max_rel_err < 1e-5


@pytest.mark.parametrize(
    ("family", "error", "reason"),
    [
        ("gemma2", AttentionNotExpressibleError, "caps its logits at 1.5"),
        ("gemma3_text", AttentionNotExpressibleError, "the weights of its norms are computed"),
        ("cohere", AttentionNotExpressibleError, "stands before it"),
        ("phi", AttentionNotExpressibleError, "edgellm::LayerNorm stands before it"),
        ("stablelm", AttentionNotExpressibleError, "stands before it"),
        ("cohere2", AttentionNotExpressibleError, "it has no RoPE"),
        ("smollm3", AttentionNotExpressibleError, "it has no RoPE"),
        ("exaone4", AttentionNotExpressibleError, "it has no RoPE"),
        ("ministral3", AttentionNotExpressibleError, "Mul stands before it"),
    ],
)
def test_refused_by_name(edge_llm, family, error, reason):
    with pytest.raises(error, match=reason):
        edge_llm(family)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_are_refused(edge_llm, tmp_path, precision):
    with pytest.raises(EdgellmError, match="must be fp16 for what target 'edge-llm' does not quantize"):
        edgellm_core.build(edge_llm("llama").checkpoint, tmp_path / "out", target="edge-llm", precision=precision)


def test_window_scale_and_norms_are_attributes(edge_llm):
    mistral, granite, qwen3 = edge_llm("mistral"), edge_llm("granite"), edge_llm("qwen3")
    hunyuan = edge_llm("hunyuan_v1_dense")
    assert {one["sliding_window_size"] for one in mistral.plugins} == {5}
    assert {one["sliding_window_size"] for one in granite.plugins} == {-1}
    assert granite.plugins[0]["attention_scale"] == pytest.approx(0.6)
    flags = ("enable_qk_norm", "qk_norm_post_rope")
    stated = [tuple(built.plugins[0][flag] for flag in flags) for built in (granite, qwen3, hunyuan)]
    assert stated == [(0, 0), (1, 0), (1, 1)]


def test_windows_differ_by_layer(edge_llm):
    built = edge_llm("qwen2")
    windows = [one["sliding_window_size"] for one in built.plugins]
    stated = json.loads((built.checkpoint / "config.json").read_text(encoding="utf-8"))
    sliding = [kind == "sliding_attention" for kind in stated["layer_types"]]
    assert 0 < sum(sliding) < len(sliding)
    assert windows == [stated["sliding_window"] if one else -1 for one in sliding]
    config = json.loads((built.bundle.llm / "config.json").read_text(encoding="utf-8"))
    assert config["attention_layer_types"] == stated["layer_types"]
    assert config["sliding_window_size"] == stated["sliding_window"]
