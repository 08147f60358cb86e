"""RoPE whose frequencies depend on the length, against transformers, below and beyond the original length."""

from __future__ import annotations

import pytest
from decoders import ALTERNATING, COMMON, WITHOUT_HEAD_DIM, family_of

from edgellm_core.testing.lowering import (
    lower_config,
    open_session,
    padded_tokens,
    random_model,
    relative_error,
    run_session,
    run_transformers,
    transformers_config,
    with_weights,
)

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0}
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}
ORIGINAL = 14
SHALLOW = {"max_position_embeddings": ORIGINAL, "num_hidden_layers": 2}
DECODERS = {
    "llama": {**COMMON, **SHALLOW, "model_type": "llama", "rope_parameters": DYNAMIC},
    "part of the head": {**WITHOUT_HEAD_DIM, **SHALLOW, "model_type": "stablelm",
                         "rope_parameters": {**DYNAMIC, "partial_rotary_factor": 0.5}},
    "one kind of layers": {**COMMON, **SHALLOW, "model_type": "gemma3_text", "layer_types": ALTERNATING[:2],
                           "sliding_window": 5, "rope_parameters": {"sliding_attention": DEFAULT,
                                                                    "full_attention": DYNAMIC}},
}  # fmt: skip
RUNS = {
    "up to the original length": ([0, 2], [ORIGINAL - 2, 1, 1]),
    "beyond it at once": ([0, 3], [ORIGINAL + 9, 1]),
    "growing beyond it": ([0, 1], [ORIGINAL - 1, 1, 1, 1, 4]),
}


@pytest.fixture(scope="module", params=DECODERS)
def dynamic(request):
    """A config, and the session of its graph with the weights of ``random_model``."""
    config = transformers_config(DECODERS[request.param])
    return config, open_session(with_weights(lower_config(config, family_of("generic")), random_model(config)))


@pytest.mark.parametrize("run", RUNS)
def test_logits_equal_those_of_transformers(dynamic, run):
    config, session = dynamic
    paddings, chunks = RUNS[run]
    ids, mask = padded_tokens(paddings, sum(chunks), config.vocab_size)
    expected = run_transformers(random_model(config), ids, mask, chunks)  # a new one: it keeps what it grew to
    assert relative_error(run_session(session, ids, mask, chunks), expected, mask) <= 2e-5


def test_the_length_changes_the_frequencies(dynamic):
    """Without scaling, positions beyond the original length get other logits."""
    config, session = dynamic
    ids, mask = padded_tokens([0], ORIGINAL + 9, config.vocab_size)
    plain = random_model(config)
    plain.model.rotary_emb.max_seq_len_cached = 1000  # transformers then never scales
    expected = run_transformers(plain, ids, mask, [ORIGINAL + 9])
    assert relative_error(run_session(session, ids, mask, [ORIGINAL + 9]), expected, mask) > 1e-3


def test_the_model_gets_its_forward_back():
    from edgellm_core.tracing.dynamic_rope import dynamic_frequencies

    model = random_model(transformers_config(DECODERS["llama"]))
    with dynamic_frequencies(model):
        assert "forward" in vars(model.model.rotary_emb)
    assert "forward" not in vars(model.model.rotary_emb)
