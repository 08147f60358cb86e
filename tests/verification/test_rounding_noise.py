"""An original that rounds otherwise, and the twin whose graph may differ by as much and by no more."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from edgellm_core.verification.cases import plan_cases
from edgellm_core.verification.prompts import random_prompts
from edgellm_core.verification.rounding_noise import DRAWS, LARGEST, RELATIVE, rounded_otherwise
from edgellm_core.verification.twin.compare import TOLERANCE, compare
from edgellm_core.verification.twin.errors import TwinDiffersError

VOCABULARY = 40


class Decoder(nn.Module):
    """Subtracts nearly all of what it computed, so that ``1 / left`` multiplies the rounding of both terms."""

    def __init__(self, left):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.first = nn.Embedding(VOCABULARY, 16), nn.Linear(16, VOCABULARY)
        self.second, self.left = nn.Linear(16, VOCABULARY), left
        self.second.load_state_dict(self.first.state_dict())
        self.config = SimpleNamespace(model_type="decoder")

    def forward(self, input_ids, attention_mask, past_key_values=None, use_cache=True):
        hidden = self.embedding(input_ids)
        logits = self.first(hidden) - (1 - self.left) * self.second(hidden)
        return SimpleNamespace(logits=logits, past_key_values=())


class Graph:
    """The decoder, wrong by a share of its largest logit."""

    def __init__(self, model, error):
        self.model, self.error = model, error

    def start(self):
        pass

    def run(self, inputs):
        with torch.inference_mode():
            logits = self.model(torch.from_numpy(inputs.input_ids), None).logits.numpy()
        return logits + self.error * np.abs(logits).max(-1, keepdims=True)


CASES = plan_cases(random_prompts([3, 9], vocab_size=VOCABULARY))


def test_numbers_change_by_a_rounding_error_in_the_body_only():
    model, ids = Decoder(1.0), torch.arange(30)[None]
    exact = model(ids, None).logits
    with rounded_otherwise(model, 0):
        one, again = model(ids, None).logits, model(ids, None).logits
    with rounded_otherwise(model, 0):
        same = model(ids, None).logits
    assert torch.equal(one, same)
    assert not torch.equal(one, again)
    assert 0 < (one - exact).abs().max() / exact.abs().max() < 8 * RELATIVE
    assert torch.equal(model(ids, None).logits, exact)


@pytest.mark.parametrize(("left", "error"), [(1.0, 5e-5), (1e-3, 5e-5), (1e-3, 1.3e-4)])
def test_what_rounding_explains_passes(left, error):
    model = Decoder(left)
    found = compare(Graph(model, error), model, CASES, ())
    assert found.error == pytest.approx(error, rel=0.2)
    assert (found.tolerance > TOLERANCE) == (error > TOLERANCE)
    assert found.tolerance <= LARGEST
    assert DRAWS > 1


@pytest.mark.parametrize(("left", "error"), [(1.0, 1.3e-4), (1e-3, 8e-4), (1e-6, 2e-3)])
def test_what_rounding_does_not_explain_is_refused(left, error):
    model = Decoder(left)
    with pytest.raises(TwinDiffersError, match="max_rel_err"):
        compare(Graph(model, error), model, CASES, ())
