"""``edgellm run`` on a bundle of target edge-llm says what transformers says."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from edgellm_core.bundle import load_bundle
from edgellm_core.runtime.text import TextGenerator


def test_greedy_tokens_equal_those_of_transformers(edge_llm):
    built = edge_llm("qwen3")
    generator = TextGenerator(load_bundle(built.bundle.directory))
    ids = generator.encode_prompt("the capital of France")
    model = AutoModelForCausalLM.from_pretrained(built.checkpoint, dtype=torch.float32).eval()
    wanted = []
    with torch.no_grad():
        for _ in range(6):
            wanted.append(int(model(torch.tensor([ids + wanted])).logits[0, -1].argmax()))
    assert list(generator.generate("the capital of France", max_new_tokens=6).tokens) == wanted
