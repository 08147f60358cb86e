"""Quality: perplexity, divergence and agreement equal those that torch computes from both models' logits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from edgellm_core.calibration.data import CalibrationSet, held_out_set
from edgellm_core.checkpoint.errors import DiskSpaceError
from edgellm_core.events import Reporter
from edgellm_core.runtime.tokenizer import BundleTokenizer
from edgellm_core.verification import text_recording
from edgellm_core.verification.errors import GraphNotFiniteError
from edgellm_core.verification.quality import (
    TextScore,
    measure_quality,
    prove_on_text,
    score_graph,
    score_text,
)
from edgellm_core.verification.text_recording import record_text


def own_logits(exported, ids):
    """Return the graph's logits by ONNX Runtime, and for float16 those of transformers over rounded weights."""
    if exported.precision == "fp16":
        rounded = AutoModelForCausalLM.from_pretrained(exported.checkpoint.directory, dtype=torch.float16).float()
        with torch.no_grad():
            return rounded(torch.from_numpy(ids)).logits.numpy()
    session = onnxruntime.InferenceSession(str(exported.model), providers=["CPUExecutionProvider"])
    feeds = {
        "input_ids": ids,
        "position_ids": np.arange(ids.shape[1])[None].repeat(len(ids), 0),
        "attention_mask": np.ones_like(ids),
    }
    for value in session.get_inputs():
        if value.name.startswith("past_"):
            shape = [
                len(ids) if index == 0 else size if isinstance(size, int) else 0
                for index, size in enumerate(value.shape)
            ]
            feeds[value.name] = np.zeros(shape, np.float16 if value.type == "tensor(float16)" else np.float32)
    named = {value.name for value in session.get_inputs()}
    return session.run(["logits"], {name: value for name, value in feeds.items() if name in named})[0]


def own_quality(exported, ids):
    """Compute the numbers with transformers, ONNX Runtime and torch alone."""
    model = AutoModelForCausalLM.from_pretrained(exported.checkpoint.directory, dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.double()[:, :-1]
    logits = own_logits(exported, ids)
    found = torch.from_numpy(logits.astype(np.float64))[:, :-1]
    targets = torch.from_numpy(ids[:, 1:]).reshape(-1)
    p, q = wanted.log_softmax(-1).flatten(0, 1), found.log_softmax(-1).flatten(0, 1)
    return {
        "perplexity": math.exp(torch.nn.functional.cross_entropy(q, targets)),
        "original_perplexity": math.exp(torch.nn.functional.cross_entropy(p, targets)),
        "kl": float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")),
        "top1_agreement": float((p.argmax(-1) == q.argmax(-1)).double().mean()),
    }


def text_for(exported, samples=3, length=24):
    return held_out_set(BundleTokenizer(exported.bundle / "llm"), samples=samples, length=length)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_numbers_are_those_of_torch(exported, tmp_path, precision):
    subject = exported("llama", precision)
    rng = np.random.default_rng(0)
    vocab = subject.checkpoint.config["vocab_size"]
    text = CalibrationSet(ids=rng.integers(0, vocab, (3, 24)), source="random ids", digest="")
    record = measure_quality(
        subject.model, subject.checkpoint, subject.family, text, folder=tmp_path, report=Reporter("quality")
    )
    expected = own_quality(subject, text.ids)
    assert record.tokens == 3 * 23
    assert record.text == "random ids"
    assert record.perplexity == pytest.approx(expected["perplexity"], rel=1e-5)
    assert record.original_perplexity == pytest.approx(expected["original_perplexity"], rel=1e-5)
    assert record.kl == pytest.approx(expected["kl"], rel=0.05, abs=1e-6)
    assert record.top1_agreement == expected["top1_agreement"]
    assert not list(tmp_path.iterdir())


def test_the_original_of_bf16_is_not_rounded(exported, tmp_path):
    """Its perplexity is that of the float32 weights, and the rounding of the graph shows as divergence."""
    rounded, exact = exported("llama", "bf16"), exported("llama", "fp32")
    text = text_for(exact)
    reports = [
        measure_quality(one.model, one.checkpoint, one.family, text, folder=tmp_path, report=Reporter("quality"))
        for one in (rounded, exact)
    ]
    assert reports[0].original_perplexity == reports[1].original_perplexity
    assert reports[0].kl > 10 * reports[1].kl


def test_a_damaged_graph_is_worse(exported, tmp_path):
    damaged = exported("llama", "fp32").copy(tmp_path / "copy")
    path = damaged.bundle / "llm" / "model.onnx.data"
    values = np.fromfile(path, np.float32)
    (values + np.random.default_rng(0).normal(0, 0.02, values.shape).astype(np.float32)).tofile(path)
    text = text_for(damaged)
    record = measure_quality(
        damaged.model, damaged.checkpoint, damaged.family, text, folder=tmp_path, report=Reporter("quality")
    )
    assert record.kl > 1e-4


def test_layer_errors_grow_from_the_layer_that_is_damaged(exported, tmp_path):
    import onnx
    from onnx import numpy_helper

    damaged = exported("llama", "fp32").copy(tmp_path / "copy")
    model = onnx.load(damaged.model)
    tensor = next(t for t in model.graph.initializer if "layers.1.mlp.down_proj" in t.name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.1, tensor.name))
    onnx.save(model, damaged.model)
    report = Reporter("quality")
    proving = prove_on_text(damaged.model, damaged.checkpoint, damaged.family, report=report)
    ids, path = text_for(damaged, samples=1).ids, tmp_path / "original"
    directory = damaged.checkpoint.directory
    recording = record_text(proving.original, proving.parts, ids, path, directory=directory, report=report)
    _, errors = score_graph(proving, recording, report)
    assert len(errors) == proving.subject.depth + 1
    assert max(errors[:2]) < 1e-5  # the embedding and layer 0
    assert min(errors[2:]) > 1e-4


