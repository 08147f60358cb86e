from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgellm_core.pipeline import sample as sample_module
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.closeness import LEAST_TOP1, MOST_KL, closeness_warning
from edgellm_core.pipeline.sample import QUESTION
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.runtime.tokenizer import BundleTokenizer


def test_graph_and_original_answer_one_question(llama, tmp_path, quick):
    bundle = build(str(llama), tmp_path / "out", quick())
    sample = bundle.manifest.sample
    assert (sample.question, sample.chat) == (QUESTION, True)
    assert sample.bundle == sample.original
    assert sample.no_bundle is sample.no_original is None
    tokenizer = BundleTokenizer(bundle.llm)
    prompt = tokenizer.render_chat([{"role": "user", "content": QUESTION}])
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=32)
    assert sample.original == tokenizer.decode(output[0, ids.shape[1] :].tolist())


def test_without_a_tokenizer_nothing_is_asked(llama_copy, tmp_path, quick):
    for path in llama_copy.glob("*token*"):
        path.unlink()
    notes = []
    bundle = build(str(llama_copy), tmp_path / "out", quick(), listener=lambda event: notes.append(event.message or ""))
    assert bundle.manifest.sample.no_bundle == "the model has no tokenizer"
    assert "No sample answer of the bundle: the model has no tokenizer." in notes


def test_without_verification_nothing_is_asked(llama, tmp_path, quick):
    bundle = build(str(llama), tmp_path / "out", quick(verify="off"))
    assert bundle.manifest.sample is None
    assert bundle.manifest.answers == ()


def test_what_is_too_large_is_not_run_and_the_advice_works(llama, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(sample_module, "FLAT_MEMORY", 300 * 2**20)
    sample = build(str(llama), tmp_path / "out", quick()).manifest.sample
    assert sample.bundle is sample.original is None
    assert sample.no_original == sample.no_bundle
    assert "running the whole model takes up to 0.6 GiB of main memory, 0.3 GiB are allowed" in sample.no_bundle
    assert sample.no_bundle.endswith("--max-memory 1GiB allows it")
    allowed = build(str(llama), tmp_path / "more", quick(max_memory=2**30)).manifest.sample
    assert allowed.bundle == allowed.original is not None


QUANTIZED = BuildSettings(precision="int4_awq", calib_samples=8, calib_data="builtin")
FAR = {"kl": 0.12, "top1_agreement": 0.82}


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (None, False),
        ({"kl": MOST_KL, "top1_agreement": LEAST_TOP1}, False),
        ({"kl": 0.101, "top1_agreement": 0.9}, True),
        ({"kl": 0.05, "top1_agreement": 0.849}, True),
    ],
)
def test_far_from_the_original_is_warned_of(quality, expected):
    warning = closeness_warning(quality, QUANTIZED)
    assert bool(warning) is expected
    assert warning is None or warning.startswith("Warning: this is far from the original (KL ")


@pytest.mark.parametrize(
    ("changes", "named", "unnamed"),
    [
        ({}, ["--calib-samples 128; 8 were", "--calib-data", "--rounding compensated", "--group-size 32"], []),
        ({"calib_samples": 512}, ["--calib-data"], ["--calib-samples"]),
        ({"calib_data": "texts.jsonl"}, ["--calib-samples"], ["--calib-data"]),
        ({"rounding": "compensated"}, ["another scheme"], ["--rounding"]),
        ({"precision": "fp8"}, ["--rounding compensated"], ["--group-size"]),
        ({"precision": "fp16", "calib_samples": None, "calib_data": None}, ["bf16 or fp32"], ["--calib", "scheme"]),
    ],
)
def test_the_warning_names_what_was_not_tried(changes, named, unnamed):
    warning = closeness_warning(FAR, replace(QUANTIZED, **changes))
    assert all(option in warning for option in named)
    assert not any(option in warning for option in unnamed)
