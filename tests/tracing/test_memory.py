"""A trace holds no weights: a model of 7 billion parameters costs what a small one costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json
from transformers import LlamaConfig
from edgellm_core.events import Reporter, peak_rss_mib
from edgellm_core.generic import GenericFamily
from edgellm_core.tracing.trace import trace
config = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=32, max_position_embeddings=4096, tie_word_embeddings=False,
)
template = trace(config, GenericFamily(), "fp16", full_depth=False, report=Reporter("trace"))
parameters = template.stamped_parameters().values()
count = 0
for spec in parameters:
    size = 1
    for dim in spec.shape:
        size *= dim
    count += size
print(json.dumps({
    "parameters": count,
    "mib": peak_rss_mib(),  # ru_maxrss of a child starts at the size of its parent
    "bytes": template.model.ByteSize(),
}))
"""


@pytest.fixture(scope="module")
def measured():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_it_is_a_model_of_seven_billion_parameters(measured):
    assert measured["parameters"] == 6_738_415_616  # Llama 2 7B


def test_the_process_stays_small(measured):
    assert measured["mib"] < 700


def test_the_template_stays_small(measured):
    assert measured["bytes"] < 5_000_000
