"""The original, run part by part, computes what transformers' whole model computes."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.verification import original_weights
from edgellm_core.verification.cases import case_steps, plan_cases
from edgellm_core.verification.errors import ReferenceRunError
from edgellm_core.verification.original_chain import OriginalChain
from edgellm_core.verification.original_weights import OriginalWeights
from edgellm_core.verification.parts import plan_parts, whole
from edgellm_core.verification.reference import ReferenceRunner
from edgellm_core.verification.subject import Subject
from tests.coverage.configs import tiny_config

PROMPTS = ((1, 2, 3, 4, 5), (6, 9, 8) * 3, (7, 12, 3, 4) * 5)

TYPES = (
    "llama", "gemma2", "gemma3_text", "qwen3_moe", "qwen3_next", "falcon_mamba", "bamba", "jamba", "gpt_oss", "gpt2",
    "phi3", "deepseek_v3", "granite", "ernie4_5_moe", "minicpm3", "lfm2",
)  # fmt: skip
"""Windows, stacked experts, recurrent states, latent attention, sinks, tied heads, learned positions."""


def subject_of(folder, model_type, precision="fp32"):
    """Return what the gate knows of a tiny checkpoint, without a graph."""
    write_tiny_checkpoint(folder, tiny_config(model_type), tokenizer=False)
    config = AutoConfig.from_pretrained(folder)
    tensors = index_tensors(read_headers(folder))
    return Subject(
        graph=onnx.ModelProto(), folder=folder, directory=folder, config=config, precision=precision, tensors=tensors
    )


def run(weights, plays, parts, **options):
    with OriginalChain(weights, plays, parts, **options) as chain:
        for index in range(len(parts)):
            chain.advance(index)
        return chain.logits


@pytest.mark.parametrize("model_type", TYPES)
def test_it_computes_what_the_whole_model_computes(model_type, tmp_path, monkeypatch):
    subject = subject_of(tmp_path, model_type)
    plays = [case_steps(case) for case in plan_cases(PROMPTS)]
    monkeypatch.setattr(original_weights, "LARGE_TABLE", 1000)
    weights = OriginalWeights(subject)
    parts = plan_parts([1] * (weights.depth + 2), largest=1)
    assert len(parts) == weights.depth + 1
    found = run(weights, plays, parts)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    runner = ReferenceRunner(model)
    for play, steps in enumerate(plays):
        runner.start()
        for number, step in enumerate(steps):
            wanted = runner.run(step)[step.real]
            np.testing.assert_allclose(found[play, number][step.real], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    assert {name for name, parameter in weights.model.named_parameters() if not parameter.is_meta}.isdisjoint(
        name for name in weights.model.state_dict() if name.startswith(f"{weights.path}.")
    )


def test_only_one_part_is_in_memory(tmp_path):
    subject = subject_of(tmp_path, "llama")
    weights = OriginalWeights(subject)
    parts = plan_parts([1] * (weights.depth + 2), largest=1)
    held = []

    def look(_place):
        layers = [index for index, layer in enumerate(weights.layers) if not next(layer.parameters()).is_meta]
        held.append(tuple(layers))

    run(weights, [case_steps(plan_cases(PROMPTS)[1])], parts, before_step=look)
    assert held == [(index,) for index in range(weights.depth)] + [()]


def test_forwards_end_where_a_run_is_given_up(tmp_path):
    weights = OriginalWeights(subject_of(tmp_path, "llama"))
    parts = plan_parts([1] * (weights.depth + 2), largest=1)
    plays = [case_steps(case) for case in plan_cases(PROMPTS)]
    threads = threading.active_count()
    with OriginalChain(weights, plays, parts) as chain:
        chain.advance(0)
        assert chain.waiting == sum(map(len, plays))
        assert threading.active_count() <= threads
    assert chain.waiting == 0


def test_an_error_of_the_model_is_raised_where_it_is_run(tmp_path):
    weights = OriginalWeights(subject_of(tmp_path, "llama"))
    steps = case_steps(plan_cases(PROMPTS)[1])
    weights.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ReferenceRunError, match=r"itself can't run .* ZeroDivisionError: division by zero"):
        run(weights, [steps], whole(weights.depth))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("large", [1000, 10**9])
def test_weights_are_rounded_as_transformers_rounds_them(tmp_path, monkeypatch, precision, large):
    subject = subject_of(tmp_path, "ernie4_5_moe", precision)  # its routers stay in float32
    monkeypatch.setattr(original_weights, "LARGE_TABLE", large)
    weights = OriginalWeights(subject, rounded_to=precision)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype, attn_implementation="eager").float().eval()
    steps = case_steps(plan_cases(PROMPTS)[2])
    found = run(weights, [steps], whole(weights.depth))[0, 0]
    wanted = ReferenceRunner(model).run(steps[0])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
