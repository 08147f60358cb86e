"""``--attention-scores fp32``: the scores of a float16 graph, by numbers and in the build."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from edgellm_core import load_bundle
from edgellm_core.engine.backend import BACKENDS
from edgellm_core.engine.builder import build_engine
from edgellm_core.engine.profiles import ProfileLimits
from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.events import Reporter
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.runtime.session import DecoderSession
from edgellm_core.targets import find_target
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.coverage.configs import tiny_config
from tests.large_scores import write_large_scores

IDS = np.random.default_rng(0).integers(0, 512, (1, 24))


@pytest.fixture(scope="module")
def large_scores(tmp_path_factory):
    """A checkpoint with attention scores of several hundred, and its logits in float32."""
    folder = tmp_path_factory.mktemp("large_scores")
    model = write_large_scores(folder / "checkpoint")
    with torch.no_grad():
        return folder / "checkpoint", model(torch.from_numpy(IDS)).logits[0].numpy()


def built(checkpoint, out, **settings):
    asked = BuildSettings(verify="off", quality="off", engine="none", **settings)
    return build(str(checkpoint), out, asked)


def error_on_cpu(bundle, wanted):
    session = DecoderSession(bundle.model_path, threads=1)
    found, _ = session.run(IDS, np.ones_like(IDS), np.arange(IDS.shape[1])[None], session.initial_states(1))
    return float(np.abs(found[0] - wanted).max() / np.abs(wanted).max())


def test_large_scores_are_right_in_float32_where_a_kernel_rounds_them(large_scores, tmp_path):
    checkpoint, logits = large_scores
    plain = built(checkpoint, tmp_path / "plain")
    wide = built(checkpoint, tmp_path / "wide", attention_scores="fp32")
    assert error_on_cpu(plain, logits) > 0.05
    assert error_on_cpu(wide, logits) < 0.01
    assert (plain.manifest.attention_scores, wide.manifest.attention_scores) == ("auto", "fp32")
    assert load_bundle(tmp_path / "wide").manifest.attention_scores == "fp32"
    limits = ProfileLimits(max_batch_size=1, max_input_len=32, max_seq_len=64)
    engine, report = tmp_path / "llm.engine", Reporter("engine")
    build_engine(
        wide.model_path, engine, backend=BACKENDS["tensorrt-rtx"], compute_capability=120, limits=limits, report=report
    )
    assert engine.stat().st_size


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("model_type", ["llama", "gpt_oss", "gemma2"])
def test_the_cache_keeps_its_type_and_attention_is_float32(tmp_path, model_type, precision):
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", tiny_config(model_type))
    settings = BuildSettings(precision=precision, attention_scores="fp32", verify="full", quality="off", engine="none")
    bundle = build(str(checkpoint), tmp_path / "bundle", settings)
    graph = onnx.shape_inference.infer_shapes(onnx.load(bundle.model_path, load_external_data=False)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    narrow = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    assert {types[value.name] for value in graph.input if value.name.startswith("past_")} == {narrow}
    scores = [node for node in graph.node if node.name.endswith(("/product", "/softmax"))]
    assert len(scores) == 8
    assert {types[node.input[0]] for node in scores} == {onnx.TensorProto.FLOAT}
    assert not [node for node in graph.node if node.op_type == "Attention"]


def test_a_float32_graph_needs_nothing(tmp_path):
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", tiny_config("llama"))
    bundle = built(checkpoint, tmp_path / "bundle", precision="fp32", attention_scores="fp32")
    graph = onnx.load(bundle.model_path, load_external_data=False).graph
    assert [node.op_type for node in graph.node].count("Attention") == 4


def test_a_target_whose_runtime_decides_refuses_by_name():
    with pytest.raises(InvalidSettingError, match=r"must be auto for target 'edge-llm'.*--target onnx"):
        find_target("edge-llm", {}, attention_scores="fp32")
    assert find_target("onnx", {}, attention_scores="fp32").attention_scores == "fp32"
    assert find_target("onnx", {}).attention_scores == "auto"


def test_another_type_is_refused_with_the_choices():
    with pytest.raises(UnknownNameError, match=r"value of --attention-scores 'fp64'.*fp32"):
        BuildSettings(attention_scores="fp64")
