"""What a forward without weights shows of a model's cache."""

from __future__ import annotations

import pytest

from tests.coverage.configs import tiny_config

TYPES = {
    "llama": {"key": "float16", "value": "float16"},
    "dots3_note_text": {"key": "float16", "value": "float16", "indexer": "float32"},
}
"""Model type → element type of each part that a model in float16 caches."""


@pytest.mark.parametrize(("model_type", "expected"), TYPES.items(), ids=TYPES)
def test_a_state_has_the_type_that_the_model_caches(model_type, expected):
    import torch
    from transformers import AutoConfig

    from edgellm_core.tracing.layer_states import state_tensors
    from edgellm_core.tracing.probe import probe_cache
    from edgellm_core.tracing.weightless import build_weightless, give_fake_parameters, new_fake_mode

    config = AutoConfig.for_model(**tiny_config(model_type))
    config._experts_implementation = "batched_mm"  # the grouped one needs a GPU for float16
    model = build_weightless(config, torch.float16)
    mode = new_fake_mode()
    give_fake_parameters(model, mode)
    with mode:
        tensors = state_tensors(probe_cache(model, config, range(config.num_hidden_layers)))
    assert {tensor.part: str(tensor.dtype).removeprefix("torch.") for tensor in tensors} == expected
