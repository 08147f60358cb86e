"""Ties of topk fall either way: between equal scores, and between those that only rounding tells apart."""

from __future__ import annotations

import pytest
import torch

from edgellm_core.verification.ties import ties_fall


@pytest.mark.parametrize("near", [0.0, 1e-7])
@pytest.mark.parametrize(("last", "kept"), [(False, {0, 1, 3}), (True, {0, 3, 4})])
def test_what_is_certain_stays_and_ties_fall(near, last, kept):
    scores = torch.tensor([2.0, 1.0, 0.5, 1.0 - near, 1.0 + near])
    if not last:
        scores = torch.tensor([2.0, 1.0, 0.5, 1.0 + near, 1.0 - near])
    with ties_fall(last=last):
        for values, indices in (torch.topk(scores, 3), scores.topk(k=3, dim=0)):
            assert set(indices.tolist()) == kept
            assert values.tolist() == scores[indices].tolist() == sorted(values.tolist(), reverse=True)
    assert torch.topk(scores, 1).indices.tolist() == [0]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("largest", [False, True])
def test_without_ties_nothing_changes(last, largest):
    scores = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    wanted = torch.topk(scores, 4, dim=1, largest=largest)
    with ties_fall(last=last):
        found = torch.topk(scores, 4, dim=1, largest=largest)
    assert torch.equal(found.values, wanted.values)
    assert torch.equal(found.indices, wanted.indices)


def test_masked_scores_leave_the_others_alone():
    least = torch.finfo(torch.float32).min
    for masked in (least, -torch.inf):
        scores = torch.tensor([0.1, masked, 0.2, masked])
        with ties_fall(last=True):
            assert torch.topk(scores, 3).indices.tolist() == [2, 0, 3]
