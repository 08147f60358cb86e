"""What is read from transformers' source is what it has."""

from __future__ import annotations

from edgellm_core.checkpoint.known_models import causal_model_types


def test_the_source_says_what_the_package_has():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert causal_model_types() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
