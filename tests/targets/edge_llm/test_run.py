"""``edgellm run`` and ``edgellm verify`` on bundles of target edge-llm."""

from __future__ import annotations

import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from edgellm_core.bundle import load_bundle
from edgellm_core.cli import edgellm
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


def test_verify_on_the_command_line(edge_llm):
    built = edge_llm("qwen3")
    result = CliRunner().invoke(edgellm, ["verify", str(built.bundle.directory)])
    assert result.exit_code == 0, result.output
