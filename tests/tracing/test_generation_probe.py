from __future__ import annotations

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Phi3Config,
    Phi4MultimodalConfig,
    PhimoeConfig,
)

from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.tracing.generation_probe import find_reread
from edgellm_core.tracing.template import Reread
from edgellm_core.tracing.weightless import build_weightless

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64, "factor": 8.0,
    "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
}  # fmt: skip
MSCALES = {"short_mscale": 1.0, "long_mscale": 1.1}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Phi3Config(**SIZES, original_max_position_embeddings=64, rope_parameters=LONGROPE), Reread(65)),
        (Phi3Config(**SIZES, original_max_position_embeddings=100), Reread(101)),
        (Phi3Config(**SIZES), None),  # 4097, beyond the context
        (PhimoeConfig(**SIZES | {"max_position_embeddings": 9000}, rope_parameters=LONGROPE | MSCALES), Reread(65)),
        (
            Phi4MultimodalConfig(**SIZES, original_max_position_embeddings=64, rope_parameters=LONGROPE),
            Reread(65, loses_context=True),
        ),
        (LlamaConfig(**SIZES, rope_parameters=LONGROPE), None),
        (Mamba2Config(vocab_size=96, hidden_size=32, num_hidden_layers=1, num_heads=4, head_dim=16), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_length_is_found_by_asking_the_model(config, expected):
    assert find_reread(build_weightless(config, torch.float32)) == expected


def test_a_model_that_reads_everything_at_every_later_token_is_refused():
    class Forgetful(LlamaForCausalLM):
        def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
            if input_ids.shape[1] > 40:
                return {"input_ids": input_ids, "past_key_values": None}
            return super().prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)

    with torch.device("meta"):
        model = Forgetful(LlamaConfig(**SIZES))
    with pytest.raises(UntraceableModelError, match="at every token from 41 tokens on"):
        find_reread(model)


def test_a_model_that_never_keeps_a_cache_needs_no_rule():
    class Cacheless(LlamaForCausalLM):
        def prepare_inputs_for_generation(self, input_ids, **kwargs):
            return {"input_ids": input_ids}

    with torch.device("meta"):
        assert find_reread(Cacheless(LlamaConfig(**SIZES))) is None