def test_a_graph_that_is_not_finite_is_refused(exported, tmp_path):
    damaged = exported("llama", "fp32").copy(tmp_path / "copy")
    path = damaged.bundle / "llm" / "model.onnx.data"
    np.full(path.stat().st_size // 4, np.nan, np.float32).tofile(path)
    with pytest.raises(GraphNotFiniteError, match=r"not finite on held-out text \(sample 1\)"):
        measure_quality(
            damaged.model,
            damaged.checkpoint,
            damaged.family,
            text_for(damaged),
            folder=tmp_path,
            report=Reporter("quality"),
        )


def test_too_little_disk_is_said_before_it_is_filled(exported, tmp_path, monkeypatch):
    subject = exported("llama", "fp32")
    monkeypatch.setattr(text_recording, "free_disk", lambda _path: 1000)
    with pytest.raises(DiskSpaceError, match="Measuring the quality needs"):
        measure_quality(
            subject.model,
            subject.checkpoint,
            subject.family,
            text_for(subject),
            folder=tmp_path,
            report=Reporter("quality"),
        )
    assert not list(tmp_path.iterdir())


@settings(deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0, 50))
def test_scores_equal_torch_for_any_logits(seed, scale):
    rng = np.random.default_rng(seed)
    wanted, found = (rng.normal(0, scale, (5, 17)).astype(np.float32) for _ in range(2))
    following = rng.integers(0, 17, 5)
    score = score_text(wanted, found, best=wanted.argmax(-1), following=following)
    p, q = (torch.from_numpy(one.astype(np.float64)).log_softmax(-1) for one in (wanted, found))
    assert score.kl == pytest.approx(
        float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")), abs=1e-9
    )
    expected = -float(torch.nn.functional.cross_entropy(q, torch.from_numpy(following), reduction="sum"))
    assert score.log_likelihood == pytest.approx(expected, abs=1e-9)
    assert score.agreeing == int((wanted.argmax(-1) == found.argmax(-1)).sum())


def test_scores_add_up():
    one = TextScore(positions=2, log_likelihood=-3.0, kl=0.5, agreeing=1)
    assert dataclasses.astuple(one + one) == (4, -6.0, 1.0, 2)
